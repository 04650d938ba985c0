# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of `keras.ops` that compute each element from those at its place, in operators of ONNX."""

import math
from typing import Any

import keras
import numpy as np

from model_compression_toolkit.core.keras.graph import Value
from model_compression_toolkit.exporter.keras.onnx_activations import ACTIVATIONS, clipped, gelu, leaky_relu, softmax
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["ELEMENTWISE"]


def _unary(op_type: str) -> Translator:
    return lambda site: site.apply(op_type, _input(site))


def _input(site: Site) -> str:
    return site.operand(site.call.args[0], site.result.dtype)


def _operands(site: Site, dtype: str | None = None) -> tuple[str, str]:
    left, right = site.call.args[:2]
    dtype = site.result.dtype if dtype is None else dtype
    return site.operand(left, dtype), site.operand(right, dtype)


def _binary(op_type: str) -> Translator:
    return lambda site: site.apply(op_type, *_operands(site))


def _logical(op_type: str) -> Translator:
    return lambda site: site.apply(op_type, *_operands(site, "bool"))


def _test(op_type: str) -> Translator:
    return lambda site: site.apply(op_type, site.x)


def _activation(name: str) -> Translator:
    return lambda site: ACTIVATIONS[name](site, site.x)


def _compare(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        types = [item.dtype if isinstance(item, Value) else _dtype_of(item) for item in site.call.args[:2]]
        return site.apply(op_type, *_operands(site, keras.backend.result_type(*types)))

    return translate


def _dtype_of(constant: Any) -> Any:
    """A number of Python takes the dtype of what it is compared with."""
    return (
        type(constant)
        if isinstance(constant, (bool, int, float))
        else keras.backend.standardize_dtype(getattr(constant, "dtype", np.asarray(constant).dtype))
    )


def _number(site: Site, value: float, part: str) -> str:
    return site.constant(np.array(value, site.result.dtype), part)


def _not_equal(site: Site) -> str:
    return site.apply("Not", _compare("Equal")(site))  # type: ignore[arg-type]  # one result


def _logical_not(site: Site) -> str:
    return site.apply("Not", site.operand(site.call.args[0], "bool"))


def _rsqrt(site: Site) -> str:
    return site.apply("Reciprocal", site.apply("Sqrt", _input(site)))


def _square(site: Site) -> str:
    x = _input(site)
    return site.apply("Mul", x, x)


def _log_in_base(base: float) -> Translator:
    return lambda site: site.apply("Div", site.apply("Log", _input(site)), _number(site, math.log(base), "base"))


def _log1p(site: Site) -> str:
    return site.apply("Log", site.apply("Add", _number(site, 1.0, "one"), _input(site)))


def _expm1(site: Site) -> str:
    return site.apply("Sub", site.apply("Exp", _input(site)), _number(site, 1.0, "one"))


def _trunc(site: Site) -> str:
    x = _input(site)
    return site.apply("Mul", site.apply("Sign", x), site.apply("Floor", site.apply("Abs", x)))


def _round(site: Site) -> str:
    if getattr(site.operation, "decimals", 0):
        site.refuse(f"decimals={site.operation.decimals}", "Multiply, round, and divide.")
    return site.apply("Round", _input(site))


def _is_integer(site: Site) -> bool:
    return "int" in site.result.dtype


def _floor_divide(site: Site) -> str:
    if _is_integer(site):
        site.refuse("integers", "Cast them to float32 before: ONNX rounds quotients of integers to zero.")
    return site.apply("Floor", site.apply("Div", *_operands(site)))


def _mod(site: Site) -> str:
    left, right = _operands(site)
    if _is_integer(site):
        return site.apply("Mod", left, right)
    # The sign of the divisor; that of Mod for floats is the dividend's.
    whole = site.apply("Floor", site.apply("Div", left, right))
    return site.apply("Sub", left, site.apply("Mul", whole, right))


def _divide_no_nan(site: Site) -> str:
    left, right = _operands(site)
    zero = _number(site, 0.0, "zero")
    return site.apply("Where", site.apply("Equal", right, zero), zero, site.apply("Div", left, right))


def _clip(site: Site) -> str:
    low, high = site.operation.x_min, site.operation.x_max
    if any(isinstance(end, Value) or np.ndim(end) for end in (low, high)):
        site.refuse("ends that are no numbers", "Use `keras.ops.minimum` and `keras.ops.maximum`.")
    if site.result.dtype == "float32":
        return clipped(site, _input(site), low, high)
    ends = [_number(site, end, part) for part, end in (("low", low), ("high", high))]
    return site.apply("Clip", _input(site), *ends)


def _where(site: Site) -> str:
    condition, *branches = site.call.args
    if len(branches) != 2 or any(branch is None for branch in branches):
        site.refuse("a condition only", "Give it both branches: the number of results depends on values.")
    others = [site.operand(branch, site.result.dtype) for branch in branches]
    return site.apply("Where", site.operand(condition, "bool"), *others)


def _cast(site: Site) -> str:
    return site.operand(site.first, site.result.dtype)


def _elu(op_type: str) -> Translator:
    return lambda site: site.apply(op_type, site.x, alpha=float(site.operation.alpha))


def _shrink(is_soft: bool) -> Translator:
    def translate(site: Site) -> str:
        threshold = float(site.operation.threshold)
        return site.apply("Shrink", site.x, lambd=threshold, bias=threshold if is_soft else 0.0)

    return translate


def _squareplus(site: Site) -> str:
    root = site.apply("Sqrt", site.apply("Add", _number(site, site.operation.b, "b"), _square(site)))
    return site.apply("Mul", site.apply("Add", site.x, root), _number(site, 0.5, "half"))


def _softmax(is_log: bool) -> Translator:
    def translate(site: Site) -> str:
        axis = site.operation.axis
        if not isinstance(axis, int):
            site.refuse(f"axis={axis}", "Use one axis, or `keras.layers.Softmax` over several.")
        return softmax(site, site.x, [axis], site.rank, is_log)

    return translate


# By the name of their class.
ELEMENTWISE: dict[str, Translator] = {
    **{name: _binary(op_type) for name, op_type in {
        "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "TrueDivide": "Div", "Power": "Pow",
        "Maximum": "Max", "Minimum": "Min",
    }.items()},
    **{name: _unary(op_type) for name, op_type in {
        "Negative": "Neg", "Absolute": "Abs", "Exp": "Exp", "Log": "Log", "Sqrt": "Sqrt", "Sin": "Sin",
        "Cos": "Cos", "Tan": "Tan", "Arcsin": "Asin", "Arccos": "Acos", "Arctan": "Atan", "Sinh": "Sinh",
        "Cosh": "Cosh", "Arcsinh": "Asinh", "Arccosh": "Acosh", "Arctanh": "Atanh", "Erf": "Erf", "Floor": "Floor",
        "Ceil": "Ceil", "Reciprocal": "Reciprocal", "Sign": "Sign",
    }.items()},
    **{name: _compare(op_type) for name, op_type in {
        "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LessEqual": "LessOrEqual",
        "Equal": "Equal",
    }.items()},
    **{name: _logical(op_type) for name, op_type in {
        "LogicalAnd": "And", "LogicalOr": "Or", "LogicalXor": "Xor",
    }.items()},
    **{name: _activation(function) for name, function in {
        "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "Silu": "silu", "Selu": "selu",
        "Softplus": "softplus", "Softsign": "softsign", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu",
        "HardTanh": "hard_tanh", "LogSigmoid": "log_sigmoid", "TanhShrink": "tanh_shrink",
        "SparseSigmoid": "sparse_sigmoid",
    }.items()},
    "Isnan": _test("IsNaN"),
    "Isinf": _test("IsInf"),
    "NotEqual": _not_equal,
    "LogicalNot": _logical_not,
    "Round": _round,
    "Trunc": _trunc,
    "Rsqrt": _rsqrt,
    "Square": _square,
    "Log1p": _log1p,
    "Log2": _log_in_base(2.0),
    "Log10": _log_in_base(10.0),
    "Expm1": _expm1,
    "FloorDivide": _floor_divide,
    "Mod": _mod,
    "DivideNoNan": _divide_no_nan,
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "ConvertToTensor": _cast,
    "StopGradient": _cast,
    "Copy": _cast,
    "Elu": _elu("Elu"),
    "Celu": _elu("Celu"),
    "HardShrink": _shrink(is_soft=False),
    "SoftShrink": _shrink(is_soft=True),
    "Squareplus": _squareplus,
    "LeakyRelu": lambda site: leaky_relu(site, site.x, site.operation.negative_slope),
    "Gelu": lambda site: gelu(site, site.x, bool(site.operation.approximate)),
    "Softmax": _softmax(is_log=False),
    "LogSoftmax": _softmax(is_log=True),
}  # fmt: skip
