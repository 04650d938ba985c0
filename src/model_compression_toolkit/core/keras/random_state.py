# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The random numbers of the user's program."""

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give back the state from which Keras draws the seeds of new layers; works as a decorator too."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
