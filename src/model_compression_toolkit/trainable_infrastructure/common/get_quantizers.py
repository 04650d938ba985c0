# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Find a trainable quantizer class by what `mark_quantizer` wrote on it."""

import warnings
from typing import Any

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.registry import get_all_subclasses, latest_subclasses

__all__ = ["get_trainable_quantizer_class"]


def get_trainable_quantizer_class(
    quant_target: QuantizationTarget, quantizer_id: Any, quant_method: QuantizationMethod, quantizer_base_class: type
) -> Any:
    """The one trainable quantizer class under `quantizer_base_class` for a target, a training method and a grid.

    A class that is defined again (a notebook cell run twice) replaces the former, with a warning.

    Args:
        quant_target: weights or activations.
        quantizer_id: the `identifier` of the class: a training method, or any value.
        quant_method: the grid.
        quantizer_base_class: only its subclasses count.

    Raises:
        ValueError: no class or several classes match; the text lists what exists.
    """
    marked = [cls for cls in latest_subclasses(quantizer_base_class) if _target(cls) is not None]
    found = [
        cls
        for cls in marked
        if _target(cls) is quant_target
        and quant_method in (getattr(cls, "quantization_method", None) or ())
        and getattr(cls, "identifier", None) == quantizer_id
        # A subclass that is not marked itself is another class's detail.
        and "quantization_target" in vars(cls)
    ]
    if len(found) != 1:
        raise ValueError(
            f"Expected one trainable quantizer for {quant_target}, {quantizer_id!r} and {quant_method.name} under "
            f"{quantizer_base_class.__name__}. Received: {sorted(cls.__name__ for cls in found)} "
            f"of {sorted(cls.__name__ for cls in marked)}"
        )
    _warn_of_former(found[0], quantizer_base_class)
    return found[0]


def _target(cls: type) -> Any:
    return getattr(cls, "quantization_target", None)


def _warn_of_former(cls: type, base: type) -> None:
    name = (cls.__module__, cls.__qualname__)
    if sum((other.__module__, other.__qualname__) == name for other in get_all_subclasses(base)) > 1:
        warnings.warn(f"{cls.__name__} is defined more than once; the last definition counts.", stacklevel=3)
