# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph under construction, which moves transpositions behind what does not care for the order of axes.

Keras keeps channels last, the operators of ONNX want them first. Each of them is written with a transposition in front
and one behind. A value that is a transposition of another one is known to be so: an operator of single elements is
applied to the other one and its result transposed, and a transposition of a transposition is one, or none. What nothing
reads in the end is removed. So a network of convolutions transposes its inputs and outputs only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OPSET", "OnnxBuilder", "element_type"]

Array = npt.NDArray[Any]

OPSET = 21
"""The first with QuantizeLinear and DequantizeLinear of 4 and 16 bits."""
_IR_VERSION = 10


class OnnxBuilder:
    """Nodes and constants, in the order in which they are added.

    Attributes:
        nodes: the nodes so far.
        constants: arrays of the initializers by name; of those of 4 bits nothing.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._tensors: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._views: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._transposed: dict[tuple[str, tuple[int, ...]], str] = {}
        self._names: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """`name`, or `name:2`, `name:3`, … where it is taken."""
        self._names[name] += 1
        return name if self._names[name] == 1 else self.unique(f"{name}:{self._names[name]}")

    def add_input(self, name: str, dtype: str, shape: Sequence[int | None]) -> str:
        """An input of the graph; an axis without a size is open, the first one of the first input is called `batch`.

        Axes of other inputs have names of their own: engines take axes of one name for equal, and nothing says that
        these are.
        """
        first = f"{name}_batch" if self._inputs else "batch"
        axes = [(f"{name}_axis_{axis}" if axis else first) if size is None else size for axis, size in enumerate(shape)]
        name = self.unique(name)
        self._inputs.append(helper.make_tensor_value_info(name, element_type(dtype), axes))
        return name

    def constant(self, array: Any, name: str) -> str:
        """A new initializer; its name."""
        name, array = self.unique(name), np.asarray(array)
        self.constants[name] = array
        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def packed_constant(self, packed: bytes, data_type: int, shape: Sequence[int], name: str) -> str:
        """A new initializer of a type that NumPy does not have, from its bytes; its name."""
        name = self.unique(name)
        self._tensors[name] = helper.make_tensor(name, data_type, shape, packed, raw=True)
        return name

    def add(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A new node with one result; the result's name."""
        return self.add_many(op_type, inputs, name, 1, **attributes)[0]

    def add_many(self, op_type: str, inputs: Sequence[str], name: str, count: int, **attributes: Any) -> list[str]:
        """A new node with several results; their names."""
        name = self.unique(name)
        outputs = [name] + [self.unique(f"{name}/{index}") for index in range(1, count)]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))
        return outputs

    def transpose(self, x: str, perm: Sequence[int], name: str = "") -> str:
        """`x` with its axes in another order."""
        perm = tuple(perm)
        if x in self._views:
            x, before = self._views[x]
            perm = tuple(before[axis] for axis in perm)
        if perm == tuple(range(len(perm))):
            return x
        if (x, perm) not in self._transposed:
            result = self.add("Transpose", [x], name or f"{x}/transposed", perm=perm)
            self._transposed[x, perm] = result
            self._views[result] = x, perm
        return self._transposed[x, perm]

    def view(self, x: str) -> tuple[str, tuple[int, ...] | None]:
        """The value of which `x` is a transposition, and the order of its axes; `x` and None where it is none."""
        return self._views.get(x, (x, None))

    def moved(self, x: str, emit: Callable[[str, Callable[[int], int]], str]) -> str:
        """What `emit` makes of `x`, computed before a transposition that makes `x`.

        Args:
            x: the value.
            emit: adds nodes that keep the order of the axes, given a value and what maps each axis of `x`, which is not
                negative, to the axis of that value.
        """
        source, perm = self.view(x)
        if perm is None:
            return emit(x, lambda axis: axis)
        order = perm
        return self.transpose(emit(source, lambda axis: order[axis]), order)

    def elementwise(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A new node that broadcasts its inputs and keeps the order of the axes; its result."""
        perms = {self._views[x][1] if x in self._views else None for x in inputs if x not in self.constants}
        perm = perms.pop() if len(perms) == 1 else None
        if perm is None or any(np.ndim(self.constants[x]) > len(perm) for x in inputs if x in self.constants):
            return self.add(op_type, inputs, name, **attributes)
        sources = [self._reordered(x, perm) if x in self.constants else self._views[x][0] for x in inputs]
        return self.transpose(self.add(op_type, sources, name, **attributes), perm)

    def _reordered(self, constant: str, perm: tuple[int, ...]) -> str:
        """A constant as it broadcasts against the value of which the other operands are transpositions."""
        array = self.constants[constant]
        if array.ndim == 0:
            return constant
        full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
        return self.constant(np.transpose(full, np.argsort(perm)), f"{constant}/reordered")

    def finish(
        self,
        outputs: Sequence[tuple[str, str, str, Sequence[int | None]]],
        metadata: Mapping[str, str],
        name: str,
        edit: Callable[[onnx.GraphProto], None] = lambda graph: None,
    ) -> onnx.ModelProto:
        """The checked model.

        Args:
            outputs: of each output the value, its name in the model, its dtype and its shape.
            metadata: what the file says of itself.
            name: name of the graph.
            edit: what is changed in the whole graph before it is checked.
        """
        infos = []
        for value, public, dtype, shape in outputs:
            result = self.unique(public)
            # An output may be an input, a constant, or another output: a name of its own.
            self.nodes.append(helper.make_node("Identity", [value], [result], name=result))
            infos.append(helper.make_tensor_value_info(result, element_type(dtype), list(shape)))
        self._merge_identities({info.name for info in infos})
        self._remove_unused({info.name for info in infos})
        used = {x for node in self.nodes for x in node.input}
        initializers = [tensor for key, tensor in self._tensors.items() if key in used]
        graph = helper.make_graph(self.nodes, name, self._inputs, infos, initializers)
        edit(graph)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="mct"
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        # Names the open axes of the outputs, and says the shapes in between.
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)

    def _merge_identities(self, outputs: set[str]) -> None:
        """Give the result of a node the name of the output that it is, where it is one output and no other reads it."""
        uses = Counter(x for node in self.nodes for x in node.input)
        makers = {result: node for node in self.nodes for result in node.output}
        for node in [node for node in self.nodes if node.op_type == "Identity" and node.output[0] in outputs]:
            value = node.input[0]
            if value in makers and uses[value] == 1 and value not in outputs and not value.endswith("/codes"):
                results = makers[value].output
                results[list(results).index(value)] = node.output[0]
                self.nodes.remove(node)

    def _remove_unused(self, needed: set[str]) -> None:
        kept: list[onnx.NodeProto] = []
        needed = set(needed)
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]


def element_type(dtype: str) -> int:
    """The type of ONNX for a dtype of Keras."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
