# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Attention layers: projections as products with matrices, which integer engines know, and a softmax between them."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_quantization import Layout
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["ATTENTION", "ATTENTION_ARGUMENTS"]

Array = npt.NDArray[Any]

ATTENTION_ARGUMENTS = ("value", "key", "attention_mask", "use_causal_mask", "return_attention_scores")
"""What can be exported of what the layers take besides their first input."""

_MASKED = float(np.finfo(np.float32).min)


@dataclasses.dataclass(frozen=True, slots=True)
class _Heads:
    """What the two classes of layers have under different names.

    Attributes:
        prefix: what the names of the inner layers begin with.
        num_heads: number of heads of the query.
        num_key_heads: number of heads of key and value.
        head_size: length of a head's query.
    """

    prefix: str
    num_heads: int
    num_key_heads: int
    head_size: int


def _multi_head(site: Site) -> str | list[str]:
    layer = site.operation
    if site.rank != 3 or tuple(layer.attention_axes) != (1,):
        site.refuse(
            f"an input of {site.rank} axes and attention_axes={layer.attention_axes}",
            "Reshape its inputs to (batch, length, features) and leave `attention_axes` out.",
        )
    return _attention(site, _Heads("", layer.num_heads, layer.num_heads, layer.key_dim))


def _grouped_query(site: Site) -> str | list[str]:
    layer = site.operation
    # The inner layers have no public names.
    return _attention(site, _Heads("_", layer.num_query_heads, layer.num_key_value_heads, layer.head_dim))


def _attention(site: Site, heads: _Heads) -> str | list[str]:
    """The result; followed by the scores where the model asks for them.

    A query that a mask keeps from all keys has no defined result: backends of Keras differ. In the file it attends to
    all keys alike.
    """
    if site.operation.get_config().get("use_gate"):
        site.refuse("use_gate=True", "Multiply by the gate behind the layer, or leave it out.")
    query, value = site.call.args[0], site.arguments["value"]
    key = site.arguments.get("key")
    if len(site.call.outputs) > 1 and site.call.outputs[1].shape[-1] != value.shape[1]:
        # Keras tells (batch, heads, queries, queries) of them.
        site.refuse("return_attention_scores=True and keys of another length", "Leave the scores out, or pad the keys.")
    sources = {"query": query, "key": value if key is None else key, "value": value}
    parts = {
        part: _split_heads(site, site.names[source], f"{heads.prefix}{part}_dense") for part, source in sources.items()
    }
    if heads.num_heads != heads.num_key_heads:
        groups = np.arange(heads.num_heads) // (heads.num_heads // heads.num_key_heads)
        for part in ("key", "value"):
            parts[part] = site.add("Gather", parts[part], site.int_constant(groups.tolist(), "groups"), axis=2)
    scaled = site.apply("Mul", parts["query"], site.constant(np.float32(1 / math.sqrt(heads.head_size)), "scale"))
    transpose = site.builder.transpose
    scores = site.add("MatMul", transpose(scaled, (0, 2, 1, 3)), transpose(parts["key"], (0, 2, 3, 1)))
    mask = _mask(site, site.names[query], site.names[value])
    if mask is not None:
        scores = site.add("Where", mask, scores, site.constant(np.float32(_MASKED), "masked"))
    shares = site.add("Softmax", scores, axis=-1)
    mixed = site.add("MatMul", shares, transpose(parts["value"], (0, 2, 1, 3)))
    joined = site.reshape(transpose(mixed, (0, 2, 1, 3)), [0, 0, -1])
    name = f"{heads.prefix}output_dense"
    result, shape = _projected(site, joined, name, num_inner=2)
    if len(shape) > 1:
        result = site.reshape(result, [0, 0, *shape])
    return [result, shares] if len(site.call.outputs) > 1 else result


def _split_heads(site: Site, x: str, name: str) -> str:
    """The projection of an input, shape (batch, length, heads, size)."""
    projected, shape = _projected(site, x, name, num_inner=1)
    return site.reshape(projected, [0, 0, *shape])


def _projected(site: Site, x: str, name: str, num_inner: int) -> tuple[str, list[int]]:
    """`x` times the kernel of an inner layer, as a matrix of which the first `num_inner` axes are the rows, and more.

    Returns:
        The product with its bias, shape (batch, length, columns), and the sizes of the axes that the columns merge.
    """
    layer = getattr(site.operation, name)
    shape = tuple(layer.kernel.shape)
    matrix: Layout = lambda kernel: kernel.reshape(math.prod(shape[:num_inner]), -1)  # noqa: E731
    y = site.add("MatMul", x, site.weight(f"{name}.kernel", matrix))
    if layer.bias is not None:
        y = site.add("Add", site.weight(f"{name}.bias", np.ravel), y)
    return y, list(shape[num_inner:])


def _mask(site: Site, query: str, value: str) -> str | None:
    """Where a query attends to a key, of a shape that broadcasts to (batch, heads, queries, keys); None if always."""
    mask, given = None, site.arguments.get("attention_mask")
    if given is not None:
        mask = site.operand(given, "bool")
        if len(given.shape) == 3:
            mask = site.add("Unsqueeze", mask, site.int_constant([1], "axes"))
    band = _band(site, query, value)
    if mask is None or band is None:
        return band if mask is None else mask
    return site.add("And", mask, band)


def _band(site: Site, query: str, value: str) -> str | None:
    """The mask that depends on the positions only, shape (queries, keys): causal, near, or both."""
    is_causal, window = site.arguments.get("use_causal_mask"), site.operation.get_config().get("sliding_window")
    if not is_causal and window is None:
        return None
    lengths = [site.add("Shape", x, start=1, end=2) for x in (query, value)]
    filled = onnx.helper.make_tensor("value", onnx.TensorProto.BOOL, [1], [True])
    band = site.add("ConstantOfShape", site.add("Concat", *lengths, axis=0), value=filled)
    if window is not None:
        band = site.add("Trilu", band, site.constant(np.int64(window - 1), "last"), upper=0)
        band = site.add("Trilu", band, site.constant(np.int64(1 - window), "first"), upper=1)
    return site.add("Trilu", band, upper=0) if is_causal else band


ATTENTION: dict[type, Translator] = {
    layers.MultiHeadAttention: _multi_head,
    layers.GroupQueryAttention: _grouped_query,
}
