# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How wrapper and holder call a quantizer, decided once: with the training flag or without."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from mct_quantizers.common.constants import TRAINING


def is_quantizer(value: Any) -> bool:
    """Whether `value` can be called and initialized as a quantizer."""
    return callable(value) and callable(getattr(value, "initialize_quantization", None))


def takes_training(quantizer: Any) -> bool:
    """Whether the call of `quantizer` has an argument named `training`."""
    # A module that keeps torch's own call runs `forward`; one that overrides it runs that.
    keeps_call = isinstance(quantizer, nn.Module) and type(quantizer).__call__ is nn.Module.__call__
    call = quantizer.forward if keeps_call else quantizer.__call__
    return TRAINING in inspect.signature(call).parameters


def inferable_of(quantizer: Any) -> Any:
    """What `quantizer` becomes for inference: the result of its `convert2inferable`, or itself when it has none."""
    convert: Callable[[], Any] | None = getattr(quantizer, "convert2inferable", None)
    return convert() if callable(convert) else quantizer
