# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which arguments of a Keras operation have to keep their values, and what matters of it for masks and divisors."""

import keras
import numpy as np

from model_compression_toolkit.core.common.argument_readings import neutral_name, readings_of, traits_of
from model_compression_toolkit.core.common.operation import Reading, Trait, is_sentinel
from model_compression_toolkit.core.keras.graph import Call, Value


def readings_of_call(call: Call) -> dict[Value, Reading]:
    """How a call reads those of its arguments that have to keep their values."""
    name = _name(call)
    found = readings_of(name, call.args, call.kwargs)
    if name == "cast" and not keras.backend.is_float_dtype(keras.backend.standardize_dtype(call.operation.dtype)):
        found.append((call.inputs[0], Reading.INTEGER))
    return {item: reading for item, reading in reversed(found) if isinstance(item, Value)}


def traits_of_call(call: Call) -> Trait:
    """What else matters of a call."""
    traits = traits_of(_name(call), call.args, call.kwargs)
    constants = [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if keras.ops.is_tensor(leaf)]
    constants += [leaf for leaf in keras.tree.flatten((call.args, call.kwargs)) if isinstance(leaf, np.ndarray)]
    if Trait.SUM in traits and constants:
        # An array that is added: where a softmax follows, a mask.
        traits |= Trait.MASKING
    if Trait.MASKING in traits and any(_has_sentinel(constant) for constant in constants):
        traits |= Trait.SENTINEL
    return traits


def _has_sentinel(constant: object) -> bool:
    values = keras.ops.convert_to_numpy(constant)
    return bool(values.size) and any(is_sentinel(float(end)) for end in (values.min(), values.max()))


def _name(call: Call) -> str:
    """The neutral name of an operation of Keras; empty for the user's own."""
    operation = call.operation
    if isinstance(operation, keras.layers.Activation):
        return neutral_name(getattr(operation.activation, "__name__", ""))
    is_own = type(operation).__module__.partition(".")[0] != "keras"
    return "" if is_own else neutral_name(type(operation).__name__)
