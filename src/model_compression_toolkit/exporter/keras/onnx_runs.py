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
from onnx import helper, numpy_helper

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.exporter.common.bias import same_scales
from model_compression_toolkit.exporter.common.sorted_table import search_constants, sorted_table, table_constants
from model_compression_toolkit.exporter.keras.onnx_quantization import CODES, shifted

__all__ = ["OnnxFile", "Run"]

Array = npt.NDArray[Any]

_INDEX_MAKERS = ("Add", "Cast")
"""The operators of which the last step of a search is one."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a file computed for a batch.

    Attributes:
        outputs: the model's outputs.
        codes: integers of every computed quantized tensor less their zero points, of one on a table its indices,
            int32, by name of the tensor.
    """

    outputs: list[Array]
    codes: dict[str, Array]


class OnnxFile:
    """An exported file, with a session as the engine comes and one without optimizations that shows the integers.

    Args:
        path: the file.

    Attributes:
        codes: integers of every constant quantized tensor less their zero points, of one on a table its indices,
            int32, by name of the tensor.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        self._constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._dequantizers = {
            node.input[0].removesuffix(CODES): node
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0].endswith(CODES)
        }
        self.codes = {
            name.removesuffix(CODES): self._centered(name.removesuffix(CODES), array)
            for name, array in self._constants.items()
            if name.endswith(CODES)
        }
        self._output_names = [value.name for value in model.graph.output]
        self._default = onnxruntime.InferenceSession(path, _quiet_options(), providers=["CPUExecutionProvider"])
        plain = _quiet_options()
        plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                info = helper.make_tensor_value_info(node.output[0], types[node.input[2]], None)
                model.graph.output.append(info)
            elif node.op_type in _INDEX_MAKERS and node.output[0].endswith(CODES):
                info = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT32, None)
                model.graph.output.append(info)
        self._plain = onnxruntime.InferenceSession(model.SerializeToString(), plain, providers=["CPUExecutionProvider"])

    @property
    def batch_size(self) -> int | None:
        """The only batch size that the file takes; None if it takes any."""
        shape = next((value.shape for value in self._default.get_inputs() if value.shape), None)
        return shape[0] if shape and isinstance(shape[0], int) else None

    @property
    def input_dtypes(self) -> list[Any]:
        """Type of each input."""
        words = {"float": "float32", "double": "float64"}
        types = [value.type.removeprefix("tensor(").removesuffix(")") for value in self._default.get_inputs()]
        return [np.dtype(words.get(word, word)) for word in types]

    def run_default(self, batch: tuple[Array, ...]) -> list[Array]:
        """Outputs of a session as the engine comes."""
        outputs: list[Array] = self._default.run(None, self._feeds(batch))
        return outputs

    def run_plain(self, batch: tuple[Array, ...]) -> Run:
        """Outputs and integers of a session without optimizations, so with float arithmetic between the quantizers."""
        names = [value.name for value in self._plain.get_outputs()]
        results = dict(zip(names, self._plain.run(None, self._feeds(batch)), strict=True))
        codes = {
            name.removesuffix(CODES): self._centered(name.removesuffix(CODES), array)
            for name, array in results.items()
            if name.endswith(CODES)
        }
        return Run([results[name] for name in self._output_names], codes)

    def has_weight_params(self, name: str, params: QuantParams | LookupTable, rank: int) -> bool:
        """Whether the file has a grid or table, in the layout of the file, for a weight with `rank` axes."""
        if isinstance(params, LookupTable):
            return self._has_table(name, table_constants(sorted_table(params, rank)))
        return self._has_grid(name, params, params.zero_point, params.axis)

    def has_activation_params(self, name: str, params: QuantParams | LookupTable, axes: tuple[int, ...] | None) -> bool:
        """Whether the file has the grid or table of an activation, whose axes lie there in the order `axes`."""
        if isinstance(params, LookupTable):
            arrays = sorted_table(params, 0)
            return self._has_table(name, {**table_constants(arrays), **search_constants(arrays)})
        axis = params.axis if params.axis is None or axes is None else axes[params.axis]
        return self._has_grid(name, params, shifted(params)[2], axis)

    def _has_table(self, name: str, constants: dict[str, Array]) -> bool:
        found = {key: self._constants.get(f"{name}/{key}") for key in constants}
        return all(
            array is not None and np.array_equal(array, constants[key], equal_nan=True) for key, array in found.items()
        )

    def _has_grid(self, name: str, params: QuantParams, zero_point: Array, axis: int | None) -> bool:
        node = self._dequantizers.get(name)
        if node is None:
            return False
        scale, stored = (self._constants[key].reshape(-1) for key in node.input[1:3])
        expected, codes = params.scale.astype(np.float32), self.codes.get(name)
        return (
            (np.array_equal(scale, expected) if codes is None else same_scales(scale, expected, codes, axis))
            and np.array_equal(stored.astype(np.int32), zero_point)
            and _axis(node) == axis
        )

    def _centered(self, name: str, codes: Array) -> Array:
        node = self._dequantizers.get(name)
        if node is None:
            return np.asarray(codes, np.int32)
        zero_point = self._constants[node.input[2]].astype(np.int32)
        centered = np.asarray(codes, np.int32) - zero_point.reshape(broadcast_shape(codes.ndim, _axis(node)))
        # Without axes NumPy would make a number of it.
        return np.asarray(centered)

    def _feeds(self, batch: tuple[Array, ...]) -> dict[str, Array]:
        return {value.name: item for value, item in zip(self._default.get_inputs(), batch, strict=True)}


def _quiet_options() -> Any:
    """Errors only, and threads that sleep; what is computed stays the default."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin while they wait take the processor from the backend, which runs in turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _axis(node: Any) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
