# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that hold for every test."""

from hypothesis import settings

# derandomize: a run says the same thing twice. deadline: machines are shared, time is no property of the code.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("project")
