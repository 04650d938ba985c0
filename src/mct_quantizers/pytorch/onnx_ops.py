# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The ONNX operators of the domain `mct_quantizers`, and the kernels that run them in ONNX Runtime. Needs no torch.

A kernel rebuilds the parameters from inputs and attributes and calls the one formula; it has no arithmetic of its own.
Two properties of `onnxruntime_extensions` (0.15) shape this file:

- It hands float attributes to Python with six significant digits. Where they do not suffice, `version_attribute` puts
  the bits of the attributes behind the version, as a local version label (PEP 440). A file without them still runs.
- An exception in a kernel ends the process. A kernel that cannot compute logs why, as an error, and returns NaN.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers import _lazy
from mct_quantizers._version import __version__
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.constants import MCTQ_VERSION, ONNX_CUSTOM_OP_DOMAIN
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold
from mct_quantizers.common.validation import check_power_of_two

__all__ = [
    "DOMAIN",
    "OPERATORS",
    "OPSET",
    "Operator",
    "get_ort_session_options",
    "operator_parameters",
    "quantized",
    "run_operator",
    "version_attribute",
]

DOMAIN = ONNX_CUSTOM_OP_DOMAIN
OPSET = 1
"""The version of the domain."""

Array = npt.NDArray[Any]

_EXACT = re.compile(r"[+.]float32((?:\.[0-9a-f]{8})+)$")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: one tensor in, float32, and its quantized values out.

    Attributes:
        parameters: gives the grid or the table, from the arguments below by name.
        inputs: names of the inputs that follow the tensor, float32 of shape (C,).
        floats: names of the float attributes.
        integers: names of the integer attributes.
    """

    parameters: Callable[..., QuantParams | LookupTable]
    inputs: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    integers: tuple[str, ...] = ("num_bits",)


def get_ort_session_options() -> Any:
    """`onnxruntime.SessionOptions` for files with operators of the domain `mct_quantizers`.

    The kernels are Python functions in this process. They are checked against the quantizers to the last bit, but slow:
    files for production are better exported as standard ONNX.

    Raises:
        ImportError: onnxruntime or onnxruntime_extensions is not installed.
    """
    onnxruntime, extensions = (
        _lazy.import_optional(name, needed_by="get_ort_session_options")
        for name in ("onnxruntime", "onnxruntime_extensions")
    )
    _register_kernels()
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(extensions.get_library_path())
    return options


def version_attribute(floats: Iterable[float]) -> str:
    """The attribute `mctq_version` of a node with the attributes `floats`: the version, and their bits where needed."""
    singles = np.asarray(list(floats), np.float32)
    if (np.asarray([_six_digits(value) for value in singles], np.float32) == singles).all():
        return __version__
    bits = "".join(f".{value:08x}" for value in singles.view(np.uint32).tolist())
    return f"{__version__}{'.' if '+' in __version__ else '+'}float32{bits}"


def run_operator(op_type: str, x: Array, inputs: Iterable[Array], attributes: Mapping[str, Any]) -> Array:
    """The output of a node.

    Args:
        op_type: name of the operator.
        x: the tensor.
        inputs: the inputs that follow it.
        attributes: those of the operator; `mctq_version` where it has float attributes.

    Raises:
        ValueError: they describe no grid or table, or one that does not fit `x`.
    """
    constants = tuple(np.asarray(value, np.float32).tobytes() for value in inputs)
    params = operator_parameters(op_type, constants, tuple(sorted(attributes.items())))
    if params.axis is not None and attributes.get("input_rank", x.ndim) != x.ndim:
        raise ValueError(f"The input must have rank {attributes['input_rank']}. Received: shape {x.shape}")
    values: Array = quantized(x, params, numpy_ops)
    return values


def quantized(x: Tensor, params: QuantParams | LookupTable, ops: Ops) -> Tensor:
    """`x` on the grid or on the levels of the table: its shape and dtype."""
    if isinstance(params, QuantParams):
        return arithmetic.fake_quantize(x, params, ops)
    return arithmetic.lut_quantize(x, params, ops)


@functools.lru_cache(maxsize=1024)
def operator_parameters(
    op_type: str, constants: tuple[bytes, ...], attributes: tuple[tuple[str, Any], ...]
) -> QuantParams | LookupTable:
    """The grid or the table of a node.

    Args:
        op_type: name of the operator.
        constants: bytes of the float32 inputs that follow the tensor.
        attributes: name and value of each attribute.

    Raises:
        ValueError: they describe no grid or table.
    """
    operator, values = OPERATORS[op_type], dict(attributes)
    values.update(_exact_floats(operator.floats, values, values.pop(MCTQ_VERSION, __version__)))
    for name, data in zip(operator.inputs, constants, strict=True):
        values[name] = np.frombuffer(data, np.float32).astype(np.float64)
    return operator.parameters(**values)


def _exact_floats(names: tuple[str, ...], values: Mapping[str, float], version: str) -> dict[str, float]:
    """The float attributes as the file has them, of which `values` shows six digits."""
    found = _EXACT.search(version)
    if not names or found is None:
        return {}
    bits = [int(digits, 16) for digits in found[1].split(".")[1:]]
    exact = dict(zip(names, np.asarray(bits, np.uint32).view(np.float32).astype(float).tolist(), strict=True))
    for name, value in exact.items():
        if _six_digits(value) != _six_digits(values[name]):
            raise ValueError(
                f"`{MCTQ_VERSION}` must end in the bits of the attributes. "
                f"Received: {value} for {name}={values[name]}, {MCTQ_VERSION}={version}"
            )
    return exact


def _six_digits(value: float) -> float:
    return float(f"{float(value):.6g}")


def _axis(per_channel: int, channel_axis: int) -> int | None:
    return channel_axis if per_channel else None


def _activation_symmetric(threshold: float, signed: int, num_bits: int) -> QuantParams:
    return from_threshold(threshold, num_bits, bool(signed))


def _activation_pot(threshold: float, signed: int, num_bits: int) -> QuantParams:
    # Six digits show which power of two it is.
    power = float(arithmetic.power_of_two(np.float64(threshold), numpy_ops)) if threshold > 0 else threshold
    if _six_digits(power) == _six_digits(threshold):
        threshold = power
    return from_threshold(threshold, num_bits, bool(signed), power_of_two=True)


def _activation_uniform(min_range: float, max_range: float, num_bits: int) -> QuantParams:
    return from_range(min_range, max_range, num_bits)


def _weights_symmetric(
    threshold: Array, num_bits: int, per_channel: int, channel_axis: int, signed: int, power_of_two: bool = False
) -> QuantParams:
    axis = _axis(per_channel, channel_axis)
    return from_threshold(threshold, num_bits, bool(signed), axis=axis, power_of_two=power_of_two)


def _weights_uniform(
    min_range: Array, max_range: Array, num_bits: int, per_channel: int, channel_axis: int, signed: int
) -> QuantParams:
    del signed  # written for all weights; the range says it
    return from_range(min_range, max_range, num_bits, axis=_axis(per_channel, channel_axis))


def _weights_lut(
    lut_values: Array,
    threshold: Array,
    eps: float,
    num_bits: int,
    per_channel: int,
    channel_axis: int,
    input_rank: int,
    lut_values_bitwidth: int,
    signed: int,
    power_of_two: bool = False,
) -> LookupTable:
    del input_rank  # a property of the tensor
    if power_of_two:
        check_power_of_two("threshold", threshold)
    axis = _axis(per_channel, channel_axis)
    return LookupTable(lut_values, threshold, num_bits, bool(signed), lut_values_bitwidth, eps, axis)


_WEIGHTS = ("num_bits", "per_channel", "channel_axis", "signed")
_LUT = (("lut_values", "threshold"), ("eps",), (*_WEIGHTS, "input_rank", "lut_values_bitwidth"))

OPERATORS = {
    "ActivationSymmetricQuantizer": Operator(_activation_symmetric, (), ("threshold",), ("num_bits", "signed")),
    "ActivationPOTQuantizer": Operator(_activation_pot, (), ("threshold",), ("num_bits", "signed")),
    "ActivationUniformQuantizer": Operator(_activation_uniform, (), ("min_range", "max_range")),
    "WeightsSymmetricQuantizer": Operator(_weights_symmetric, ("threshold",), (), _WEIGHTS),
    "WeightsPOTQuantizer": Operator(
        functools.partial(_weights_symmetric, power_of_two=True), ("threshold",), (), _WEIGHTS
    ),
    "WeightsUniformQuantizer": Operator(_weights_uniform, ("min_range", "max_range"), (), _WEIGHTS),
    "WeightsLUTSymmetricQuantizer": Operator(_weights_lut, *_LUT),
    "WeightsLUTPOTQuantizer": Operator(functools.partial(_weights_lut, power_of_two=True), *_LUT),
}
"""Every operator of the domain, by name."""


@functools.cache
def _register_kernels() -> None:
    """Once for each process: the extensions keep what is registered."""
    extensions = _lazy.import_optional("onnxruntime_extensions", needed_by="get_ort_session_options")
    kinds = extensions.PyOp
    for op_type, operator in OPERATORS.items():
        attributes = {name: kinds.dt_int64 for name in operator.integers}
        if operator.floats:
            attributes |= {name: kinds.dt_float for name in operator.floats} | {MCTQ_VERSION: kinds.dt_string}
        extensions.onnx_op(
            op_type=f"{DOMAIN}::{op_type}",
            inputs=[kinds.dt_float] * (1 + len(operator.inputs)),
            outputs=[kinds.dt_float],
            attrs=attributes,
        )(_kernel(op_type))


def _kernel(op_type: str) -> Callable[..., Array]:
    def run(x: Array, *inputs: Array, **attributes: Any) -> Array:
        try:
            return run_operator(op_type, x, inputs, attributes)
        except Exception as error:  # any that left here would end the process
            _logger.error("The output of %s::%s is NaN: %s", DOMAIN, op_type, error)
            return np.full(x.shape, np.nan, np.float32)

    return run
