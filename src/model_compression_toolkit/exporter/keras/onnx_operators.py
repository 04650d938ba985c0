# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The functions of `keras.ops` in operators of ONNX, and the table of all that can be translated."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from model_compression_toolkit.core.keras.graph import Call, Value
from model_compression_toolkit.exporter.keras.onnx_activations import (
    ACTIVATIONS,
    clipped,
    gelu,
    leaky_relu,
    softmax,
)
from model_compression_toolkit.exporter.keras.onnx_attention import ATTENTION, ATTENTION_ARGUMENTS
from model_compression_toolkit.exporter.keras.onnx_layers import LAYERS, concatenated
from model_compression_toolkit.exporter.keras.onnx_recurrent import RECURRENT, RECURRENT_ARGUMENTS
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator, as_array
from model_compression_toolkit.exporter.keras.onnx_time_distributed import TIME_DISTRIBUTED

__all__ = ["FUNCTIONS", "translator_of"]


def translator_of(call: Call, operation: Any, arguments: Mapping[str, Any]) -> Translator:
    """What translates a call.

    Args:
        call: the call.
        operation: its layer, without the wrapper that quantizes its weights, or its function.
        arguments: what a layer takes besides its first input, by name; of a function its keyword arguments.

    Raises:
        ValueError: there is no translation of such a layer or function, or of this use of it.
    """
    kind = type(operation)
    is_layer = isinstance(operation, keras.layers.Layer)
    found = _LAYERS.get(kind)
    if not is_layer and kind.__module__.partition(".")[0] == "keras":
        found = FUNCTIONS.get(kind.__name__)
    if found is None:
        supported = sorted(cls.__name__ for cls in _LAYERS) if is_layer else sorted(FUNCTIONS)
        raise ValueError(
            f"{call.name}, of class {kind.__name__}, cannot be exported to ONNX. Supported "
            f"{'layers' if is_layer else 'functions of `keras.ops`'}: {', '.join(supported)}. "
            "Build the model of these; a layer of your own as a function of tensors that calls them."
        )
    known = ("training", *_ARGUMENTS.get(kind, ()))
    surplus = sorted(
        key for key, value in arguments.items() if key not in known and value is not None and value is not False
    )
    if surplus:
        raise ValueError(
            f"{call.name}, of class {kind.__name__}, cannot be exported to ONNX with the arguments {surplus}: "
            "call it with its inputs only, without masks."
        )
    return found


_LAYERS = {**LAYERS, **ATTENTION, **RECURRENT, **TIME_DISTRIBUTED}
_ARGUMENTS = {**dict.fromkeys(ATTENTION, ATTENTION_ARGUMENTS), **dict.fromkeys(RECURRENT, RECURRENT_ARGUMENTS)}


def _unary(op_type: str) -> Translator:
    return lambda site: site.apply(op_type, site.operand(site.call.args[0], site.result.dtype))


def _binary(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        left, right = (site.operand(argument, site.result.dtype) for argument in site.call.args[:2])
        return site.apply(op_type, left, right)

    return translate


def _activation(name: str) -> Translator:
    return lambda site: ACTIVATIONS[name](site, site.x)


def _rsqrt(site: Site) -> str:
    return site.apply("Reciprocal", site.apply("Sqrt", site.x))


def _square(site: Site) -> str:
    return site.apply("Mul", site.x, site.x)


def _elu(site: Site) -> str:
    return site.apply("Elu", site.x, alpha=float(site.operation.alpha))


def _celu(site: Site) -> str:
    return site.apply("Celu", site.x, alpha=float(site.operation.alpha))


def _clip(site: Site) -> str:
    low, high = site.operation.x_min, site.operation.x_max
    if any(isinstance(end, Value) or np.ndim(end) for end in (low, high)):
        site.refuse("ends that are no numbers", "Use `keras.ops.minimum` and `keras.ops.maximum`.")
    return clipped(site, site.x, low, high)


def _matmul(site: Site) -> str:
    return site.add("MatMul", *(site.operand(argument) for argument in site.call.args[:2]))


def _einsum(site: Site) -> str:
    return site.add("Einsum", *(site.operand(argument) for argument in site.call.args), equation=_equation(site))


def _equation(site: Site) -> str:
    equation: str = site.operation.subscripts.replace(" ", "")
    if "->" not in equation:
        site.refuse(f"subscripts={equation!r}", "Write the result's axes behind `->`.")
    return equation


def _reshape(site: Site) -> str:
    sizes = site.operation.newshape
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    if -1 not in sizes:
        # A batch size that is open is None here.
        sizes = [-1 if size is None else size for size in sizes]
    if not all(isinstance(size, int) for size in sizes) or sizes.count(-1) > 1:
        site.refuse(f"the new shape {site.operation.newshape}", "Use integers and -1 once.")
    return site.reshape(site.x, sizes)


def _transpose(site: Site) -> str:
    axes = site.operation.axes
    perm = range(site.rank)[::-1] if axes is None else [axis % site.rank for axis in axes]
    return site.builder.transpose(site.x, tuple(perm), f"{site.name}/transposed")


def _swap_axes(site: Site) -> str:
    perm = list(range(site.rank))
    first, second = site.operation.axis1 % site.rank, site.operation.axis2 % site.rank
    perm[first], perm[second] = second, first
    return site.builder.transpose(site.x, perm, f"{site.name}/transposed")


def _move_axis(site: Site) -> str:
    sources, targets = (_axes(value, site.rank) for value in (site.operation.source, site.operation.destination))
    perm = [axis for axis in range(site.rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        perm.insert(target, source)
    return site.builder.transpose(site.x, perm, f"{site.name}/transposed")


def _concatenate(site: Site) -> str:
    operands = [site.operand(value, site.result.dtype) for value in site.call.args[0]]
    return concatenated(site, operands, site.operation.axis % len(site.result.shape))


def _stack(site: Site) -> str:
    axis = site.operation.axis % len(site.result.shape)
    axes = site.int_constant([axis], "axes")
    operands = [site.add("Unsqueeze", site.operand(value, site.result.dtype), axes) for value in site.call.args[0]]
    return site.add("Concat", *operands, axis=axis)


def _split(site: Site) -> list[str]:
    axis, parts = site.operation.axis % site.rank, [value.shape for value in site.call.outputs]
    sizes = [shape[axis] for shape in parts]
    if None in sizes:
        site.refuse(f"an axis without a size, axis={axis}", "Give the input a fixed size.")
    lengths = site.int_constant([size for size in sizes if size is not None], "sizes")
    return site.builder.add_many("Split", [site.x, lengths], f"{site.name}/split", len(sizes), axis=axis)


def _unstack(site: Site) -> list[str]:
    axis = site.operation.axis % site.rank
    return [
        site.add("Gather", site.x, site.constant(np.int64(index), "index"), axis=axis)
        for index in range(len(site.call.outputs))
    ]


def _expand_dims(site: Site) -> str:
    return site.add("Unsqueeze", site.x, site.int_constant(_axes(site.operation.axis, len(site.result.shape)), "axes"))


def _squeeze(site: Site) -> str:
    axes = site.operation.axis
    found = [a for a, size in enumerate(site.first.shape) if size == 1] if axes is None else _axes(axes, site.rank)
    return site.add("Squeeze", site.x, site.int_constant(found, "axes"))


def _reduction(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        axes, keeps = site.operation.axis, bool(site.operation.keepdims)
        x = site.operand(site.first, site.result.dtype)
        found = list(range(site.rank)) if axes is None else _axes(axes, site.rank)

        def emit(source: str, axis_of: Callable[[int], int]) -> str:
            chosen = site.int_constant([axis_of(axis) for axis in found], "axes")
            return site.add(op_type, source, chosen, keepdims=int(keeps))

        return site.builder.moved(x, emit) if keeps else emit(x, lambda axis: axis)

    return translate


def _get_item(site: Site) -> str:
    key = site.call.args[1]
    key = list(key) if isinstance(key, tuple) else [key]
    if not all(item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in key):
        site.refuse(f"the index {key}", "Use integers, slices, `...` and None.")
    taken = sum(item is not None and item is not Ellipsis for item in key)
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    key[at : at + 1] = [slice(None)] * (site.rank - taken)
    x, axis = site.x, 0
    removed: list[int] = []
    added: list[int] = []
    cuts: list[tuple[int, int, int, int]] = []
    for item in key:
        if item is None:
            added.append(axis - len(removed) + len(added))
            continue
        if isinstance(item, int):
            cuts.append((axis, item, item + 1 if item != -1 else _LAST, 1))
            removed.append(axis)
        elif item != slice(None):
            cuts.append(_cut(site, axis, item))
        axis += 1
    if cuts:
        x = site.builder.moved(x, lambda source, axis_of: _sliced(site, source, cuts, axis_of))
    if removed:
        x = site.add("Squeeze", x, site.int_constant(removed, "removed"))
    return site.add("Unsqueeze", x, site.int_constant(added, "added")) if added else x


_LAST = int(np.iinfo(np.int64).max)


def _cut(site: Site, axis: int, item: slice) -> tuple[int, int, int, int]:
    numbers = (item.start, item.stop, item.step)
    if not all(number is None or isinstance(number, int) for number in numbers):
        site.refuse(f"the slice {item}", "Use integers.")
    step = 1 if item.step is None else item.step
    first, last = (0, _LAST) if step > 0 else (_LAST, -_LAST)
    return axis, first if item.start is None else item.start, last if item.stop is None else item.stop, step


def _sliced(site: Site, x: str, cuts: Sequence[tuple[int, int, int, int]], axis_of: Callable[[int], int]) -> str:
    axes, starts, stops, steps = zip(*cuts, strict=True)
    parts = {"starts": starts, "stops": stops, "axes": [axis_of(axis) for axis in axes], "steps": steps}
    return site.add("Slice", x, *(site.int_constant(numbers, part) for part, numbers in parts.items()))


def _cast(site: Site) -> str:
    return site.operand(site.first, site.result.dtype)


def _where(site: Site) -> str:
    condition, *branches = site.call.args
    others = [site.operand(branch, site.result.dtype) for branch in branches]
    return site.apply("Where", site.operand(condition, "bool"), *others)


def _compare(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        dtype = next(value.dtype for value in site.call.inputs)
        if len({value.dtype for value in site.call.inputs}) > 1:
            site.refuse("operands of several dtypes", "Use `keras.ops.cast`.")
        return site.apply(op_type, *(site.operand(argument, dtype) for argument in site.call.args[:2]))

    return translate


def _take(site: Site) -> str:
    if site.operation.axis is None:
        site.refuse("axis=None", "Name the axis.")
    indices = site.call.args[1]
    if not isinstance(indices, Value):
        indices = site.constant(as_array(indices).astype(np.int64), "indices")
    else:
        indices = site.operand(indices)
    return site.add("Gather", site.x, indices, axis=site.operation.axis)


def _tile(site: Site) -> str:
    repeats = site.operation.repeats
    repeats = [repeats] if isinstance(repeats, int) else list(repeats)
    if len(repeats) > site.rank:
        site.refuse(f"repeats={repeats}", "Give one number for each axis.")
    return site.add("Tile", site.x, site.int_constant([1] * (site.rank - len(repeats)) + repeats, "repeats"))


def _ravel(site: Site) -> str:
    return site.reshape(site.x, [-1])


def _identity(site: Site) -> str:
    return site.x


def _axes(axis: Any, rank: int) -> list[int]:
    return [item % rank for item in ([axis] if isinstance(axis, int) else axis)]


# By the name of their class.
FUNCTIONS: dict[str, Translator] = {
    "Add": _binary("Add"),
    "Subtract": _binary("Sub"),
    "Multiply": _binary("Mul"),
    "Divide": _binary("Div"),
    "TrueDivide": _binary("Div"),
    "Power": _binary("Pow"),
    "Maximum": _binary("Max"),
    "Minimum": _binary("Min"),
    "Negative": _unary("Neg"),
    "Absolute": _unary("Abs"),
    "Exp": _unary("Exp"),
    "Log": _unary("Log"),
    "Sqrt": _unary("Sqrt"),
    "Sin": _unary("Sin"),
    "Cos": _unary("Cos"),
    "Erf": _unary("Erf"),
    "Floor": _unary("Floor"),
    "Round": _unary("Round"),
    "Ceil": _unary("Ceil"),
    "Reciprocal": _unary("Reciprocal"),
    "Rsqrt": _rsqrt,
    "Square": _square,
    "Clip": _clip,
    "Relu": _activation("relu"),
    "Relu6": _activation("relu6"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Silu": _activation("silu"),
    "Selu": _activation("selu"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "HardSigmoid": _activation("hard_sigmoid"),
    "HardSilu": _activation("hard_silu"),
    "HardTanh": _activation("hard_tanh"),
    "Elu": _elu,
    "Celu": _celu,
    "LeakyRelu": lambda site: leaky_relu(site, site.x, site.operation.negative_slope),
    "Gelu": lambda site: gelu(site, site.x, bool(site.operation.approximate)),
    "Softmax": lambda site: softmax(site, site.x, [site.operation.axis], site.rank),
    "LogSoftmax": lambda site: softmax(site, site.x, [site.operation.axis], site.rank, is_log=True),
    "Matmul": _matmul,
    "Einsum": _einsum,
    "Reshape": _reshape,
    "Ravel": _ravel,
    "Transpose": _transpose,
    "Swapaxes": _swap_axes,
    "Moveaxis": _move_axis,
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Split": _split,
    "Unstack": _unstack,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "Mean": _reduction("ReduceMean"),
    "Sum": _reduction("ReduceSum"),
    "Max": _reduction("ReduceMax"),
    "Min": _reduction("ReduceMin"),
    "GetItem": _get_item,
    "Take": _take,
    "Tile": _tile,
    "Cast": _cast,
    "Where": _where,
    "Greater": _compare("Greater"),
    "GreaterEqual": _compare("GreaterOrEqual"),
    "Less": _compare("Less"),
    "LessEqual": _compare("LessOrEqual"),
    "Equal": _compare("Equal"),
    "StopGradient": _identity,
    "Copy": _identity,
}
