# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import importlib.util

import pytest


@pytest.fixture(autouse=True)
def one_seed():
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.manual_seed(0)
