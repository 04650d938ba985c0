# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How wrapper and holder call a quantizer, decided once: with the training flag or without."""

import inspect
from collections.abc import Callable
from typing import Any

from mct_quantizers.common.constants import ACTIVATION_HOLDER_QUANTIZER, TRAINING


def is_quantizer(value: Any) -> bool:
    """Whether `value` can be called and initialized as a quantizer."""
    return callable(value) and callable(getattr(value, "initialize_quantization", None))


def checked_holder_quantizer(quantizer: Any) -> Any:
    """`quantizer`, which a holder can hold.

    Raises:
        TypeError: it is no quantizer.
    """
    if not is_quantizer(quantizer):
        raise TypeError(f"`{ACTIVATION_HOLDER_QUANTIZER}` must be a quantizer. Received: {quantizer!r}")
    return quantizer


def takes_training(quantizer: Any) -> bool:
    """Whether the call of `quantizer` has an argument named `training`."""
    parameters = inspect.signature(quantizer.__call__).parameters
    if TRAINING not in parameters and any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
        # The call of a framework's module passes keywords on; its `call` (Keras) or `forward` (torch) tells more.
        # A Keras layer has both on torch.
        inner = getattr(quantizer, "call", None) or getattr(quantizer, "forward", None)
        parameters = parameters if inner is None else inspect.signature(inner).parameters
    return TRAINING in parameters


def frozen_weight_of(quantizer: Any, weight: Any) -> Any:
    """The weight to which what `quantizer` freezes to is applied: of its `frozen_weight`, or `weight` itself."""
    freeze: Callable[[Any], Any] | None = getattr(quantizer, "frozen_weight", None)
    return freeze(weight) if callable(freeze) else weight


def inferable_of(quantizer: Any) -> Any:
    """What `quantizer` becomes for inference: the result of its `convert2inferable`, or itself when it has none."""
    convert: Callable[[], Any] | None = getattr(quantizer, "convert2inferable", None)
    return convert() if callable(convert) else quantizer
