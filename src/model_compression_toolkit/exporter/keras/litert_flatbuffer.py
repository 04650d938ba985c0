# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A LiteRT file taken apart, whose operators are written anew."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model_compression_toolkit.exporter.keras.litert_schema import VERSIONS, Code, Grid, Operator, TensorType, code_of

__all__ = ["Flatbuffer"]

Array = npt.NDArray[Any]


class Flatbuffer:
    """The parts of a file.

    Args:
        content: the file.
        input_names: names of the model's inputs, in their order.

    Attributes:
        schema: the classes of the parts, `tflite.OperatorT` and others.
        graph: the `tflite.SubGraphT`, with the operators that the file came with.
        tensors: all tensors; those that nothing refers to are left out of the result.
        operators: the operators of the result so far.
        users: by indices of tensors, the operators of `graph` that take them.
    """

    def __init__(self, content: bytes, input_names: Sequence[str]) -> None:
        from tensorflow.lite.tools import flatbuffer_utils

        self._flatbuffers = flatbuffer_utils
        self.schema = flatbuffer_utils.schema_fb
        self._model = flatbuffer_utils.convert_bytearray_to_object(content)
        self.graph = self._model.subgraphs[0]
        self.tensors: list[Any] = self.graph.tensors
        self.operators: list[Operator] = []
        for operator in self.graph.operators:
            # Read as arrays that cannot be written.
            operator.inputs = [int(index) for index in operator.inputs]
            operator.outputs = [int(index) for index in operator.outputs]
        self._order_ends(input_names)
        self.users = self._find_users()

    def replace_operators(self, operators: list[Operator], renamed: Mapping[int, int]) -> None:
        """Put others in the place of the operators that the file came with.

        Args:
            operators: the others.
            renamed: tensors that are now others.
        """
        self.graph.operators = operators
        self.graph.outputs = [renamed.get(int(index), int(index)) for index in self.graph.outputs]
        for signature in self._model.signatureDefs:
            for item in signature.outputs:
                item.tensorIndex = renamed.get(int(item.tensorIndex), int(item.tensorIndex))
        self.users = self._find_users()

    def content(self) -> bytes:
        """The file of `operators`; ends the work with this object."""
        self.graph.operators = self.operators
        self._drop_unused()
        # It speaks of the float operators.
        self._model.metadata = [item for item in self._model.metadata or [] if item.name != b"min_runtime_version"]
        return bytes(self._flatbuffers.convert_object_to_bytearray(self._model))

    def code(self, operator: Operator) -> Code | None:
        """Which operator it is; None for one that only runs in float."""
        return code_of(self._model, operator)

    def data(self, tensor: Any) -> Array | None:
        """Bytes of a constant, as uint8; None for a tensor that is computed."""
        data = self._model.buffers[tensor.buffer].data
        return None if data is None or not len(data) else np.frombuffer(bytes(data), np.uint8)

    def add(self, like: Any, grid: Grid, values: Array | None = None) -> int:
        """Append a tensor of codes.

        Args:
            like: the tensor whose name and shape it gets.
            grid: of its codes.
            values: what it holds; None for a tensor that is computed. A constant has the shape of its values.

        Returns:
            Its index.
        """
        tensor = copy.copy(like)
        tensor.type = TensorType.INT8
        tensor.buffer = 0
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = list(grid.scale)
        quantization.zeroPoint = [grid.zero_point] * len(grid.scale)
        quantization.quantizedDimension = grid.axis
        tensor.quantization = quantization
        if values is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            tensor.buffer = len(self._model.buffers)
            tensor.shape, tensor.shapeSignature = list(values.shape), None
            self._model.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def emit(self, operator: Operator, code: Code | None, version: int = 1) -> None:
        """Append an operator.

        Args:
            operator: with its inputs and outputs.
            code: which operator it is to be.
            version: of its kernel, at the least.

        Raises:
            ValueError: `code` is None.
        """
        if code is None:
            raise ValueError("Expected an operator that has a kernel of integers.")
        codes = self._model.operatorCodes
        if self.code(operator) is code:
            version = max(version, codes[operator.opcodeIndex].version)
        version = max(version, VERSIONS.get(code, 1))
        for index, item in enumerate(codes):
            if max(item.builtinCode, item.deprecatedBuiltinCode) == code and item.version == version:
                operator.opcodeIndex = index
                break
        else:
            item = self.schema.OperatorCodeT()
            item.builtinCode = item.deprecatedBuiltinCode = int(code)
            item.version = version
            operator.opcodeIndex = len(codes)
            codes.append(item)
        self.operators.append(operator)

    def _find_users(self) -> dict[int, list[Operator]]:
        users: dict[int, list[Operator]] = {}
        for operator in self.graph.operators:
            for index in set(operator.inputs):
                users.setdefault(index, []).append(operator)
        return users

    def _order_ends(self, input_names: Sequence[str]) -> None:
        """Inputs and outputs in the order of the model; the converter gives them any."""
        signature = self._model.signatureDefs[0]
        inputs = {item.name.decode(): int(item.tensorIndex) for item in signature.inputs}
        outputs = {item.name.decode(): int(item.tensorIndex) for item in signature.outputs}
        self.graph.inputs = [inputs[name] for name in input_names]
        self.graph.outputs = [outputs[f"output_{index}"] for index in range(len(outputs))]

    def _drop_unused(self) -> None:
        """Leave out the tensors, buffers and operator codes that nothing refers to any more."""
        ends = [*self.graph.inputs, *self.graph.outputs]
        used = {int(i) for o in self.operators for i in (*o.inputs, *o.outputs, *(o.intermediates or []))}
        place = _renumber(self.tensors, used | {int(i) for i in ends})
        self.graph.tensors = [self.tensors[index] for index in place]
        place[-1] = -1
        for operator in self.operators:
            operator.inputs = [place[int(index)] for index in operator.inputs]
            operator.outputs = [place[int(index)] for index in operator.outputs]
            operator.intermediates = [place[int(index)] for index in operator.intermediates or []]
        self.graph.inputs = [place[int(index)] for index in self.graph.inputs]
        self.graph.outputs = [place[int(index)] for index in self.graph.outputs]
        for signature in self._model.signatureDefs:
            for item in (*signature.inputs, *signature.outputs):
                item.tensorIndex = place[int(item.tensorIndex)]
        graphs = self._model.subgraphs
        tensors = [tensor for graph in graphs for tensor in graph.tensors]
        metadata = self._model.metadata or []
        # The first buffer is the empty one.
        buffers = _renumber(
            self._model.buffers, {0, *(tensor.buffer for tensor in tensors), *(item.buffer for item in metadata)}
        )
        self._model.buffers = [self._model.buffers[index] for index in buffers]
        for holder in (*tensors, *metadata):
            holder.buffer = buffers[holder.buffer]
        operators = [operator for graph in graphs for operator in graph.operators]
        codes = _renumber(self._model.operatorCodes, {operator.opcodeIndex for operator in operators})
        self._model.operatorCodes = [self._model.operatorCodes[index] for index in codes]
        for operator in operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]


def _renumber(items: Sequence[Any], used: set[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(index for index in range(len(items)) if index in used)}
