# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Find a quantizer class by what `mark_quantizer` wrote on it."""

from collections.abc import Iterator
from typing import Any

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID

_PACKAGE = f"{__name__.partition('.')[0]}."


def get_all_subclasses(cls: type) -> set[type]:
    """All direct and indirect subclasses of `cls` that are imported, without `cls`."""
    return set(_in_order_of_definition(cls))


def get_inferable_quantizer_class(
    quant_target: QuantizationTarget, quant_method: QuantizationMethod, quantizer_base_class: type
) -> Any:
    """The one inferable quantizer class under `quantizer_base_class` for a target and a method.

    A class that is defined again (a notebook cell run twice) replaces the former.

    Raises:
        ValueError: no class or several classes match; the text lists what exists.
    """
    marked = _inferable_classes(quantizer_base_class)
    found = _matching(marked, quant_target, quant_method)
    if len(found) != 1:
        raise ValueError(
            f"Expected one inferable quantizer for {quant_target} and {quant_method} under "
            f"{quantizer_base_class.__name__}. Received: {sorted(cls.__name__ for cls in found)} "
            f"of {sorted(cls.__name__ for cls in marked)}"
        )
    return found[0]


def get_built_in_quantizer_class(
    quant_target: QuantizationTarget, quant_method: QuantizationMethod, quantizer_base_class: type
) -> Any:
    """`get_inferable_quantizer_class` among the classes of this package: those of the user's own do not count."""
    own = [cls for cls in _inferable_classes(quantizer_base_class) if cls.__module__.startswith(_PACKAGE)]
    (found,) = _matching(own, quant_target, quant_method)
    return found


def latest_subclasses(cls: type) -> list[type]:
    """All subclasses of `cls` in the order of their definition, of a class that was defined again only the latest."""
    return list({(item.__module__, item.__qualname__): item for item in _in_order_of_definition(cls)}.values())


def _inferable_classes(base: type) -> list[Any]:
    return [
        cls
        for cls in latest_subclasses(base)
        if getattr(cls, "identifier", None) is QuantizerID.INFERABLE and getattr(cls, "quantization_target", None)
    ]


def _matching(classes: list[Any], target: QuantizationTarget, method: QuantizationMethod) -> list[Any]:
    return [
        cls
        for cls in classes
        if vars(cls).get("quantization_target") is target and method in (vars(cls).get("quantization_method") or ())
    ]


def _in_order_of_definition(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _in_order_of_definition(subclass)
