# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the facades of both frameworks share: refusing what is not supported, and what they tell the user."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from model_compression_toolkit.core.common.core_config import CoreConfig, not_done, read_core_config
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan


@dataclass(frozen=True, slots=True)
class UserInformation:
    """What a facade tells about the model it returns.

    Attributes:
        quantization_plan: what was quantized, and what was not, and why.
    """

    quantization_plan: QuantizationPlan

    @property
    def mixed_precision_cfg(self) -> list[int]:
        """Width of each quantized weight, in the order of execution."""
        return [t.config.num_bits for t in self.quantization_plan.quantized() if t.is_weight and t.config is not None]


def refuse_unsupported(**arguments: Any) -> None:
    """Arguments of the interface that must be None until they are supported.

    Raises:
        NotImplementedError: one is given.
    """
    for name, value in arguments.items():
        if value is not None:
            raise NotImplementedError(f"`{name}` is not supported yet and must be None. Received: {value!r}")


def not_supported_yet(name: str, instead: str) -> Callable[..., NoReturn]:
    """A function of the interface that this version does not have: each call raises NotImplementedError.

    Args:
        name: its name.
        instead: what to use, for the text of the error.
    """

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        raise NotImplementedError(f"`{name}` is not supported yet. Use {instead}.")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Not supported yet; use {instead}.\n\nRaises:\n    NotImplementedError: always.\n"
    return refuse


def with_information(
    model: Any, core_config: Any, flow: Callable[[QuantizationConfig], Any], plan_of: Callable[[Any], QuantizationPlan]
) -> tuple[Any, UserInformation | None]:
    """Run a facade of the interface: its result, and what to tell about it.

    Args:
        model: the float model.
        core_config: a `CoreConfig`, a modern `QuantizationConfig`, or None.
        flow: makes the quantized model from a modern configuration.
        plan_of: gives its plan.

    Returns:
        The quantized model and information about it; where the configuration says `bypass`, `model` itself and None.

    Raises:
        NotImplementedError: see `read_core_config`.
        TypeError: see `read_core_config`.
    """
    config = read_core_config(core_config)
    if isinstance(core_config, CoreConfig) and core_config.debug_config.bypass:
        return model, None
    result = flow(config)
    plan = plan_of(result)
    plan = dataclasses.replace(plan, notes=(*plan.notes, *not_done(core_config)))
    return result, UserInformation(plan)
