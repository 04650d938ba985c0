# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tests a backend of Keras runs by default; JAX compiles every program anew, and that is what they wait for."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def few_on_jax(values: Iterable[Any], few: Sequence[Any], name: Any = str) -> list[Any]:
    """Values of a parameter, of which JAX takes few by default and the other backends all.

    Args:
        values: the values.
        few: the names of those for JAX.
        name: tells the name of a value.
    """
    slow = pytest.mark.slow_on("jax")
    return [pytest.param(value, marks=() if name(value) in few else slow) for value in values]
