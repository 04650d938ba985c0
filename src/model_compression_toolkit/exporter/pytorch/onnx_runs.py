# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the integers and the grids of an exported file, and runs it in ONNX Runtime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.core.pytorch.data import Batch
from model_compression_toolkit.exporter.common.bias import same_scales
from model_compression_toolkit.exporter.common.sorted_table import search_constants, sorted_table, table_constants
from model_compression_toolkit.exporter.pytorch.graph_editing import CODES, VALUES

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What a file computed for a batch.

    Attributes:
        outputs: the model's outputs.
        quantized: what stands for the values of every use of a quantized tensor, by name of the use: on a grid integers
            less their zero points, int32; of a table indices, int32; for a quantizer of the user's own the values.
    """

    outputs: list[Array]
    quantized: dict[str, Array]


class OnnxFile:
    """An exported file, with a session as the engine comes and one without optimizations that shows the integers.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        model = onnx.load(path)
        self.constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        self.output_names = [value.name for value in model.graph.output]
        self._model = model

    def open_sessions(self) -> None:
        """Start the engine."""
        self._default = onnxruntime.InferenceSession(self.path, _quiet_options(), providers=["CPUExecutionProvider"])
        plain = _quiet_options()
        plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        shown = onnx.ModelProto()
        shown.CopyFrom(self._model)
        types = {tensor.name: tensor.data_type for tensor in shown.graph.initializer}
        for node in shown.graph.node:
            name, data_type = node.output[0], None
            if node.op_type == "QuantizeLinear":
                data_type = types[node.input[2]]
            elif name.endswith((CODES, VALUES)):
                data_type = TensorProto.INT32 if name.endswith(CODES) else TensorProto.FLOAT
            if data_type is not None:
                shown.graph.output.append(onnx.helper.make_tensor_value_info(name, data_type, None))
        self._plain = onnxruntime.InferenceSession(shown.SerializeToString(), plain, providers=["CPUExecutionProvider"])

    @property
    def batch_size(self) -> int | None:
        """The only batch size that the file takes; None if it takes any."""
        shape = next((value.shape for value in self._default.get_inputs() if value.shape), None)
        return shape[0] if shape and isinstance(shape[0], int) else None

    def run_default(self, batch: Batch) -> list[Array]:
        """Outputs of a session as the engine comes."""
        outputs: list[Array] = self._default.run(None, self._feeds(batch))
        return outputs

    def run_plain(self, batch: Batch) -> Run:
        """Outputs and integers of a session without optimizations, so with float arithmetic between the quantizers."""
        names = [value.name for value in self._plain.get_outputs()]
        results = dict(zip(names, self._plain.run(None, self._feeds(batch)), strict=True))
        return Run([results[name] for name in self.output_names], self.quantized(results))

    def quantized(self, computed: dict[str, Array]) -> dict[str, Array]:
        """What `Run.quantized` holds, of every constant and of the computed values that are given."""
        values = self.constants | computed
        result = {name.removesuffix(VALUES): array for name, array in values.items() if name.endswith(VALUES)}
        for name, array in values.items():
            if name.endswith(CODES):
                result[name.removesuffix(CODES)] = np.asarray(array).astype(np.int32)
        for node in self.nodes:
            if node.op_type == "DequantizeLinear" and node.input[0] in values:
                codes, zero_point = (np.asarray(values[name], np.int32) for name in (node.input[0], node.input[2]))
                aligned = zero_point.reshape(broadcast_shape(codes.ndim, _axis(node)))
                result[node.input[0].removesuffix(CODES)] = np.asarray(
                    codes - aligned
                )  # not a number where it has no axis
        return result

    def has_params(self, use: str, tensor: TensorPlan) -> bool:
        """Whether the constants of a use of a tensor are those of its plan; integers of activations may be shifted."""
        params = tensor.params
        if isinstance(params, LookupTable):
            return self._has_table(use, params, len(tensor.site.shape))
        if params is None:
            return True
        for node in self.nodes:
            if use + CODES in (*node.input, *node.output):
                scale, zero_point = (self.constants[name].reshape(-1) for name in node.input[1:3])
                zero_points = (params.zero_point, params.zero_point - min(params.quant_min, 0))
                if not self._has_scale(use, scale, params):
                    return False
                if not any(np.array_equal(zero_point.astype(np.int32), expected) for expected in zero_points):
                    return False
        return True

    def _has_scale(self, use: str, scale: Array, params: QuantParams) -> bool:
        expected = params.scale.astype(np.float32)
        if use + CODES not in self.constants:
            return np.array_equal(scale, expected)
        return same_scales(scale, expected, self.quantized({})[use], params.axis)

    def _has_table(self, use: str, table: LookupTable, rank: int) -> bool:
        arrays = sorted_table(table, rank)
        expected = table_constants(arrays)
        if use + CODES not in self.constants:
            expected |= search_constants(arrays)
        found = {name: self.constants.get(f"{use}/{name}") for name in expected}
        return all(
            value is not None and np.array_equal(value.reshape(-1), expected[name].reshape(-1), equal_nan=True)
            for name, value in found.items()
        )

    def _feeds(self, batch: Batch) -> dict[str, Array]:
        names = [value.name for value in self._default.get_inputs()]
        return {name: item.numpy() for name, item in zip(names, batch, strict=True)}


def _quiet_options() -> Any:
    """Errors only, and threads that sleep; what is computed stays the default."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin while they wait take the processor from torch, which runs in turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _axis(node: Any) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
