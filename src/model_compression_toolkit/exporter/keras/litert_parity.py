# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds an exported LiteRT file, run by its interpreter on the CPU, against the model that it was made from."""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.packing import packed_size
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.graph import Call, Graph, Value, evaluated
from model_compression_toolkit.core.keras.surgery import names_of, plan_of
from model_compression_toolkit.exporter.common.default_session import DefaultSession
from model_compression_toolkit.exporter.common.output_comparison import OutputComparison
from model_compression_toolkit.exporter.common.parity import ParityReport, TensorParity
from model_compression_toolkit.exporter.keras.disturbance import disturbed
from model_compression_toolkit.exporter.keras.litert_export import checked_graph
from model_compression_toolkit.exporter.keras.litert_schema import (
    INT8_MIN,
    PRESERVING,
    PRODUCTS,
    Code,
    TensorType,
    code_of,
)
from model_compression_toolkit.exporter.keras.litert_storage import activation_params, is_bypassed, weight_name

__all__ = ["compare_litert"]

Array = npt.NDArray[Any]

_PIECE = 64


def compare_litert(model: keras.Model, path: Path, batches: Iterable[Batch]) -> ParityReport:
    """Compare a file with its model: every weight, every quantized activation and the outputs, over all samples.

    Codes of activations are compared with the interpreter's reference kernels. These hold a bias in steps of the
    integer accumulator, multiply the sum by `m · 2**-k`, 1/2 <= m < 1, and round after `m` and after `2**-k`, so that a
    code may differ up to `2**-(k + 1) + m · 2**-k / 2` steps beyond a tie. A tensor's `near_tie_excess` is what goes
    beyond that.

    Args:
        model: the frozen model; it is not changed. Needs the TensorFlow backend.
        path: the file that was exported from it.
        batches: inputs; run in pieces of at most 64 samples.

    Raises:
        OSError: the file cannot be read.
        TypeError: `model` is no `keras.Model`.
        ValueError: the model cannot be exported, the file is no LiteRT file or has not its inputs and outputs.
    """
    graph = checked_graph(model)
    content = Path(path).read_bytes()
    plain, default = _LiteRTFile(content, path, is_plain=True), _LiteRTFile(content, path, is_plain=False)
    for file in (plain, default):
        file.check_ends(len(graph.inputs), len(graph.outputs))
    replay = _Replay(plain)
    free_outputs, replayed_outputs = OutputComparison(), OutputComparison()
    default_session = DefaultSession(lambda: _run(graph, batch, _disturbed))
    num_samples = 0
    for batch in track(_pieces(batches), "Comparing file and model"):
        num_samples += len(batch[0])
        expected = _run(graph, batch, lambda call, x: call.operation(x))
        received = plain.run(batch)
        free_outputs.compare(received, expected, len(batch[0]))
        default_session.compare(default.run(batch), expected, len(batch[0]))
        replayed_outputs.compare(received, _run(graph, batch, replay.quantize), len(batch[0]))
    weights = list(_weights_of(graph, plain))
    tensors = [*weights, *(tally.report() for tally in replay.tallies.values())]
    found = {tensor.name for tensor in tensors}
    absent = [name for name in _names_of(graph) if name not in found]
    sizes = [packed_size(tensor.num_elements, tensor.num_bits) for tensor in weights]
    planned = _planned_names(model)
    return ParityReport(
        tensors=tuple(dataclasses.replace(tensor, name=planned.get(tensor.name, tensor.name)) for tensor in tensors),
        num_samples=num_samples,
        file_size=len(content),
        weight_bytes=sum(sizes),
        argmax_agreement=free_outputs.agreement,
        default_session_argmax_agreement=default_session.outputs.agreement,
        max_output_difference=free_outputs.largest,
        default_session_max_output_difference=default_session.outputs.largest,
        replayed_output_difference=replayed_outputs.relative,
        default_session_error=default_session.outputs.error,
        default_session_tolerance=default_session.tolerance,
        not_compared=tuple(f"{planned.get(name, name)}, which the file does not hold" for name in absent),
    )


def _disturbed(call: Call, x: Any) -> Any:
    noisy = disturbed(call, x)
    return call.operation(x) if noisy is None else noisy


class _LiteRTFile:
    """A file in an interpreter.

    Args:
        content: the file.
        path: its name, for errors.
        is_plain: whether to run the reference kernels and keep all tensors, or to run it as it comes.
    """

    def __init__(self, content: bytes, path: Path, is_plain: bool) -> None:
        import tensorflow as tf

        kinds = tf.lite.experimental.OpResolverType
        # Some operators, such as ELU, have no reference kernel.
        resolvers = [kinds.BUILTIN_REF, kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES] if is_plain else [kinds.AUTO]
        try:
            self._interpreter = _interpreter(content, resolvers, is_plain)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"Expected a LiteRT file. Received: {path}. Reason: {error}") from error
        self._path = path
        self._shapes: list[tuple[int, ...]] = []
        details = self._interpreter.get_tensor_details()
        self.allowances = _allowances(content)
        self._of_int8 = {item["name"]: item for item in details if item["dtype"] is np.int8}

    def check_ends(self, num_inputs: int, num_outputs: int) -> None:
        """Check that the file has the model's inputs and outputs.

        Raises:
            ValueError: it has another number of them.
        """
        ends = len(self._interpreter.get_input_details()), len(self._interpreter.get_output_details())
        if ends != (num_inputs, num_outputs):
            raise ValueError(
                f"Expected a file with the model's {num_inputs} inputs and {num_outputs} outputs. "
                f"Received: {self._path} with {ends[0]} and {ends[1]}"
            )

    def run(self, batch: Batch) -> list[Array]:
        """The outputs."""
        inputs = self._interpreter.get_input_details()
        shapes = [item.shape for item in batch]
        if shapes != self._shapes:
            for item, shape in zip(inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(item["index"], shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for item, value in zip(inputs, batch, strict=True):
            self._interpreter.set_tensor(item["index"], value.astype(item["dtype"]))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(item["index"]) for item in self._interpreter.get_output_details()]

    def codes(self, name: str) -> Array | None:
        """Codes of a tensor, of the last run."""
        item = self._of_int8.get(name)
        return None if item is None else self._interpreter.get_tensor(item["index"])

    def grid(self, name: str) -> tuple[Array, Array, int]:
        """Scales, zero points and their axis."""
        grid = self._of_int8[name]["quantization_parameters"]
        return grid["scales"], grid["zero_points"], grid["quantized_dimension"]


def _interpreter(content: bytes, resolvers: Sequence[Any], keeps_tensors: bool) -> Any:
    """An interpreter with the first set of kernels that has all operators of a file."""
    import tensorflow as tf

    for resolver in resolvers:
        with warnings.catch_warnings():
            # The interpreter will move to a package of its own.
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
            try:
                return tf.lite.Interpreter(
                    model_content=content,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=keeps_tensors,
                )
            except ValueError as error:
                if resolver is resolvers[-1] or "Didn't find op" not in str(error):
                    raise
    raise ValueError("Expected at least one set of kernels.")


@dataclass
class _Tally:
    """What was seen of an activation so far."""

    name: str
    params: QuantParams
    grid_differs: bool
    num_elements: int = 0
    num_different: int = 0
    max_steps: int = 0
    excess: float = 0.0
    allowance: float = 0.0

    def add(self, x: Array, codes: Array) -> None:
        """Compare the file's integers, less the zero point, with what the model makes of `x`."""
        low, high = (end - int(self.params.zero_point[0]) for end in (self.params.quant_min, self.params.quant_max))
        position = x / np.float32(self.params.scale[0])
        # NaN has no code in the file: as far away as can be.
        steps = np.nan_to_num(np.abs(np.round(position).clip(low, high) - codes), nan=float(high - low))
        distance = np.nan_to_num(np.abs(position.clip(low, high) - codes), nan=float(high - low)) - 0.5
        different = steps > 0
        self.num_elements += steps.size
        self.num_different += int(different.sum())
        self.max_steps = max(self.max_steps, int(steps.max(initial=0)))
        self.excess = max(self.excess, float(distance[different].max(initial=0.0)))

    def report(self) -> TensorParity:
        """The whole comparison."""
        return TensorParity(
            name=self.name,
            target=QuantizationTarget.Activation,
            num_bits=self.params.num_bits,
            num_elements=self.num_elements,
            num_different=self.num_different,
            max_steps=self.max_steps,
            near_tie_excess=max(self.excess - self.allowance, 0.0),
            grid_differs=self.grid_differs,
        )


@dataclass
class _Replay:
    """Gives each holder's users what a run of the file has instead of the holder's own integers, and counts."""

    file: _LiteRTFile
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def quantize(self, call: Call, x: Any) -> Any:
        """The file's values for this call."""
        codes = self.file.codes(call.name)
        if codes is None:
            return call.operation(x)
        params = activation_params(call)
        scales, zero_points, _ = self.file.grid(call.name)
        if call.name not in self.tallies:
            shifted = int(params.zero_point[0]) + INT8_MIN - params.quant_min
            same = scales.tolist() == params.scale.tolist() and zero_points.tolist() == [shifted]
            allowance = self.file.allowances.get(call.name, 0.0)
            self.tallies[call.name] = _Tally(call.name, params, grid_differs=not same, allowance=allowance)
        value = keras.ops.convert_to_numpy(x)
        centered = _in_order_of(value / scales[0], codes.astype(np.int32) - int(zero_points[0]))
        self.tallies[call.name].add(value, centered)
        return keras.ops.convert_to_tensor(centered.astype(np.float32) * np.float32(scales[0]))


def _allowances(content: bytes) -> dict[str, float]:
    """By how many steps the kernels of products round beyond ties, by names of the tensors that hold the results."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    graph = model.subgraphs[0]
    found: dict[int, float] = {}
    for operator in graph.operators:
        code = code_of(model, operator)
        inputs = [graph.tensors[int(index)] for index in operator.inputs]
        if code in PRODUCTS and graph.tensors[int(operator.outputs[0])].type == TensorType.INT8:
            data, weight = inputs[PRODUCTS[code].data], inputs[PRODUCTS[code].weight]
            result = graph.tensors[int(operator.outputs[0])]
            multipliers = data.quantization.scale[0] * weight.quantization.scale / result.quantization.scale[0]
            # Of m · 2**exponent.
            exponents = np.frexp(multipliers)[1]
            rounding = np.where(exponents < 0, 2.0 ** (exponents - 1), 0.0) + multipliers / 2
            found[int(operator.outputs[0])] = float(rounding.max())
        elif code in PRESERVING or code is Code.MINIMUM:
            source = int(operator.inputs[PRESERVING.get(code, 0)])
            found.update(dict.fromkeys(map(int, operator.outputs), found.get(source, 0.0)))
    return {graph.tensors[index].name.decode(): allowance for index, allowance in found.items()}


def _weights_of(graph: Graph, file: _LiteRTFile) -> Iterator[TensorParity]:
    seen = set()
    for call in _wrappers(graph):
        for key, value in call.operation.get_quantized_weights().items():
            name = weight_name(call, key)
            codes = file.codes(name)
            if codes is None or name in seen:
                continue
            seen.add(name)
            num_bits = call.operation.weights_quantizers[key].params.num_bits
            yield _compare_weight(name, keras.ops.convert_to_numpy(value), codes, file.grid(name), num_bits)


def _compare_weight(
    name: str, values: Array, codes: Array, grid: tuple[Array, Array, int], num_bits: int
) -> TensorParity:
    """Compare with the values that the model computes with, in whichever order of axes the file has them."""
    scales, zero_points, axis = grid
    shape = [1] * codes.ndim
    if len(scales) > 1:
        shape[axis] = -1
    scale = np.broadcast_to(scales.reshape(shape), codes.shape)
    centered = codes.astype(np.int32) - zero_points.reshape(shape)
    best: tuple[int, int, bool] | None = None
    for order in itertools.permutations(range(values.ndim)):
        ours = values.transpose(order).reshape(codes.shape)
        steps = np.abs(np.round(ours / scale) - centered)
        same_values = np.array_equal(ours, centered.astype(np.float32) * scale)
        found = int(np.count_nonzero(steps)), int(steps.max(initial=0)), not same_values
        best = found if best is None else min(best, found)
        if best == (0, 0, False):
            break
    different, largest, differs = best or (0, 0, False)
    return TensorParity(
        name=name,
        target=QuantizationTarget.Weights,
        num_bits=num_bits,
        num_elements=values.size,
        num_different=different,
        max_steps=largest,
        grid_differs=differs,
    )


def _in_order_of(position: Array, codes: Array) -> Array:
    """Codes with their axes in the order of the model: the converter may move a transpose before a holder.

    As they are, where no order makes them agree.
    """
    for order in itertools.permutations(range(position.ndim)):
        transposed = position.transpose(order)
        ours = codes.reshape(transposed.shape).transpose(np.argsort(order))
        # Saturated values lie beyond the codes of all others.
        inside = (ours > codes.min(initial=0)) & (ours < codes.max(initial=0))
        if (np.abs(position - ours)[inside] < 2).all():
            return ours
    return codes.reshape(position.shape)


def _run(graph: Graph, batch: Batch, quantize: Callable[[Call, Any], Any]) -> list[Array]:
    """The outputs of the model, each holder's result made by `quantize`."""
    values: dict[Value, Any] = {
        value: keras.ops.convert_to_tensor(item, dtype=value.dtype)
        for value, item in zip(graph.inputs, batch, strict=True)
    }
    holders = {call.name for call in _holders(graph)}

    def filled(structure: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: values[leaf] if isinstance(leaf, Value) else leaf, structure)

    for call in graph.calls:
        if call.name in holders:
            results = [quantize(call, *filled(call.args))]
        else:
            keywords: Mapping[str, Any] = evaluated(call.operation, filled(call.kwargs))
            results = keras.tree.flatten(call.operation(*filled(call.args), **keywords))
        values.update(zip(call.outputs, results, strict=True))
    return [keras.ops.convert_to_numpy(values[value]) for value in graph.outputs]


def _holders(graph: Graph) -> list[Call]:
    return [
        call
        for call in graph.calls
        if isinstance(call.operation, KerasActivationQuantizationHolder) and not is_bypassed(call.operation)
    ]


def _wrappers(graph: Graph) -> list[Call]:
    return [call for call in graph.calls if isinstance(call.operation, KerasQuantizationWrapper)]


def _names_of(graph: Graph) -> list[str]:
    """Names in the file of all quantized tensors."""
    weights = (weight_name(call, key) for call in _wrappers(graph) for key in call.operation.weights_quantizers)
    return list(dict.fromkeys((*weights, *(call.name for call in _holders(graph)))))


def _planned_names(model: keras.Model) -> dict[str, str]:
    """Names in the model's plan, by those in the file; none for a model that was quantized without a plan."""
    try:
        plan = plan_of(model)
    except ValueError:
        return {}
    layers = names_of(model)
    return {
        f"{layers[tensor.name]}.{tensor.site.tensor}" if tensor.is_weight else layers[tensor.name]: tensor.name
        for tensor in plan.quantized()
    }


def _pieces(batches: Iterable[Batch]) -> Iterator[Batch]:
    for items in batches:
        arrays = tuple(np.asarray(item) for item in items)
        for start in range(0, len(arrays[0]), _PIECE):
            yield tuple(item[start : start + _PIECE] for item in arrays)
