# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The functions of `keras.ops` in operators of ONNX, and the table of all that can be translated."""

from collections.abc import Mapping
from typing import Any

import keras

from model_compression_toolkit.core.keras.graph import Call
from model_compression_toolkit.exporter.keras.onnx_attention import ATTENTION, ATTENTION_ARGUMENTS
from model_compression_toolkit.exporter.keras.onnx_elementwise import ELEMENTWISE
from model_compression_toolkit.exporter.keras.onnx_images import IMAGES
from model_compression_toolkit.exporter.keras.onnx_layers import LAYERS
from model_compression_toolkit.exporter.keras.onnx_nested import recorded, wrapping_layers
from model_compression_toolkit.exporter.keras.onnx_normalizations import NORMALIZATIONS
from model_compression_toolkit.exporter.keras.onnx_products import PRODUCTS
from model_compression_toolkit.exporter.keras.onnx_recurrent import RECURRENT, RECURRENT_ARGUMENTS
from model_compression_toolkit.exporter.keras.onnx_reductions import REDUCTIONS
from model_compression_toolkit.exporter.keras.onnx_selection import SELECTIONS
from model_compression_toolkit.exporter.keras.onnx_shapes import SHAPES
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["FUNCTIONS", "translator_of"]


def translator_of(call: Call, operation: Any, arguments: Mapping[str, Any]) -> Translator:
    """What translates a call.

    Args:
        call: the call.
        operation: its layer, without the wrapper that quantizes its weights, or its function.
        arguments: what a layer takes besides its first input, by name; of a function its keyword arguments.

    Raises:
        ValueError: there is no translation of such a layer or function, or of this use of it.
    """
    kind = type(operation)
    if not isinstance(operation, keras.layers.Layer):
        found = FUNCTIONS.get(kind.__name__) if kind.__module__.partition(".")[0] == "keras" else None
        if found is None:
            raise ValueError(_unsupported(call, kind, "functions of `keras.ops`", sorted(FUNCTIONS)))
        return found
    found = _LAYERS.get(kind)
    if found is None:
        return _by_its_code
    known = ("training", *_ARGUMENTS.get(kind, ()))
    surplus = sorted(
        key for key, value in arguments.items() if key not in known and value is not None and value is not False
    )
    if surplus:
        raise ValueError(
            f"{call.name}, of class {kind.__name__}, cannot be exported to ONNX with the arguments {surplus}: "
            "call it with its inputs only, without masks."
        )
    return found


def _unsupported(call: Call, kind: type, what: str, supported: list[str]) -> str:
    return (
        f"{call.name}, of class {kind.__name__}, cannot be exported to ONNX. Supported {what}: {', '.join(supported)}. "
        "Build the model of these; a layer of your own as a function of tensors that calls them."
    )


def _by_its_code(site: Site) -> str | list[str]:
    """A layer that is not in the table, by the functions that it calls.

    Raises:
        ValueError: it does more than that, or has quantized weights.
    """
    kind = type(site.operation)
    refusal = _unsupported(site.call, kind, "layers", sorted(cls.__name__ for cls in _LAYERS))
    if site.quantizers:
        raise ValueError(f"{refusal} Its weights {sorted(site.quantizers)} are quantized: leave them in float.")
    try:
        return recorded(translator_of)(site)
    except ValueError as error:
        raise ValueError(f"{refusal} Reason: {error}") from error


# By the name of their class.
FUNCTIONS: dict[str, Translator] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SELECTIONS,
    **SHAPES,
    **NORMALIZATIONS,
    **IMAGES,
    **PRODUCTS,
}
_LAYERS = {**LAYERS, **ATTENTION, **RECURRENT, **wrapping_layers(translator_of)}
_ARGUMENTS = {**dict.fromkeys(ATTENTION, ATTENTION_ARGUMENTS), **dict.fromkeys(RECURRENT, RECURRENT_ARGUMENTS)}
