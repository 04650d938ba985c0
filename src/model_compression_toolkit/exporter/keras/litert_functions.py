# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of `keras.ops` in other ones, where Keras computes them with operators that LiteRT does not have."""

from collections.abc import Callable
from typing import Any

import keras

__all__ = ["convertible"]


def convertible(operation: Any) -> Callable[..., Any]:
    """A function of `keras.ops` as the converter takes it: the operation itself in most cases."""
    if isinstance(operation, keras.layers.Layer):
        return operation  # type: ignore[no-any-return]  # Keras has no types
    make = _FUNCTIONS.get(type(operation).__name__)
    replaced: Callable[..., Any] = operation if make is None else make(operation)
    return replaced


class _ExtremeIndex(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Keras compares bits, so that -0.0 is less than 0.0; the grids of activations have one zero."""

    def __init__(self, operation: Any, is_largest: bool) -> None:
        super().__init__()
        self.operation, self.is_largest = operation, is_largest

    def call(self, inputs: Any) -> Any:
        """The index along the axis of the operation, or into the whole tensor."""
        import tensorflow as tf

        axis, rank = self.operation.axis, len(inputs.shape)
        x = tf.reshape(inputs, [-1]) if axis is None else inputs
        function = tf.argmax if self.is_largest else tf.argmin
        index = function(x, axis=0 if axis is None else axis, output_type=tf.int32)
        if not self.operation.keepdims:
            return index
        return tf.reshape(index, [1] * rank) if axis is None else tf.expand_dims(index, axis)


def _roll(operation: Any) -> Callable[..., Any]:
    axis, shift = operation.axis, operation.shift
    if not isinstance(axis, int) or not isinstance(shift, int):
        whole: Callable[..., Any] = operation
        return whole

    def rolled(x: Any) -> Any:
        before: list[Any] = [slice(None)] * (axis % len(x.shape))
        parts = [x[(*before, slice(-shift, None))], x[(*before, slice(None, -shift))]]
        return keras.ops.concatenate(parts, axis=axis) if shift else x

    return rolled


# By the name of their class.
_FUNCTIONS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "Argmax": lambda operation: _ExtremeIndex(operation, is_largest=True),
    "Argmin": lambda operation: _ExtremeIndex(operation, is_largest=False),
    "Roll": _roll,
}
