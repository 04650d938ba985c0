# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The Keras twin of the namespace of tensor functions (`mct_quantizers.common.ops.Ops`), over `keras.ops`."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from mct_quantizers.common import arithmetic

Tensor = Any
_BACKEND = keras.config.backend()
COMPILES_CALLS = _BACKEND == "jax"
"""Whether a single call is worth compiling: JAX does so for any shape as a matter of course."""
_HALF_PRECISION = ("float16", "bfloat16")


def as_tensor(x: Any) -> Tensor:
    """`x` as a tensor of the backend; a variable is read here, and once.

    TensorFlow passes variables on as they are and reads them in every operation anew. In a graph of a training step
    one of these reads may come after the optimizer's assignment.
    """
    x = keras.ops.convert_to_tensor(x)
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(x)
    return x


def check_floating_point(x: Tensor) -> None:
    """`x` holds floating-point numbers.

    Raises:
        TypeError: it does not.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise TypeError(f"Expected a tensor of floating-point numbers. Received: dtype {dtype}")


def to_compute_dtype(x: Tensor) -> Tensor:
    """See `Ops.to_compute_dtype`; NumPy arrays become tensors."""
    x = as_tensor(x)
    check_floating_point(x)
    return keras.ops.cast(x, "float32") if keras.backend.standardize_dtype(x.dtype) in _HALF_PRECISION else x


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """See `Ops.cast_like`."""
    return keras.ops.cast(x, keras.backend.standardize_dtype(like.dtype))


def to_integer(x: Tensor) -> Tensor:
    """See `Ops.to_integer`; not inside a compiled function, where no value can be looked at."""
    if bool(keras.ops.any(keras.ops.isnan(x))):
        raise ValueError("Expected a tensor without NaN: no integer stands for it.")
    return keras.ops.cast(x, "int32")


def constant(value: Any, like: Tensor) -> Tensor:
    """See `Ops.constant`."""
    dtype = "float64" if keras.backend.standardize_dtype(like.dtype) == "float64" else "float32"
    # A copy: torch warns of NumPy arrays that cannot be written to.
    value = np.array(value)
    if _BACKEND == "torch":
        import torch

        # torch.compile cannot look into Keras's own conversion of arrays.
        return torch.as_tensor(value, dtype=getattr(torch, dtype), device=like.device)
    return keras.ops.convert_to_tensor(value, dtype=dtype)


def shape(x: Tensor) -> Sequence[int]:
    """See `Ops.shape`; None for an axis whose length is not known yet."""
    return tuple(x.shape)


def size(x: Tensor) -> Any:
    """See `Ops.size`."""
    if None not in x.shape:
        return math.prod(x.shape)
    return keras.ops.cast(keras.ops.size(x), "float32")


def sample_size(x: Tensor) -> Any:
    """See `Ops.sample_size`."""
    if None not in x.shape[1:]:
        return math.prod(x.shape[1:])
    return keras.ops.cast(math.prod(keras.ops.shape(x)[1:]), "float32")


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """See `Ops.reshape`."""
    return keras.ops.reshape(x, tuple(shape))


def divide(x: Tensor, y: Tensor) -> Tensor:
    """See `Ops.divide`."""
    if not isinstance(y, float) and (_BACKEND == "jax" or (_BACKEND == "tensorflow" and not is_concrete(x))):
        # TensorFlow and XLA turn a division by a constant, XLA even one by anything that is broadcast, into a product
        # with the inverse, which gives other codes at some points. A divisor that depends on every element of `x` is
        # left alone; where `x` is NaN, so is the result.
        y = keras.ops.where(keras.ops.isnan(x), keras.ops.ones_like(y), y)
    return keras.ops.divide(x, y)


def round(x: Tensor) -> Tensor:
    """See `Ops.round`."""
    return keras.ops.round(x)


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """See `Ops.clip`."""
    return keras.ops.clip(x, low, high)


def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """See `Ops.where`."""
    return keras.ops.where(condition, x, y)


def absolute(x: Tensor) -> Tensor:
    """See `Ops.absolute`."""
    return keras.ops.absolute(x)


def maximum(x: Tensor, low: float) -> Tensor:
    """See `Ops.maximum`."""
    # Keras's own function makes torch's float64 a float32.
    return keras.ops.clip(x, low, float("inf"))


def frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `Ops.frexp`; of normal numbers, read from their bits."""
    double = keras.backend.standardize_dtype(x.dtype) == "float64"
    integer, fraction_bits, bias = ("int64", 52, 1022) if double else ("int32", 23, 126)
    bits = keras.ops.view(x, integer)
    exponent_mask = (2 * bias + 3) << fraction_bits
    exponent = keras.ops.right_shift(keras.ops.bitwise_and(bits, exponent_mask), fraction_bits) - bias
    half = keras.ops.bitwise_or(keras.ops.bitwise_and(bits, ~exponent_mask), bias << fraction_bits)
    return keras.ops.view(half, "float64" if double else "float32"), exponent


def search_sorted(boundaries: Tensor, x: Tensor) -> Tensor:
    """See `Ops.search_sorted`."""
    if not is_concrete(x):
        # XLA puts NaN below all boundaries, everything else puts it above.
        x = keras.ops.where(keras.ops.isnan(x), float("inf"), x)
    # TensorFlow searches for vectors only.
    found = keras.ops.searchsorted(boundaries, keras.ops.reshape(x, (-1,)), side="right")
    return keras.ops.reshape(found, keras.ops.shape(x))


def take(values: Tensor, indices: Tensor) -> Tensor:
    """See `Ops.take`; no index is negative."""
    # Keras's own function first looks for negative indices, which takes three more tensors.
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.gather(values, indices)
    if _BACKEND == "torch":
        return values.index_select(0, indices.reshape(-1)).view(indices.shape)
    return keras.ops.take(values, indices)


def floor(x: Tensor) -> Tensor:
    """See `Ops.floor`."""
    return keras.ops.floor(x)


def exp(x: Tensor) -> Tensor:
    """See `Ops.exp`."""
    return keras.ops.exp(x)


def log(x: Tensor) -> Tensor:
    """See `Ops.log`."""
    return keras.ops.log(x)


def tanh(x: Tensor) -> Tensor:
    """See `Ops.tanh`."""
    return keras.ops.tanh(x)


def sort(x: Tensor) -> Tensor:
    """See `Ops.sort`."""
    return keras.ops.sort(x)


def total(x: Tensor) -> Tensor:
    """See `Ops.total`."""
    return keras.ops.sum(x)


def largest(x: Tensor, axis: int | None) -> Tensor:
    """See `Ops.largest`."""
    axes = arithmetic.other_axes(len(x.shape), axis)
    # torch.compile cannot look into Keras's own function.
    return x.amax(dim=axes, keepdim=True) if _BACKEND == "torch" else keras.ops.max(x, axis=axes, keepdims=True)


def scale_gradient_by_error(x: Tensor, error: Tensor, factor: float) -> Tensor:
    """See `Ops.scale_gradient_by_error`."""

    @keras.ops.custom_gradient  # type: ignore[untyped-decorator]  # Keras has no types
    def identity(x: Tensor, error: Tensor) -> Any:
        def gradient(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, Tensor]:
            # Backends differ in how they hand it over.
            g = args[0] if upstream is None else upstream
            return g + factor * keras.ops.absolute(g) * error, keras.ops.zeros_like(error)

        return keras.ops.multiply(x, 1), gradient

    # TensorFlow's own gradients refuse a variable; the product is a tensor.
    return identity(keras.ops.multiply(x, 1), error)


def stop_gradient(x: Tensor) -> Tensor:
    """See `Ops.stop_gradient`."""
    return keras.ops.stop_gradient(x)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, gradient_factor: Any
) -> Tensor:
    """See `Ops.fake_quantize_learned`: PyTorch has a kernel for it, the compilers of the others fuse the formula."""
    own = sys.modules[__name__]
    values = to_compute_dtype(x)
    if _BACKEND == "torch":
        from mct_quantizers.pytorch import kernels

        tensors = (as_tensor(scale), None if zero_point is None else as_tensor(zero_point))
        return cast_like(kernels.fake_quantize_learned(values, *tensors, quant_min, quant_max, gradient_factor), x)
    result = arithmetic.fake_quantize_learned(values, scale, zero_point, quant_min, quant_max, gradient_factor, own)
    return cast_like(result, x)


def compiled(function: Callable[..., Tensor], static_argument: str) -> Callable[..., Tensor]:
    """`function`, compiled for each value of `static_argument` where the backend `COMPILES_CALLS`, or itself."""
    if COMPILES_CALLS:
        import jax

        result: Callable[..., Tensor] = jax.jit(function, static_argnames=static_argument)
        return result
    return function


def is_concrete(x: Tensor) -> bool:
    """Whether `x` holds values now, and is no stand-in of a function that is being compiled."""
    if _BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.executing_eagerly())
    if _BACKEND == "jax":
        import jax

        return not isinstance(x, jax.core.Tracer)
    if _BACKEND == "torch":
        import torch

        return not torch.compiler.is_compiling() and x.device.type != "meta" and not x.is_inference()
    return True


def snapshot(x: Tensor) -> Tensor:
    """What `is_unchanged` needs to know of `x`, a tensor that `is_concrete`."""
    # JAX never writes into an array.
    return x if _BACKEND == "jax" else keras.ops.copy(x)


def is_unchanged(x: Tensor, snapshot: Tensor) -> bool:
    """Whether `x` is as it was at its snapshot."""
    if _BACKEND == "jax":
        return x is snapshot
    if x.shape != snapshot.shape or x.dtype != snapshot.dtype:
        return False
    return bool(keras.ops.all(keras.ops.equal(x, snapshot)))
