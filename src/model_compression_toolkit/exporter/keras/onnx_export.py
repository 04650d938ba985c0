# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen Keras model as standard ONNX, translated call by call: the same file from every backend of Keras."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import onnx

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.keras.graph import Call, Graph, Value, by_name
from model_compression_toolkit.core.keras.reading import graph_of, is_functional
from model_compression_toolkit.core.keras.sublayers import sublayers
from model_compression_toolkit.core.keras.surgery import names_of, plan_of
from model_compression_toolkit.exporter.common.inspect import plan_metadata
from model_compression_toolkit.exporter.keras.onnx_builder import OPSET, OnnxBuilder
from model_compression_toolkit.exporter.keras.onnx_operators import translator_of
from model_compression_toolkit.exporter.keras.onnx_quantization import activation, params_of
from model_compression_toolkit.exporter.keras.onnx_site import Site, WeightRecord, Weights
from model_compression_toolkit.exporter.onnx_biases import separate_biases

__all__ = ["OPSET", "ActivationRecord", "Translation", "export_onnx", "translate"]


@dataclass(frozen=True, slots=True)
class ActivationRecord:
    """A quantized activation of the file.

    Attributes:
        name: `layer.output`, with a number for each further quantizer of the same tensor.
        params: its grid or table.
        axes: the order of the axes in the file; None where it is that of the model.
    """

    name: str
    params: QuantParams | LookupTable
    axes: tuple[int, ...] | None


@dataclass(slots=True)
class Translation:
    """A model in operators of ONNX.

    Attributes:
        model: the checked ONNX model.
        graph: the calls of the Keras model.
        weights: the quantized weights that the file has, by name.
        activations: the quantized activations, by the name of the call that quantizes them.
    """

    model: onnx.ModelProto
    graph: Graph
    weights: dict[str, WeightRecord]
    activations: dict[str, ActivationRecord]


def export_onnx(model: keras.Model, plan: QuantizationPlan | None = None) -> onnx.ModelProto:
    """Export a frozen model to standard ONNX, opset 21, without custom operators. The batch size stays open.

    Weights become INT4, INT8 or INT16 (or unsigned) initializers with the codes of the NumPy reference, those on the
    levels of a table indices into it; activations UINT8 or UINT16, on a table indices that a search finds. Tensors of
    images keep the order of axes that they have in Keras at the inputs and outputs of the model; in between ONNX has
    channels first.

    Args:
        model: a functional or sequential model, whose weights and activations are quantized with inferable quantizers;
            in float32. It is not changed.
        plan: what the file tells of its quantization.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: the model is no functional model, is still trained, or has something that has no translation.
    """
    return translate(model, plan).model


def translate(model: keras.Model, plan: QuantizationPlan | None = None) -> Translation:
    """What `export_onnx` returns, and what a comparison needs besides.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: as `export_onnx`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not is_functional(model):
        raise ValueError(
            "`model` must be a functional model or a built sequential one, of which Keras has recorded the calls. "
            f"Received: {type(model).__name__}; make it one with keras.Model(inputs, outputs)"
        )
    return _Translator(graph_of(model), _planned_names(model)).run({} if plan is None else plan_metadata(plan))


@dataclass(slots=True)
class _Translator:
    graph: Graph
    planned: Mapping[tuple[str, str], str]
    builder: OnnxBuilder = field(default_factory=OnnxBuilder)
    weights: Weights = field(default_factory=Weights)
    activations: dict[str, ActivationRecord] = field(default_factory=dict)
    names: dict[Value, str] = field(default_factory=dict)

    def run(self, metadata: Mapping[str, str]) -> Translation:
        for name, value in zip(self.graph.input_names, keras.tree.flatten(self.graph.inputs), strict=True):
            _check_dtype(value, name)
            self.names[value] = self.builder.add_input(name, value.dtype, value.shape)
        titles = {value: name for name, value in self.graph.values()}
        for call in self.graph.calls:
            for value in call.outputs:
                _check_dtype(value, call.name)
            if isinstance(call.operation, KerasActivationQuantizationHolder):
                results: str | list[str] = self._quantized(call, titles)
            else:
                results = self._translated(call)
            for value, result in zip(call.outputs, [results] if isinstance(results, str) else results, strict=True):
                self.names[value] = result
        outputs = keras.tree.flatten(self.graph.outputs)
        public = _output_names(self.graph.outputs)
        ends = [
            (self.names[value], name, value.dtype, value.shape) for name, value in zip(public, outputs, strict=True)
        ]
        # Whether layers have to keep their biases apart depends on all the grids of the model.
        grids = [params for call in self.graph.calls for params in _params(call) if isinstance(params, QuantParams)]

        def edit(graph: onnx.GraphProto) -> None:
            if grids:
                separate_biases(graph, of_integers=any(grid.num_bits < 8 for grid in grids))

        model = self.builder.finish(ends, metadata, self.graph.name, edit)
        return Translation(model, self.graph, self.weights.records, self.activations)

    def _translated(self, call: Call) -> str | list[str]:
        operation, quantizers, arguments = call.operation, {}, call.kwargs
        if isinstance(operation, keras.layers.Layer):
            arguments = by_name(operation, call.args, call.kwargs)
        if isinstance(operation, KerasQuantizationWrapper):
            _check_names_weights(call)
            arguments = {**operation.op_call_kwargs, **arguments}
            operation, quantizers = operation.layer, dict(operation.weights_quantizers)
        translator = translator_of(call, operation, arguments)
        if isinstance(operation, keras.layers.Layer):
            _check_layer(call, operation)
        site = Site(self.builder, call, operation, quantizers, self.names, self.weights, self.planned, arguments)
        result = translator(site)
        absent = [key for key in quantizers if site.tensor_name(key) not in self.weights.records]
        if absent:
            site.refuse(f"a quantizer of {absent}", "Quantize its kernels only, and leave its biases in float.")
        return result

    def _quantized(self, call: Call, titles: Mapping[Value, str]) -> str:
        holder = call.operation
        x = call.inputs[0]
        name = self.planned.get((call.path, ""), f"{titles[x]}.output")
        if getattr(holder, "quantization_bypass", False):
            return self.names[x]
        taken = {record.name for record in self.activations.values()}
        count, use = 1, name
        while use in taken:
            count, use = count + 1, f"{name}:{count + 1}"
        params = params_of(holder.activation_holder_quantizer, use)
        result = activation(self.builder, self.names[x], params, use)
        self.activations[call.name] = ActivationRecord(use, params, self.builder.view(result)[1])
        return result


def _output_names(outputs: Any) -> list[str]:
    """`output`, or `output_0`, `output_1`, …; the keys of outputs that have some."""
    paths = [path for path, _ in keras.tree.flatten_with_path(outputs)]
    if isinstance(outputs, dict):
        names = ["_".join(map(str, path)) for path in paths]
        if len(set(names)) == len(names):
            return names
    return ["output"] if len(paths) == 1 else [f"output_{index}" for index in range(len(paths))]


def _planned_names(model: keras.Model) -> dict[tuple[str, str], str]:
    """Names of the quantized tensors in the plan of the model, by layer and weight, or by holder; none without a plan.

    A plan names the layers of the model that was quantized, in which nested models are not opened yet.
    """
    try:
        plan, names = plan_of(model), names_of(model)
    except ValueError:
        return {}
    return {
        (names[tensor.name], tensor.site.tensor if tensor.is_weight else ""): tensor.name for tensor in plan.quantized()
    }


def _params(call: Call) -> list[QuantParams | LookupTable]:
    operation = call.operation
    if isinstance(operation, KerasQuantizationWrapper):
        items = operation.weights_quantizers.items()
        return [params_of(quantizer, f"{call.path}.{key}") for key, quantizer in items]
    if isinstance(operation, KerasActivationQuantizationHolder):
        return [params_of(operation.activation_holder_quantizer, call.name)]
    return []


def _check_dtype(value: Value, name: str) -> None:
    if value.dtype in ("float16", "bfloat16", "float64"):
        raise ValueError(
            f"The model must compute in float32 to be exported to ONNX. Received: {name} in {value.dtype}. "
            "Make the model with the dtype policy 'float32'."
        )


def _check_names_weights(call: Call) -> None:
    wrapper: Any = call.operation
    if wrapper.weight_values or wrapper.op_call_args:
        raise ValueError(
            f"{call.name} cannot be exported to ONNX: it wraps a function, or a layer with `op_call_args`. "
            "Supported: layers whose weights are named, with arguments by name."
        )


def _check_layer(call: Call, layer: keras.layers.Layer) -> None:
    if keras.backend.standardize_dtype(layer.compute_dtype) != "float32":
        raise ValueError(
            f"The model must compute in float32 to be exported to ONNX. Received: {call.name} in {layer.compute_dtype}."
            " Make the model with the dtype policy 'float32'."
        )
    parts = [layer, *(inner for _, inner in sublayers(layer))]
    if any(getattr(part, "quantization_mode", None) or getattr(part, "lora_enabled", False) for part in parts):
        raise ValueError(
            f"{call.name} cannot be exported to ONNX: Keras itself has quantized it, or given it LoRA weights. "
            "Start from the model before `quantize` or `enable_lora`."
        )
