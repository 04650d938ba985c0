# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import pytest

torch = pytest.importorskip("torch")
# Test processes run side by side; threads of their own would only fight for the cores.
torch.set_num_threads(1)
