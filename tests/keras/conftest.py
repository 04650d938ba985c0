# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Keras on the backend that KERAS_BACKEND names; what the tests of the wing share."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_spec = importlib.util.find_spec("keras")
# This directory alone is found too, as a package without a file of its own, where Keras is not installed.
if _spec is None or _spec.origin is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import keras

    BACKEND = keras.config.backend()
    if BACKEND == "torch":
        import torch

        # Test processes run side by side; threads of their own would only fight for the cores.
        torch.set_num_threads(1)

    def _compiled(function: Callable[..., Any], is_whole: bool = True) -> Callable[..., Any]:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            return tf.function(function, jit_compile=True)
        if BACKEND == "jax":
            import jax

            return jax.jit(function)
        torch.compiler.reset()
        # What torch's default compiler computes is held in tests/interface; this one sees the same and takes a tenth of
        # the time.
        traced = torch.compile(function, fullgraph=is_whole, backend="eager")

        def call(*args: Any) -> Any:
            with warnings.catch_warnings():
                # Keras looks up result types in cached functions, and torch's compiler says that it looks through them.
                warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
                return traced(*args)

        return call

    def _as_numpy(x: Any) -> np.ndarray:
        if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
            x = keras.ops.cast(x, "float32")
        return np.asarray(keras.ops.convert_to_numpy(x))

    def _gradients(function: Callable[..., Any], *inputs: Any) -> list[np.ndarray]:
        """Gradients of the sum of `function(*inputs)` to each input."""
        if BACKEND == "tensorflow":
            import tensorflow as tf

            variables = [tf.Variable(each) for each in inputs]
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(function(*(tf.convert_to_tensor(each) for each in variables)))
            found = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [each.numpy() for each in found]
        if BACKEND == "jax":
            import jax

            found = jax.grad(lambda *args: function(*args).sum(), argnums=tuple(range(len(inputs))))(
                *(jax.numpy.asarray(each) for each in inputs)
            )
            return [np.asarray(each) for each in found]
        tensors = [torch.tensor(each, requires_grad=True) for each in inputs]
        total = function(*tensors).sum()
        if not total.requires_grad:
            return [np.zeros_like(each) for each in inputs]
        found = torch.autograd.grad(total, tensors, allow_unused=True)
        return [
            np.zeros_like(given) if each is None else each.numpy() for each, given in zip(found, inputs, strict=True)
        ]

    @pytest.fixture
    def compiled() -> Callable[..., Callable[..., Any]]:
        """Makes a function of tensors one that the backend compiles; with `is_whole=False` torch may do so in parts."""
        return _compiled

    @pytest.fixture
    def as_numpy() -> Callable[[Any], np.ndarray]:
        """Values of a tensor; bfloat16 as float32."""
        return _as_numpy

    @pytest.fixture
    def gradients() -> Callable[..., list[np.ndarray]]:
        """Gradients of the sum of a function to each of its inputs, which are arrays; zero where none flows."""
        return _gradients

    @pytest.fixture
    def assert_same_values() -> Callable[[Any, np.ndarray], None]:
        """Equal numbers of one dtype and shape; the sign of zero does not count, as engines clip it in several ways."""

        def check(actual: Any, expected: np.ndarray) -> None:
            ours = _as_numpy(actual)
            assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(ours, expected)

        return check

    @pytest.fixture
    def assert_same_bits() -> Callable[[Any, np.ndarray], None]:
        """Equal to the last bit, the sign of zero included; any NaN equals any NaN."""

        def check(actual: Any, expected: np.ndarray) -> None:
            ours = _as_numpy(actual)
            assert (ours.dtype, ours.shape) == (expected.dtype, expected.shape)
            integer = {2: np.int16, 4: np.int32, 8: np.int64}[ours.dtype.itemsize]
            same = (ours.view(integer) == expected.view(integer)) | (np.isnan(ours) & np.isnan(expected))
            assert same.all(), (ours[~same][:5], expected[~same][:5], int((~same).sum()))

        return check
