# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`TimeDistributed`: the layer inside, for which each step is a sample of its own."""

import dataclasses

from keras import layers

from model_compression_toolkit.core.keras.graph import Call, Value
from model_compression_toolkit.exporter.keras.onnx_layers import LAYERS
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["TIME_DISTRIBUTED"]

_INNER = "layer."
"""What the names of the inner layer's weights begin with."""


def _time_distributed(site: Site) -> str:
    inner, shape, result = site.operation.layer, site.first.shape, site.result.shape
    translate = LAYERS.get(type(inner))
    if translate is None:
        supported = sorted(cls.__name__ for cls in LAYERS)
        site.refuse(f"a layer of class {type(inner).__name__} inside", f"Supported: {', '.join(supported)}")
    if None in (*shape[1:], *result[1:]):
        site.refuse(f"an input of shape {shape}", "Give it a fixed size.")
    steps = Value((None, *shape[2:]), site.first.dtype)
    call = Call(site.name, site.call.path, inner, (steps,), {})
    call.outputs = [Value((None, *result[2:]), site.result.dtype, call)]
    names = {steps: site.reshape(site.x, [-1, *_sizes(shape[2:])])}
    quantizers = {key.removeprefix(_INNER): quantizer for key, quantizer in site.quantizers.items()}
    of_step = dataclasses.replace(
        site, call=call, operation=inner, quantizers=quantizers, names=names, arguments={}, prefix=_INNER
    )
    y = translate(of_step)
    return site.reshape(y if isinstance(y, str) else y[0], [-1, *_sizes(result[1:])])


def _sizes(shape: tuple[int | None, ...]) -> list[int]:
    return [size for size in shape if size is not None]


TIME_DISTRIBUTED: dict[type, Translator] = {layers.TimeDistributed: _time_distributed}
