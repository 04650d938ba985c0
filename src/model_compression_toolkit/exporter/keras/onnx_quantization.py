# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors in standard operators: integers and DequantizeLinear, before computed ones QuantizeLinear.

Those on the levels of a table are indices and Gather, before computed ones a search.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import pack_integers
from mct_quantizers.common.quant_params import IntArray, QuantParams
from model_compression_toolkit.exporter.common.sorted_table import sorted_table, table_indices
from model_compression_toolkit.exporter.keras.onnx_builder import OnnxBuilder
from model_compression_toolkit.exporter.keras.onnx_tables import looked_up, searched

__all__ = ["CODES", "CodeType", "activation", "code_type", "file_params", "params_of", "shifted", "weight"]

Array = npt.NDArray[Any]
Layout = Callable[[Array], Array]
"""Brings a weight into the order of axes that an operator of ONNX wants."""

CODES = "/codes"
"""The name of a tensor of integers, or of indices into a table, ends so."""


@dataclass(frozen=True, slots=True)
class CodeType:
    """A type of integers.

    Attributes:
        data_type: the type in ONNX.
        num_bits: its width.
        low: its smallest number.
        high: its largest number.
    """

    data_type: int
    num_bits: int
    low: int
    high: int

    @property
    def numpy(self) -> Any:
        """The type of NumPy that holds it."""
        return np.dtype(f"{'int' if self.low < 0 else 'uint'}{max(self.num_bits, 8)}")


_SIGNED = tuple(
    CodeType(getattr(TensorProto, f"INT{bits}"), bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (4, 8, 16)
)
_UNSIGNED = tuple(CodeType(getattr(TensorProto, f"UINT{bits}"), bits, 0, 2**bits - 1) for bits in (4, 8, 16))


def code_type(quant_min: int, quant_max: int, zero_point: IntArray, least_bits: int) -> CodeType:
    """The narrowest type that holds the range and the zero points.

    Raises:
        ValueError: there is none.
    """
    low, high = min(quant_min, int(zero_point.min())), max(quant_max, int(zero_point.max()))
    for dtype in _SIGNED if low < 0 else _UNSIGNED:
        if dtype.num_bits >= least_bits and dtype.low <= low and high <= dtype.high:
            return dtype
    raise ValueError(f"ONNX has no type for integers from {low} to {high}.")


def params_of(quantizer: Any, name: str) -> QuantParams | LookupTable:
    """The grid or table of a frozen quantizer.

    Raises:
        ValueError: it is still trained, or is of the user's own and has neither.
    """
    if callable(getattr(quantizer, "convert2inferable", None)):
        raise ValueError(f"`model` is still in quantization-aware training: `finalize` it first. Received: {name}")
    params = getattr(quantizer, "params", None)
    if not isinstance(params, (QuantParams, LookupTable)):
        raise ValueError(
            f"The quantizer of {name} must have `params`, a QuantParams or a LookupTable, to be exported to ONNX. "
            f"Received: {type(quantizer).__name__}. Use one of the quantizers of this package, or derive from one."
        )
    return params


def file_params(params: QuantParams | LookupTable, shape: tuple[int, ...], layout: Layout) -> Any:
    """The grid or table of a weight in a layout, which reorders axes and merges neighbours: on one axis again."""
    if params.axis is None:
        return params
    axis = params.axis % len(shape)
    index = np.arange(shape[axis]).reshape(arithmetic.broadcast_shape(len(shape), axis))
    index = layout(np.broadcast_to(index, shape))
    spans = {new: (index.min(others), index.max(others)) for new, others in _other_axes(index.ndim).items()}
    new_axis, channels = next((new, low) for new, (low, high) in spans.items() if (low == high).all())
    if isinstance(params, LookupTable):
        return replace(params, threshold=params.threshold[channels], axis=new_axis)
    return replace(params, scale=params.scale[channels], zero_point=params.zero_point[channels], axis=new_axis)


def _other_axes(rank: int) -> dict[int, tuple[int, ...]]:
    return {axis: arithmetic.other_axes(rank, axis) for axis in range(rank)}


def weight(builder: OnnxBuilder, values: Array, params: QuantParams | LookupTable, name: str, layout: Layout) -> str:
    """A quantized weight: its integers as an initializer, or the indices of its levels, made real again."""
    in_file = file_params(params, values.shape, layout)
    if isinstance(params, LookupTable):
        return _table_weight(builder, layout(table_indices(values, params)), in_file, name)
    dtype = code_type(params.quant_min, params.quant_max, params.zero_point, least_bits=4)
    codes = layout(arithmetic.quantize(values, params, numpy_ops))
    inputs = [
        _integers(builder, codes, dtype, name + CODES),
        *_grid(builder, name, in_file, in_file.zero_point, dtype),
    ]
    return builder.add("DequantizeLinear", inputs, f"{name}/dequantized", **_axis(in_file.axis))


def activation(builder: OnnxBuilder, x: str, params: QuantParams | LookupTable, name: str) -> str:
    """The quantized value of `x`.

    The integers are shifted to start at 0, which changes no value: default sessions of ONNX Runtime fail to load some
    networks with int8 activations from opset 21 on. A range narrower than its type needs a Clip.

    Raises:
        ValueError: a table per channel, or such a grid whose range is narrower than its type.
    """
    if isinstance(params, LookupTable):
        if params.axis is not None:
            raise ValueError(f"{name} must have one threshold, because its levels are found while the file runs.")
        table = params
        return builder.moved(x, lambda source, _: searched(builder, source, table, name, name + CODES))
    low, high, zero_point = shifted(params)
    dtype = code_type(low, high, zero_point, least_bits=8)
    if (dtype.low, dtype.high) != (low, high):
        if params.axis is not None:
            raise ValueError(f"{name} must have one scale, because its range is narrower than its integer type.")
        ends = (("min", params.min_range), ("max", params.max_range))
        bounds = [builder.constant(value[0].astype(np.float32), f"{name}/{end}") for end, value in ends]
        x = builder.elementwise("Clip", [x, *bounds], f"{name}/clipped")
    grid = _grid(builder, name, params, zero_point, dtype)

    def emit(source: str, axis_of: Callable[[int], int]) -> str:
        attributes = {} if params.axis is None else _axis(axis_of(params.axis))
        codes = builder.add("QuantizeLinear", [source, *grid], name + CODES, **attributes)
        return builder.add("DequantizeLinear", [codes, *grid], f"{name}/dequantized", **attributes)

    return builder.moved(x, emit)


def shifted(params: QuantParams) -> tuple[int, int, IntArray]:
    """Range and zero points of an activation's integers in the file, which start at 0."""
    shift = min(params.quant_min, 0)
    return params.quant_min - shift, params.quant_max - shift, params.zero_point - np.int32(shift)


def _table_weight(builder: OnnxBuilder, indices: Array, table: LookupTable, name: str) -> str:
    arrays = sorted_table(table, indices.ndim)
    dtype = next(dtype for dtype in _UNSIGNED if len(arrays.levels) <= dtype.high + 1)
    codes = _integers(builder, indices, dtype, name + CODES)
    # Gather takes no other integers.
    indices_32 = builder.add("Cast", [codes], f"{name}/indices", to=int(TensorProto.INT32))
    return looked_up(builder, indices_32, arrays, name)


def _integers(builder: OnnxBuilder, codes: Array, dtype: CodeType, name: str) -> str:
    if dtype.num_bits == 4:
        return builder.packed_constant(pack_integers(codes, 4).tobytes(), dtype.data_type, codes.shape, name)
    return builder.constant(codes.astype(dtype.numpy), name)


def _grid(
    builder: OnnxBuilder, name: str, params: QuantParams, zero_point: IntArray, dtype: CodeType
) -> tuple[str, str]:
    """Scale and zero point as initializers: scalars per tensor, vectors per channel."""
    shape = () if params.axis is None else (-1,)
    scale = builder.constant(params.scale.astype(np.float32).reshape(shape), f"{name}/scale")
    return scale, _integers(builder, zero_point.reshape(shape), dtype, f"{name}/zero_point")


def _axis(axis: int | None) -> dict[str, int]:
    return {} if axis is None else {"axis": axis}
