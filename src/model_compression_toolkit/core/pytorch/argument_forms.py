# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The form of an argument: lists, tuples and dictionaries of tensors, and the values of what is no tensor."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model_compression_toolkit.core.pytorch.data import map_nested

SIMPLE = (bool, int, float, str, type(None))
"""Types of values that code can hold; a graph is fixed to them."""


def structure_of(value: Any) -> Any:
    """An argument with `torch.Tensor` in place of each tensor."""
    return map_nested(lambda leaf: Tensor if leaf is Tensor or isinstance(leaf, Tensor) else leaf, value)


def to_json(structure: Any) -> Any:
    """The structure of an argument in plain values; `from_json` restores it, a named tuple as a tuple."""
    if structure is Tensor:
        return {"tensor": True}
    if isinstance(structure, Mapping):
        return {"dict": {key: to_json(item) for key, item in structure.items()}}
    if isinstance(structure, tuple):
        return {"tuple": [to_json(item) for item in structure]}
    return [to_json(item) for item in structure] if isinstance(structure, list) else structure


def from_json(values: Any) -> Any:
    """The structure that `to_json` wrote."""
    if isinstance(values, Mapping):
        if "tensor" in values:
            return Tensor
        if "tuple" in values:
            return tuple(from_json(item) for item in values["tuple"])
        return {key: from_json(item) for key, item in values["dict"].items()}
    return [from_json(item) for item in values] if isinstance(values, list) else values


def fits(value: Any, expected: Any) -> bool:
    """Whether an argument has a form, and the same values where it is no tensor."""
    if expected is Tensor:
        # Whatever stands for a tensor, such as those of a compiler.
        return value is not None and not isinstance(value, (*SIMPLE, list, tuple, dict))
    if isinstance(expected, Mapping):
        return (
            isinstance(value, Mapping)
            and set(value) == set(expected)
            and all(fits(value[key], item) for key, item in expected.items())
        )
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(expected)
            and all(fits(a, b) for a, b in zip(value, expected, strict=True))
        )
    return value is expected or (type(value) is type(expected) and value == expected)


def shown(name: str, value: Any) -> str:
    """An argument, or its form, for the text of errors."""
    if value is Tensor or isinstance(value, Tensor):
        return f"a tensor as {name!r}"
    if isinstance(value, (list, tuple, Mapping)):
        return f"a {type(value).__name__} of {len(value)} as {name!r}"
    return f"{name}={value!r}"


def opened(proxy: Any, expected: Any) -> Any:
    """Lists, tuples and dictionaries of proxies in the form of the argument; what is no tensor is fixed."""
    if expected is Tensor:
        return proxy
    if isinstance(expected, Mapping):
        return {key: opened(proxy[key], item) for key, item in expected.items() if not _is_fixed(item)} | {
            key: item for key, item in expected.items() if _is_fixed(item)
        }
    if isinstance(expected, (list, tuple)):
        items = [item if _is_fixed(item) else opened(proxy[i], item) for i, item in enumerate(expected)]
        return type(expected)(*items) if hasattr(expected, "_fields") else type(expected)(items)
    return expected


def _is_fixed(expected: Any) -> bool:
    return expected is not Tensor and not isinstance(expected, (list, tuple, Mapping))
