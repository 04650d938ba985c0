# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Adds biases in nodes of their own where default sessions of ONNX Runtime would change what a file computes.

The optimizer of ONNX Runtime (tried with 1.23 to 1.31) rewrites a product between quantized tensors, Conv,
ConvTranspose or Gemm, also one that it makes of MatMul and Add:

- A bias is rounded to an int32 of steps of `input scale · weight scale`. That is the price of integer kernels, and fine
  as long as the bias fits and the steps are fine beside those of the result (`bias.py`). In files with tensors below 8
  bits the steps are coarse, there are no such kernels, and the results would differ for nothing.
- A float weight, also one that is looked up in a table, is rounded to 8 bits with one scale. What stands between the
  layer and the quantization of its result prevents that.

A sum is fused into Conv or Gemm again unless its constant comes first, and into MatMul unless it is a difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from model_compression_toolkit.exporter.common.bias import fits_accumulator, scales_of_zeros, zero_channels

__all__ = ["separate_biases"]

Array = npt.NDArray[Any]

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_MOVING = ("Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_BEFORE_QUANTIZATION = (*_MOVING, "Clip", "LeakyRelu", "Relu")
"""What engines compute in the kernel of a product, or move behind the quantization of its result."""


def separate_biases(graph: onnx.GraphProto, of_integers: bool) -> None:
    """Give the biases of `graph`, where they would be changed, nodes of their own.

    The scale of a channel of zeros, which is free, is raised where that lets its bias fit.

    Args:
        graph: a graph with quantized tensors; it is changed.
        of_integers: whether all biases of layers with integer weights are separated, not only those that do not fit.
    """
    view = _View(graph)
    products = list(view.products())
    if not of_integers:
        for product in products:
            view.raise_scales_of_zeros(product)
    for product in products:
        if of_integers or not product.is_integer or not view.fits(product):
            view.separate(product)
    view.write()


@dataclass(frozen=True, slots=True)
class _Product:
    """A product with a constant weight.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        dequantizer: what makes its weight of integers; None where it is float.
        axis: along which the weight's scale varies in the integers; None where it does not.
        bias: name of the constant that is an input; empty without one.
        addition: the node behind that adds a constant of one number for each channel, which may be fused.
    """

    node: onnx.NodeProto
    dequantizer: onnx.NodeProto | None
    axis: int | None
    bias: str
    addition: onnx.NodeProto | None

    @property
    def is_integer(self) -> bool:
        """Whether its weight consists of integers."""
        return self.dequantizer is not None


class _View:
    """A graph with its constants by name, and the nodes that make and take each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        self._behind: dict[str, list[onnx.NodeProto]] = {}
        self._aligned: dict[tuple[str, str], str] = {}
        self._scales: dict[str, Array] = {}
        self._added: list[onnx.TensorProto] = []
        self._replaced: set[str] = set()
        self._ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in graph.value_info
            if value.type.tensor_type.HasField("shape")
        }
        self._names = {*self._tensors, *self._makers, *(value.name for value in graph.input)}

    def products(self) -> Iterator[_Product]:
        """Every product whose bias or weight a default session may change."""
        for node in self._graph.node:
            if node.op_type not in (*_LAYERS, "MatMul"):
                continue
            dequantizer, axis = self._dequantizer(node.input[1]), None
            if dequantizer is not None and self._constant(dequantizer.input[1]).size > 1:
                axis = _attribute(dequantizer, "axis", 1)
            bias = node.input[2] if len(node.input) > 2 else ""
            addition = self._addition(node)
            is_constant = not bias or bias in self._tensors
            if is_constant and (node.op_type != "MatMul" or addition is not None):
                yield _Product(node, dequantizer, axis, bias, addition)

    def raise_scales_of_zeros(self, product: _Product) -> None:
        """Raise the scales of the channels of zeros as their biases ask for."""
        bias, input_scale = self._bias(product), self._input_scale(product.node)
        if product.dequantizer is None or bias is None or input_scale is None or self._output_scale(product) is None:
            return
        name = product.dequantizer.input[1]
        if product.dequantizer.input[0] not in self._tensors:
            return
        codes, zero_point = (self._constant(product.dequantizer.input[i]).astype(np.int32) for i in (0, 2))
        scale = self._scale(name).reshape(-1)
        if len(self._users[name]) > 1 or len(bias) % len(scale) or zero_point.any():
            return
        # In a grouped transposed convolution several channels of the result have one scale.
        largest = (
            np.abs(bias).reshape(-1, len(scale)).max(axis=0) if len(scale) > 1 else np.abs(bias).max(keepdims=True)
        )
        raised = scales_of_zeros(scale, zero_channels(codes, product.axis), largest, input_scale)
        self._scales[name] = raised.reshape(self._scale(name).shape)

    def fits(self, product: _Product) -> bool:
        """Whether the bias keeps its value in the accumulator, or stays in float."""
        bias, input_scale, output_scale = self._bias(product), self._input_scale(product.node), None
        if product.dequantizer is None or bias is None or input_scale is None:
            return True
        output_scale = self._output_scale(product)
        if output_scale is None:
            return True
        scale = self._scale(product.dequantizer.input[1]).reshape(-1)
        if len(bias) % len(scale):
            return False
        step = np.float64(input_scale) * np.tile(scale, len(bias) // len(scale)).astype(np.float64)
        return fits_accumulator(bias, step, output_scale)

    def separate(self, product: _Product) -> None:
        """Put what cannot be fused between the product and the quantization of its result."""
        node, addition = product.node, product.addition
        if product.bias:
            addend = self._aligned_bias(product)
            del node.input[2:]
            self._insert_behind(node, "Add", addend, "bias")
        elif addition is not None and node.op_type == "MatMul":
            constant = next(name for name in addition.input if name in self._tensors)
            addition.op_type = "Sub"
            addition.input[:] = [node.output[0], self._changed(constant, -self._constant(constant), "negative")]
        elif addition is not None:
            addition.input[:] = sorted(addition.input, key=lambda name: name not in self._tensors)
        elif not product.is_integer:
            # Changes no number. A sum with zero would be removed.
            lowest = self._add_constant(np.array(-np.inf, np.float32), f"{node.name}/lowest")
            self._insert_behind(node, "Max", lowest, "kept")

    def write(self) -> None:
        """Bring what was found into the graph."""
        for name, scale in self._scales.items():
            self._tensors[name].CopyFrom(numpy_helper.from_array(scale, name))
        nodes = [item for node in self._graph.node for item in (node, *self._behind.get(node.output[0], ()))]
        # Nodes are emptied with the list that holds them.
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)
        self._graph.initializer.extend(self._added)
        used = {name for node in self._graph.node for name in node.input} | self._outputs
        for index in reversed(range(len(self._graph.initializer))):
            name = self._graph.initializer[index].name
            if name in self._replaced and name not in used:
                del self._graph.initializer[index]

    def _insert_behind(self, node: onnx.NodeProto, op_type: str, constant: str, part: str) -> None:
        """`op_type` of a constant and the node's result takes the name of that result."""
        public, inner = node.output[0], self._unique(f"{node.output[0]}/product")
        node.output[0] = inner
        self._makers[inner] = node
        self._behind[inner] = [
            helper.make_node(op_type, [constant, inner], [public], name=self._unique(f"{node.name}/{part}"))
        ]

    def _aligned_bias(self, product: _Product) -> str:
        """The bias as it broadcasts against the result; one that several layers add is written once."""
        node, bias = product.node, self._constant(product.bias)
        if node.op_type == "Gemm":
            factor = np.float32(_attribute(node, "beta", 1.0))
            return product.bias if factor == 1 else self._changed(product.bias, factor * bias, f"times_{factor}")
        return self._changed(product.bias, bias.reshape(-1, *([1] * self._spatial(node))), "aligned")

    def _changed(self, name: str, array: Array, part: str) -> str:
        """A constant made of another one; of the same number of axes it is written once."""
        key = name, f"{part}_{array.ndim}"
        if key not in self._aligned:
            self._aligned[key] = self._add_constant(array, f"{name}/{part}")
            self._replaced.add(name)
        return self._aligned[key]

    def _spatial(self, node: onnx.NodeProto) -> int:
        """Number of axes behind those of the channels."""
        return self._rank(node.input[1]) - 2 if node.op_type in _LAYERS[:2] else 0

    def _rank(self, name: str) -> int:
        """Number of axes of a weight, which layers have at least two of."""
        while name not in self._tensors and name not in self._ranks and name in self._makers:
            maker = self._makers[name]
            name = maker.input[1 if maker.op_type == "Gather" else 0]
        return len(self._tensors[name].dims) if name in self._tensors else self._ranks.get(name, 2)

    def _add_constant(self, array: Array, name: str) -> str:
        name = self._unique(name)
        self._added.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        self._tensors[name] = self._added[-1]
        return name

    def _unique(self, name: str) -> str:
        count, unique = 1, name
        while unique in self._names:
            count, unique = count + 1, f"{name}:{count + 1}"
        self._names.add(unique)
        return unique

    def _bias(self, product: _Product) -> Array | None:
        """All that may end up in the accumulator, shape (C,); None for nothing."""
        parts = []
        if product.bias:
            factor = _attribute(product.node, "beta", 1.0) if product.node.op_type == "Gemm" else 1.0
            parts.append(factor * self._constant(product.bias).astype(np.float64).reshape(-1))
        if product.addition is not None:
            constant = next(name for name in product.addition.input if name in self._tensors)
            parts.append(self._constant(constant).astype(np.float64).reshape(-1))
        return sum(parts[1:], parts[0]) if parts else None

    def _addition(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The only user of a product, if it adds a constant of one number, or of one for each channel."""
        users = self._users.get(node.output[0], [])
        if len(users) != 1 or users[0].op_type != "Add" or node.output[0] in self._outputs:
            return None
        constants = [name for name in users[0].input if name in self._tensors]
        if len(constants) != 1:
            return None
        # All axes but one have one element: the last one, or that of the channels of an image.
        shape, spatial = tuple(self._tensors[constants[0]].dims), self._spatial(node)
        behind = shape[len(shape) - spatial :] if spatial else ()
        is_of_channels = all(size == 1 for size in (*shape[: len(shape) - spatial - 1], *behind))
        return users[0] if is_of_channels else None

    def _dequantizer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value of integers, through what only moves it."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _MOVING:
            node = self._makers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _input_scale(self, node: onnx.NodeProto) -> float | None:
        """Scale of the quantized input; None where it is float. Of several scales the smallest."""
        dequantizer = self._dequantizer(node.input[0])
        return None if dequantizer is None else float(self._scale(dequantizer.input[1]).min())

    def _output_scale(self, product: _Product) -> float | None:
        """The smallest scale of a quantization of the result; None where it stays in float."""
        found = []
        pending = list((product.addition or product.node).output[:1])
        while pending:
            for user in self._users.get(pending.pop(), []):
                if user.op_type == "QuantizeLinear":
                    found.append(float(self._scale(user.input[1]).min()))
                elif user.op_type in _BEFORE_QUANTIZATION:
                    pending.append(user.output[0])
        return min(found) if found else None

    def _constant(self, name: str) -> Array:
        return numpy_helper.to_array(self._tensors[name])

    def _scale(self, name: str) -> Array:
        return self._scales[name] if name in self._scales else self._constant(name)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
