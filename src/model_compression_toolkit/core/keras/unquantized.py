# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The proof that what was assembled is the user's model: with its quantizers off it computes what that does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from mct_quantizers.common.wrapped_weights import WeightKey
from mct_quantizers.keras import ops
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.reference_outputs import ReferenceOutputs
from model_compression_toolkit.core.keras.layer_state import preserved_seeds


def check_assembled(model: keras.Model, reference: ReferenceOutputs, run: Callable[[keras.Model], list[Any]]) -> None:
    """Compare an assembled model, its quantizers off, with the user's.

    Args:
        model: the assembled model; it stays as it is.
        reference: what the user's model computes on a sample.
        run: runs a model on the sample.

    Raises:
        ValueError: it computes something else.
    """
    with preserved_seeds(model), unquantized(model):
        outputs = run(model)
    reference.check_assembled(outputs, model.compute_dtype)


@contextmanager
def unquantized(model: keras.Model) -> Iterator[None]:
    """For a while, the wrappers and holders of a model quantize nothing."""
    holders = [layer for layer in model._flatten_layers() if isinstance(layer, KerasActivationQuantizationHolder)]
    wrappers = [layer for layer in model._flatten_layers() if isinstance(layer, KerasQuantizationWrapper)]
    # Past Keras, which would keep a list of what it sees.
    try:
        for holder in holders:
            object.__setattr__(holder, "call", _unchanged)
        for wrapper in wrappers:
            object.__setattr__(wrapper, "_quantized", _float_weight_of(wrapper))
        yield
    finally:
        for layer, name in [*((holder, "call") for holder in holders), *((item, "_quantized") for item in wrappers)]:
            if name in vars(layer):
                object.__delattr__(layer, name)


def _unchanged(inputs: Any, training: bool | None = None) -> Any:
    del training
    return inputs


def _float_weight_of(wrapper: KerasQuantizationWrapper) -> Callable[[WeightKey, bool], Any]:
    weights = {key: weight for key, weight, _ in wrapper.get_weights_vars()}
    return lambda key, training: keras.ops.cast(ops.as_tensor(weights[key]), wrapper.layer.compute_dtype)
