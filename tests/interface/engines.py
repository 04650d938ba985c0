# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The engines that must give the same numbers: both wings, eager and compiled. Keras runs on the backend of the day."""

import importlib.util
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

Run = Callable[[Sequence[Callable[[Any], Any]], np.ndarray], list[np.ndarray]]
"""Applies several functions of one tensor to an array; results as float32 or float64 arrays."""

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
# Without Keras the directory tests/keras is found, a package without a file.
_has_keras = getattr(importlib.util.find_spec("keras"), "origin", None) is not None
needs_keras = pytest.mark.skipif(not _has_keras, reason="keras is not installed")
WINGS = [
    pytest.param("pytorch", marks=needs_torch),
    pytest.param("keras", marks=[needs_keras, pytest.mark.keras]),
]
ENGINES = [
    pytest.param("pytorch", marks=needs_torch),
    pytest.param("pytorch compiled", marks=needs_torch),
    pytest.param("keras", marks=[needs_keras, pytest.mark.keras]),
    pytest.param("keras compiled", marks=[needs_keras, pytest.mark.keras]),
]


def quantizers_of(engine: str) -> Any:
    """The module with the quantizer classes of the engine's wing."""
    import mct_quantizers

    return mct_quantizers.pytorch_quantizers if engine.startswith("pytorch") else mct_quantizers.keras_quantizers


def run_on(engine: str, functions: Sequence[Callable[[Any], Any]], x: np.ndarray, dtype: str = "float32") -> Any:
    """Results of `functions` of `x`, given in `dtype`, as float32 arrays."""
    if engine.startswith("pytorch"):
        return _run_torch(functions, x, dtype, engine.endswith("compiled"))
    return _run_keras(functions, x, dtype, engine.endswith("compiled"))


def _run_torch(functions: Any, x: np.ndarray, dtype: str, is_compiled: bool) -> list[np.ndarray]:
    import torch

    def together(tensor: Any) -> list[Any]:
        return [function(tensor) for function in functions]

    call = compiled_torch(together) if is_compiled else together
    outputs = call(torch.from_numpy(x).to(getattr(torch, dtype)))
    assert all(str(output.dtype) == f"torch.{dtype}" for output in outputs)
    return [output.float().numpy() for output in outputs]


def _run_keras(functions: Any, x: np.ndarray, dtype: str, is_compiled: bool) -> list[np.ndarray]:
    import keras

    def together(tensor: Any) -> list[Any]:
        return [function(tensor) for function in functions]

    call = compiled_keras(together) if is_compiled else together
    outputs = call(keras.ops.cast(keras.ops.convert_to_tensor(x), dtype))
    assert all(keras.backend.standardize_dtype(output.dtype) == dtype for output in outputs)
    return [keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")) for output in outputs]


def compiled_keras(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as the backend's own compiler makes it."""
    import keras

    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(function)
    return compiled_torch(function)


def compiled_torch(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as torch's default compiler makes it; it needs a C++ compiler."""
    import torch

    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    # Many functions share one piece of code here: without it torch takes them for one that is compiled again and again.
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True)

    def call(*args: Any) -> Any:
        with warnings.catch_warnings():
            # torch's own compiler uses what torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            return compiled(*args)

    return call
