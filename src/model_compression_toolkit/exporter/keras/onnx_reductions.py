# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of `keras.ops` that make one number of many along axes, in operators of ONNX."""

from typing import Any

import numpy as np

from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["REDUCTIONS", "axes_of", "moments_of", "normalized"]


def axes_of(site: Site, axis: Any) -> list[int]:
    """The axes that are meant: all for None."""
    if axis is None:
        return list(range(site.rank))
    return [item % site.rank for item in ([axis] if isinstance(axis, int) else axis)]


def _reduced(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        if getattr(site.operation, "initial", None) is not None:
            site.refuse(f"initial={site.operation.initial}", "Use `keras.ops.maximum` or `keras.ops.minimum`.")
        x = site.operand(site.first, site.result.dtype)
        operation = site.operation
        return site.reduce(op_type, x, axes_of(site, operation.axis), bool(operation.keepdims))

    return translate


def _of_bools(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        x = site.cast(site.operand(site.first, "bool"), "int32")
        operation = site.operation
        return site.cast(site.reduce(op_type, x, axes_of(site, operation.axis), bool(operation.keepdims)), "bool")

    return translate


def _average(site: Site) -> str:
    if site.call.kwargs.get("weights") is not None:
        site.refuse("weights", "Multiply by them and divide by their sum.")
    return site.reduce(
        "ReduceMean", site.operand(site.first, site.result.dtype), axes_of(site, site.operation.axis), False
    )


def moments_of(site: Site, axes: list[int], keeps: bool) -> tuple[str, str]:
    """Mean and variance: the mean square of what is left without the mean, which large numbers do not cancel."""
    x = site.operand(site.first, site.result.dtype)
    mean = site.reduce("ReduceMean", x, axes, True)
    rest = site.apply("Sub", x, mean)
    variance = site.reduce("ReduceMean", site.apply("Mul", rest, rest), axes, keeps)
    return (mean if keeps else site.reduce("ReduceMean", x, axes, False)), variance


def _variance(site: Site) -> str:
    return moments_of(site, axes_of(site, site.operation.axis), bool(site.operation.keepdims))[1]


def _deviation(site: Site) -> str:
    return site.apply("Sqrt", _variance(site))


def _moments(site: Site) -> list[str]:
    return list(moments_of(site, axes_of(site, site.operation.axes), bool(site.operation.keepdims)))


def _norm(site: Site) -> str:
    order, axes = site.operation.ord, axes_of(site, site.operation.axis)
    x, keeps = site.operand(site.first, site.result.dtype), bool(site.operation.keepdims)
    return _norm_of(site, x, order, axes, keeps)


def _norm_of(site: Site, x: str, order: Any, axes: list[int], keeps: bool) -> str:
    if order in (None, "fro") or (order == 2 and len(axes) == 1):
        return site.apply("Sqrt", site.reduce("ReduceSumSquare", x, axes, keeps))
    if len(axes) > 1 or order == 0 or isinstance(order, str):
        site.refuse(f"ord={order!r} over the axes {axes}", "Supported: None, 'fro' and, over one axis, numbers but 0.")
    size = site.apply("Abs", x)
    if abs(order) == np.inf:
        return site.reduce("ReduceMax" if order > 0 else "ReduceMin", size, axes, keeps)
    if order == 1:
        return site.reduce("ReduceSum", size, axes, keeps)
    powers = site.apply("Pow", size, site.constant(np.float32(order), "order"))
    return site.apply(
        "Pow", site.reduce("ReduceSum", powers, axes, keeps), site.constant(np.float32(1 / order), "root")
    )


def _normalize(site: Site) -> str:
    operation = site.operation
    return normalized(site, axes_of(site, operation.axis), operation.order, operation.epsilon)


def normalized(site: Site, axes: list[int], order: int, epsilon: float | None) -> str:
    """The input over its norm along axes, which is `epsilon` at the least; the smallest that Keras allows for None."""
    x = site.operand(site.first, site.result.dtype)
    limit = np.float32(1e-7 if epsilon is None else epsilon)
    length = site.apply("Max", _norm_of(site, x, order, axes, True), site.constant(limit, "epsilon"))
    return site.apply("Div", x, length)


def _extreme_index(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        axis, keeps, x = site.operation.axis, bool(site.operation.keepdims), site.x
        if axis is None:
            x = site.reshape(x, [-1])
            index = site.add(op_type, x, axis=0, keepdims=0)
            sizes = [1] * site.rank
            return site.cast(site.reshape(index, sizes) if keeps else index, site.result.dtype)
        return site.cast(site.add(op_type, x, axis=axis % site.rank, keepdims=int(keeps)), site.result.dtype)

    return translate


def _cumulative_sum(site: Site) -> str:
    axis, x = site.operation.axis, site.operand(site.first, site.result.dtype)
    if axis is None:
        x, axis = site.reshape(x, [-1]), 0
    return site.add("CumSum", x, site.constant(np.int64(axis), "axis"))


def _top_k(site: Site) -> list[str]:
    count, name = site.int_constant([site.operation.k], "k"), f"{site.name}/topk"
    values, indices = site.builder.add_many("TopK", [site.x, count], name, 2, axis=-1, largest=1, sorted=1)
    return [values, site.cast(indices, site.call.outputs[1].dtype)]


def _one_hot(site: Site) -> str:
    indices, count = site.operand(site.first, "int64"), site.operation.num_classes
    # Indices out of the range are rows of zeros in Keras; ONNX counts negative ones from the end.
    is_outside = site.apply("Less", indices, site.constant(np.int64(0), "zero"))
    indices = site.apply("Where", is_outside, site.constant(np.int64(count), "outside"), indices)
    # ONNX Runtime has it for few types.
    parts = [site.constant(np.int64(count), "depth"), site.constant(np.array([0, 1], np.float32), "values")]
    rows = site.add("OneHot", indices, *parts, axis=site.operation.axis)
    return rows if site.result.dtype == "float32" else site.cast(rows, site.result.dtype)


# By the name of their class.
REDUCTIONS: dict[str, Translator] = {
    "Mean": _reduced("ReduceMean"),
    "Sum": _reduced("ReduceSum"),
    "Max": _reduced("ReduceMax"),
    "Min": _reduced("ReduceMin"),
    "Amax": _reduced("ReduceMax"),
    "Amin": _reduced("ReduceMin"),
    "Prod": _reduced("ReduceProd"),
    "Logsumexp": _reduced("ReduceLogSumExp"),
    "Any": _of_bools("ReduceMax"),
    "All": _of_bools("ReduceMin"),
    "Average": _average,
    "Var": _variance,
    "Std": _deviation,
    "Moments": _moments,
    "Norm": _norm,
    "Normalize": _normalize,
    "Argmax": _extreme_index("ArgMax"),
    "Argmin": _extreme_index("ArgMin"),
    "Cumsum": _cumulative_sum,
    "TopK": _top_k,
    "OneHot": _one_hot,
}
