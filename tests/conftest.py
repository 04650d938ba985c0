# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that hold for every test."""

import os

import pytest
from hypothesis import settings

# derandomize: a run says the same thing twice. deadline: machines are shared, time is no property of the code.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("project")

# Tables are as wide as a terminal, and tests read them whole.
os.environ["COLUMNS"] = "160"


# First: pytest leaves out what is slow in the same step.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is slow on the backend of the day counts as slow."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    for item in items:
        if any(backend in mark.args for mark in item.iter_markers("slow_on")):
            item.add_marker(pytest.mark.slow)
