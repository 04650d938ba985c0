# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds an exported ONNX file, run by ONNX Runtime on the CPU, against the Keras model that it was made from."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import packed_size
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.keras.graph import Call, Graph, Value, evaluated
from model_compression_toolkit.exporter.common.default_session import DefaultSession
from model_compression_toolkit.exporter.common.output_comparison import OutputComparison
from model_compression_toolkit.exporter.common.parity import Compared, ParityReport, TensorParity
from model_compression_toolkit.exporter.common.pieces import pieces_of
from model_compression_toolkit.exporter.common.sorted_table import sorted_table
from model_compression_toolkit.exporter.keras.disturbance import disturbed
from model_compression_toolkit.exporter.keras.onnx_export import ActivationRecord, Translation, translate
from model_compression_toolkit.exporter.keras.onnx_quantization import file_params
from model_compression_toolkit.exporter.keras.onnx_runs import OnnxFile
from model_compression_toolkit.exporter.keras.onnx_site import WeightRecord, as_array

__all__ = ["compare_onnx"]

Array = npt.NDArray[Any]
Batch = tuple[Array, ...]


def compare_onnx(model: keras.Model, path: Path, batches: Iterable[Batch]) -> ParityReport:
    """Compare a file with its model: every weight, every activation and the outputs, over all samples.

    Args:
        model: the frozen model; it is not changed.
        path: the file that was exported from it.
        batches: arrays in the order of the model's inputs; run in pieces of at most 64 samples.

    Raises:
        OSError: the file cannot be read.
        TypeError: `model` is no `keras.Model`.
        ValueError: the model cannot be exported, or the file does not take the inputs or has other outputs.
    """
    translation = translate(model)
    file = OnnxFile(path)
    replay = _Replay(translation.activations)
    plain, forced = OutputComparison(), OutputComparison()
    default = DefaultSession(lambda: _run(translation.graph, batch, disturbed))
    num_samples = 0
    for batch, count in track(_pieces(batches, file), "Comparing file and model"):
        num_samples += count
        run = file.run_plain(batch)
        expected = _run(translation.graph, batch)
        plain.compare(run.outputs, expected, count)
        default.compare(file.run_default(batch), expected, count)
        replay.codes = run.codes
        forced.compare(run.outputs, _run(translation.graph, batch, replay.quantize), count)
    tensors = tuple(_tensors(translation, file, replay))
    found = {tensor.name for tensor in tensors}
    names = [*translation.weights, *(record.name for record in translation.activations.values())]
    return ParityReport(
        tensors=tensors,
        num_samples=num_samples,
        file_size=path.stat().st_size,
        weight_bytes=sum(_packed_bytes(record) for record in translation.weights.values()),
        argmax_agreement=plain.agreement,
        default_session_argmax_agreement=default.outputs.agreement,
        max_output_difference=plain.largest,
        default_session_max_output_difference=default.outputs.largest,
        replayed_output_difference=forced.relative,
        default_session_error=default.outputs.error,
        default_session_tolerance=default.tolerance,
        not_compared=tuple(f"{name}, on which nothing in the file depends" for name in names if name not in found),
    )


@dataclass(slots=True)
class _Tally:
    """The differences of one activation in all batches so far."""

    num_elements: int = 0
    num_different: int = 0
    max_steps: int = 0
    excess: float = 0.0


@dataclass
class _Replay:
    """Quantizes to what a run of the file has instead of to the model's integers, and counts where these differ."""

    records: Mapping[str, ActivationRecord]
    codes: dict[str, Array] = field(default_factory=dict)
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def quantize(self, call: Call, x: Any) -> Any:
        """The file's value for this holder, compared with the model's; None for a call that quantizes nothing."""
        record = self.records.get(call.name)
        if record is None or record.name not in self.codes:
            # No holder, or the export has found that nothing depends on its value.
            return None
        theirs = self.codes[record.name]
        if record.axes is not None and theirs.ndim == len(record.axes):
            theirs = np.transpose(theirs, record.axes)
        values = as_array(x)
        if theirs.shape != values.shape:
            raise ValueError(
                f"The file must be exported from `model`. Received: a file with {record.name} of shape {theirs.shape}, "
                f"which the model has in shape {values.shape}"
            )
        tally, params = self.tallies.setdefault(record.name, _Tally()), record.params
        if isinstance(params, LookupTable):
            _add(tally, *_index_differences(values, theirs, params))
            arrays = sorted_table(params, theirs.ndim)
            return keras.ops.convert_to_tensor(arrays.levels[theirs] * arrays.threshold)
        _add(tally, *_integer_differences(values, theirs, params))
        scale = _aligned(params.scale.astype(np.float32), params.axis, theirs.ndim)
        return keras.ops.convert_to_tensor(theirs.astype(np.float32) * scale)


def _integer_differences(x: Array, centered: Array, params: QuantParams) -> tuple[Array, Array]:
    """How many integers, and how many steps beyond a tie, the file is away from the model at each element."""
    zero_point = _aligned(params.zero_point, params.axis, x.ndim)
    low, high = params.quant_min - zero_point, params.quant_max - zero_point
    position = x / _aligned(params.scale.astype(np.float32), params.axis, x.ndim)
    farthest = float(params.quant_max - params.quant_min)
    # NaN has no code in the file: as far away as can be.
    steps = np.nan_to_num(np.abs(np.clip(np.round(position), low, high) - centered), nan=farthest)
    distance = np.nan_to_num(np.abs(np.clip(position, low, high) - centered), nan=farthest) - 0.5
    return steps, distance


def _index_differences(x: Array, indices: Array, table: LookupTable) -> tuple[Array, Array]:
    """The same of indices into the sorted table, in steps as wide as those of a grid of as many bits."""
    arrays = sorted_table(table, x.ndim)
    position = x / arrays.divisor
    steps = np.abs(np.searchsorted(arrays.boundaries, position, side="right") - indices)
    ends = np.concatenate([[-np.inf], arrays.boundaries, [np.inf]])
    outside = np.maximum(ends[indices] - position, position - ends[indices + 1])
    # NaN is as far away as can be.
    distance = np.nan_to_num(outside * 2.0 ** (table.num_bits - table.signed), nan=2.0**table.num_bits)
    return np.where(np.isnan(position), len(arrays.levels), steps), distance


def _add(tally: _Tally, steps: Array, distance: Array) -> None:
    different = steps > 0
    tally.num_elements += steps.size
    tally.num_different += int(different.sum())
    tally.max_steps = max(tally.max_steps, int(steps.max(initial=0)))
    tally.excess = max(tally.excess, float(distance[different].max(initial=0.0)))


def _run(graph: Graph, batch: Batch, quantize: Callable[[Call, Any], Any] | None = None) -> list[Array]:
    """The outputs of the model, call by call; where `quantize` gives a value it is the result of the call."""
    inputs = keras.tree.flatten(graph.inputs)
    values: dict[Value, Any] = {
        value: keras.ops.convert_to_tensor(item, value.dtype) for value, item in zip(inputs, batch, strict=True)
    }

    def filled(structure: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: values[leaf] if isinstance(leaf, Value) else leaf, structure)

    for call in graph.calls:
        replaced = None if quantize is None else quantize(call, values[call.inputs[0]])
        if replaced is None:
            replaced = call.operation(*filled(call.args), **evaluated(call.operation, filled(call.kwargs)))
        values.update(zip(call.outputs, keras.tree.flatten(replaced), strict=True))
    return [as_array(values[value]) for value in keras.tree.flatten(graph.outputs)]


def _tensors(translation: Translation, file: OnnxFile, replay: _Replay) -> Iterator[TensorParity]:
    """Every quantized tensor of the file, in the order of execution."""
    done: set[str] = set()
    for call in translation.graph.calls:
        for record in translation.weights.values():
            is_of_call = record.path == call.path and record.name not in done
            if is_of_call and record.name in file.codes:
                done.add(record.name)
                yield _weight_parity(record, file)
        activation = translation.activations.get(call.name)
        if activation is not None and activation.name in replay.tallies:
            tally = replay.tallies[activation.name]
            yield TensorParity(
                name=activation.name,
                target=QuantizationTarget.Activation,
                num_bits=activation.params.num_bits,
                num_elements=tally.num_elements,
                num_different=tally.num_different,
                max_steps=tally.max_steps,
                near_tie_excess=tally.excess,
                grid_differs=not file.has_activation_params(activation.name, activation.params, activation.axes),
                compared=_compared(activation.params),
            )


def _weight_parity(record: WeightRecord, file: OnnxFile) -> TensorParity:
    """A weight of the file against the integers of the model's quantizer, computed by the backend."""
    values = keras.ops.convert_to_tensor(record.variable)
    expected, params = as_array(record.quantizer.quantize(values)).astype(np.int32), record.params
    if isinstance(params, LookupTable):
        # Positions in the user's table become indices into the sorted one, with each level once.
        expected = np.unique(params.lut_values, return_inverse=True)[1].astype(np.int32)[expected]
    else:
        expected = expected - _aligned(params.zero_point, params.axis, expected.ndim)
    expected, stored = record.layout(expected), file.codes[record.name]
    same_shape = stored.shape == expected.shape
    steps = np.abs(expected - stored) if same_shape else np.full(expected.shape, params.num_bits)
    in_file = file_params(params, tuple(record.variable.shape), record.layout)
    return TensorParity(
        name=record.name,
        target=QuantizationTarget.Weights,
        num_bits=params.num_bits,
        num_elements=steps.size,
        num_different=int(np.count_nonzero(steps)),
        max_steps=int(steps.max(initial=0)),
        grid_differs=not (same_shape and file.has_weight_params(record.name, in_file, expected.ndim)),
        compared=_compared(params),
    )


def _compared(params: QuantParams | LookupTable) -> Compared:
    return Compared.INDICES if isinstance(params, LookupTable) else Compared.INTEGERS


def _packed_bytes(record: WeightRecord) -> int:
    table = 4 * len(record.params.lut_values) if isinstance(record.params, LookupTable) else 0
    return packed_size(int(np.prod(record.variable.shape)), record.params.num_bits) + table


def _pieces(batches: Iterable[Batch], file: OnnxFile) -> Iterator[tuple[Batch, int]]:
    """Batches of a size that the file takes, each with the number of samples that matter."""
    for items in batches:
        if len(items) != len(file.input_dtypes):
            raise ValueError(
                f"A batch must be a tuple of {len(file.input_dtypes)} arrays, one for each input of the file. "
                f"Received: {len(items)}"
            )
        batch = tuple(np.asarray(item).astype(dtype) for item, dtype in zip(items, file.input_dtypes, strict=True))
        yield from pieces_of(batch, file.batch_size)


def _aligned(vector: Array, axis: int | None, rank: int) -> Array:
    return vector.reshape(broadcast_shape(rank, axis))
