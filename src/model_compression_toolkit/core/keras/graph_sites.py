# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a captured graph could be quantized, and why the others need not or cannot be."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.operation import Kind, Operation
from model_compression_toolkit.core.common.operation_graph import OperationGraph, float_weight_site
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.keras.exact_arguments import readings_of_call, traits_of_call
from model_compression_toolkit.core.keras.graph import Call, Graph, Value
from model_compression_toolkit.core.keras.operators import (
    has_activation,
    kind_of,
    type_of,
    weight_axes,
    weight_of,
    weight_problem,
)


class GraphSites:
    """The tensors of a functional model; see `OperationGraph`.

    Args:
        graph: its calls.
        shapes: shape of each floating-point tensor for one batch.
    """

    def __init__(self, graph: Graph, shapes: Mapping[Value, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._results: dict[Value, Operation] = {}
        self._steps: list[tuple[Call | None, Operation]] = []
        for name, value in zip(graph.input_names, keras.tree.flatten(graph.inputs), strict=True):
            operation = Operation(name, Kind.OTHER, "input", shape=shapes.get(value), is_input=True)
            self._add(None, operation, value)
        for call in graph.calls:
            self._add_call(call)
        outputs = dict.fromkeys(keras.tree.flatten(graph.outputs))
        sources = list(dict.fromkeys(self._results[value] for value in outputs))
        self._steps.append((None, Operation("output", Kind.OTHER, "output", sources, is_output=True)))
        self._graph = OperationGraph(operation for _, operation in self._steps)

    def sites(self, config: QuantizationConfig) -> Iterator[TensorSite]:
        """Every weight and every floating-point tensor, in the order of execution."""
        seen: set[str] = set()
        for call, operation in self._steps:
            if call is not None and call.path not in seen and isinstance(call.operation, keras.layers.Layer):
                seen.add(call.path)
                yield from weight_sites(call.path, call.operation, operation in self._graph.end_layers)
            if operation.shape is not None:
                yield self._graph.activation_site(operation, config)

    def _add_call(self, call: Call) -> None:
        kind = kind_of(call)
        sources = list(dict.fromkeys(self._results[value] for value in call.inputs))
        operation = Operation(
            layer=call.name,
            kind=kind,
            type=type_of(call),
            sources=sources,
            shape=self._shapes.get(call.outputs[0]) if len(call.outputs) == 1 else None,
            is_lookup=isinstance(call.operation, keras.layers.Embedding),
            has_activation=has_activation(call.operation),
            readings={self._results[value]: way for value, way in readings_of_call(call).items()},
            traits=traits_of_call(call),
        )
        if len(call.outputs) == 1:
            self._add(call, operation, call.outputs[0])
            return
        self._steps.append((call, operation))
        part = kind if kind is Kind.PRESERVING else Kind.OTHER
        for value in call.outputs:
            name = f"{call.name}[{value.index}]"
            self._add(None, Operation(name, part, "getitem", [operation], self._shapes.get(value)), value)

    def _add(self, call: Call | None, operation: Operation, value: Value) -> None:
        self._steps.append((call, operation))
        self._results[value] = operation


def weight_sites(path: str, layer: Any, near_end: bool, problem: str = "") -> Iterator[TensorSite]:
    """The weights of a layer: those that have a rule, and matrices that have none and stay in float.

    Args:
        path: name of the layer.
        layer: the layer, built.
        near_end: whether it is a first or last layer.
        problem: why its weights stay in float; empty when they need not.
    """
    axes = weight_axes(layer)
    for name, axis in axes.items():
        shape = tuple(weight_of(layer, name).shape)
        yield TensorSite(
            layer=path,
            tensor=name,
            target=QuantizationTarget.Weights,
            type=type(layer).__name__,
            shape=shape,
            channel_axis=axis % len(shape),
            first_or_last=near_end,
            reason=problem or weight_problem(layer),
        )
    if not axes:
        for variable in layer.weights:
            if len(variable.shape) > 1:
                name = variable.path.removeprefix(f"{layer.path}/")
                yield float_weight_site(path, name, type(layer).__name__, tuple(variable.shape))
