# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What marks a class as a quantizer, and what every quantizer offers to the layer that carries it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID

__all__ = [
    "BaseInferableQuantizer",
    "QuantizationMethod",
    "QuantizationTarget",
    "QuantizerID",
    "mark_quantizer",
]

QuantizerClass = TypeVar("QuantizerClass", bound=type)


def mark_quantizer(
    quantization_target: QuantizationTarget | None = None,
    quantization_method: list[QuantizationMethod] | None = None,
    identifier: Any = None,
    quantizer_type: Any = None,
) -> Callable[[QuantizerClass], QuantizerClass]:
    """Class decorator: says what the quantizer quantizes, on which grids, and for which task it is found.

    Args:
        quantization_target: weights or activations.
        quantization_method: the grids that the class serves.
        identifier: any value that tells the task: `QuantizerID.INFERABLE`, or a training method.
        quantizer_type: the older word for `identifier`.

    Raises:
        ValueError: `identifier` and `quantizer_type` are both given and differ.
    """
    if identifier is not None and quantizer_type is not None and identifier != quantizer_type:
        raise ValueError(
            "`identifier` and `quantizer_type` are two words for one value; give one. "
            f"Received: identifier={identifier!r}, quantizer_type={quantizer_type!r}"
        )
    task = quantizer_type if identifier is None else identifier

    def mark(cls: QuantizerClass) -> QuantizerClass:
        for name, value in (
            ("quantization_target", quantization_target),
            ("quantization_method", quantization_method),
            ("identifier", task),
            ("quantizer_type", task),
        ):
            setattr(cls, name, value)
        return cls

    return mark


class BaseInferableQuantizer:
    """A quantizer that is ready for inference: it holds all that it needs."""

    def initialize_quantization(
        self, tensor_shape: Sequence[int] | None, name: str | None, layer: Any
    ) -> dict[str, Any]:
        """Create variables on the layer that carries the quantizer. Inferable quantizers need none.

        Args:
            tensor_shape: shape of the tensor to quantize, None for activations.
            name: prefix for the names of the variables.
            layer: the wrapper or holder.
        """
        del tensor_shape, name, layer
        return {}
