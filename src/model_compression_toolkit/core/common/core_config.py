# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration classes of the interface's `mct.core`, read as the values that this package works with.

Each field has the name and the default of the interface. What this version does not do is refused where it is asked
for. A default that would do something is listed by `not_done`, and so in the notes of the returned plan.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from model_compression_toolkit.core.common import quantization_config as settings

__all__ = [
    "BitWidthConfig",
    "CoreConfig",
    "DebugConfig",
    "MixedPrecisionQuantizationConfig",
    "QuantizationConfig",
    "QuantizationErrorMethod",
    "not_done",
    "read_core_config",
]


class QuantizationErrorMethod(Enum):
    """What calibration minimizes when it chooses a range."""

    NOCLIPPING = 0
    """Nothing: the extremes that were seen."""
    MSE = 1
    """The mean squared error."""
    MAE = 2
    """The mean absolute error; not supported yet."""
    KL = 4
    """The Kullback-Leibler divergence of the histograms; not supported yet."""
    LP = 5
    """The mean error to the power of `l_p_value`; not supported yet."""
    HMSE = 6
    """The mean squared error, weighted by the Hessian; not supported yet."""


_SEARCHES = {
    QuantizationErrorMethod.NOCLIPPING: settings.RangeSearch.MIN_MAX,
    QuantizationErrorMethod.MSE: settings.RangeSearch.MSE,
}


@dataclass
class QuantizationConfig:
    """How ranges are chosen and what is corrected, in the words of the interface (`mct.core.QuantizationConfig`).

    This version reads both error methods; `NOCLIPPING` and `MSE` are supported. The other fields must keep their
    defaults. The modern class, `mct.QuantizationConfig`, says more: widths, grids, rules.

    Attributes:
        activation_error_method: how the ranges of activations are chosen.
        weights_error_method: how the ranges of weights are chosen.
        relu_bound_to_power_of_2: not supported yet.
        weights_bias_correction: not done yet, which the plan's notes say.
        weights_second_moment_correction: not supported yet.
        input_scaling: not supported yet.
        softmax_shift: not supported yet.
        shift_negative_activation_correction: not done yet, which the plan's notes say.
        activation_channel_equalization: not supported yet.
        z_threshold: not supported yet.
        min_threshold: not supported yet.
        l_p_value: not supported yet.
        linear_collapsing: not done yet, which the plan's notes say.
        residual_collapsing: not done yet, which the plan's notes say.
        shift_negative_ratio: not supported yet.
        shift_negative_threshold_recalculation: not supported yet.
        shift_negative_params_search: not supported yet.
        concat_threshold_update: not supported yet.
        activation_bias_correction: not supported yet.
        activation_bias_correction_threshold: not supported yet.
        custom_tpc_opset_to_layer: not supported yet.

    Example:
        >>> from model_compression_toolkit.core import CoreConfig, QuantizationConfig, QuantizationErrorMethod
        >>> CoreConfig(QuantizationConfig(activation_error_method=QuantizationErrorMethod.NOCLIPPING))  # doctest: +SKIP
    """

    activation_error_method: QuantizationErrorMethod = QuantizationErrorMethod.MSE
    weights_error_method: QuantizationErrorMethod = QuantizationErrorMethod.MSE
    relu_bound_to_power_of_2: bool = False
    weights_bias_correction: bool = True
    weights_second_moment_correction: bool = False
    input_scaling: bool = False
    softmax_shift: bool = False
    shift_negative_activation_correction: bool = True
    activation_channel_equalization: bool = False
    z_threshold: float = math.inf
    min_threshold: float = 2**-16
    l_p_value: int = 2
    linear_collapsing: bool = True
    residual_collapsing: bool = True
    shift_negative_ratio: float = 0.05
    shift_negative_threshold_recalculation: bool = False
    shift_negative_params_search: bool = False
    concat_threshold_update: bool = False
    activation_bias_correction: bool = False
    activation_bias_correction_threshold: float = 0.0
    custom_tpc_opset_to_layer: Any = None


@dataclass
class MixedPrecisionQuantizationConfig:
    """How a search for widths weighs them; there is no such search yet, so that no field has an effect.

    Attributes:
        num_of_images: samples for the sensitivities.
        use_hessian_based_scores: whether they are weighted by the Hessian.
    """

    num_of_images: int = 32
    use_hessian_based_scores: bool = False


@dataclass
class BitWidthConfig:
    """Widths of single layers, in the words of the interface; must be empty: use `mct.Rule`.

    Attributes:
        manual_activation_bit_width_selection_list: widths of activations.
        manual_weights_bit_width_selection_list: widths of weights.
    """

    manual_activation_bit_width_selection_list: list[Any] = field(default_factory=list)
    manual_weights_bit_width_selection_list: list[Any] = field(default_factory=list)


@dataclass
class DebugConfig:
    """Help for those who look for an error, in the words of the interface.

    Attributes:
        analyze_similarity: not supported yet.
        network_editor: must be empty: use `mct.Rule`.
        simulate_scheduler: not supported yet.
        bypass: whether the facade gives back the float model itself, and no information.
    """

    analyze_similarity: bool = False
    network_editor: list[Any] = field(default_factory=list)
    simulate_scheduler: bool = False
    bypass: bool = False


@dataclass
class CoreConfig:
    """What the interface's facades take as `core_config`.

    Attributes:
        quantization_config: how ranges are chosen.
        mixed_precision_config: of the search for widths, which does not exist yet.
        bit_width_config: widths of single layers; must be empty.
        debug_config: of which `bypass` is supported.
    """

    quantization_config: QuantizationConfig = field(default_factory=QuantizationConfig)
    mixed_precision_config: MixedPrecisionQuantizationConfig | None = field(
        default_factory=MixedPrecisionQuantizationConfig
    )
    bit_width_config: BitWidthConfig = field(default_factory=BitWidthConfig)
    debug_config: DebugConfig = field(default_factory=DebugConfig)

    @property
    def is_mixed_precision_enabled(self) -> bool:
        """Whether widths are searched for: never yet."""
        return False


_READ = {"activation_error_method", "weights_error_method", "bypass"}
_NOT_DONE = (
    "weights_bias_correction",
    "shift_negative_activation_correction",
    "linear_collapsing",
    "residual_collapsing",
)


def read_core_config(config: Any) -> settings.QuantizationConfig:
    """The modern configuration that a `core_config` asks for; a modern one comes back as it is, None is the default.

    Args:
        config: a `CoreConfig`, a modern `QuantizationConfig`, or None.

    Raises:
        NotImplementedError: a field asks for what this version does not do.
        TypeError: another type.
    """
    if config is None or isinstance(config, settings.QuantizationConfig):
        return config or settings.QuantizationConfig()
    if not isinstance(config, CoreConfig):
        raise TypeError(
            "`core_config` must be a `CoreConfig` or a `QuantizationConfig` of model_compression_toolkit. "
            f"Received: {type(config).__module__}.{type(config).__qualname__}"
        )
    for part in (config.quantization_config, config.bit_width_config, config.debug_config):
        _refuse_changed(part)
    asked = config.quantization_config
    base = settings.QuantizationConfig()
    return dataclasses.replace(
        base,
        weights=_with_search(base.weights, "weights_error_method", asked.weights_error_method),
        activations=_with_search(base.activations, "activation_error_method", asked.activation_error_method),
    )


def not_done(config: Any) -> tuple[str, ...]:
    """What the defaults of a `CoreConfig` would do and this version does not, as notes for the plan."""
    if not isinstance(config, CoreConfig):
        return ()
    asked = [name for name in _NOT_DONE if getattr(config.quantization_config, name)]
    return tuple(f"core_config: {name}=True is not done by this version" for name in asked)


def _refuse_changed(part: Any) -> None:
    for item in dataclasses.fields(part):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        value = getattr(part, item.name)
        may_be_off = item.name in _NOT_DONE and value is False
        if item.name not in _READ and not may_be_off and value != default:
            raise NotImplementedError(
                f"`{item.name}` of {type(part).__name__} is not supported yet and must be {default!r}. "
                f"Received: {item.name}={value!r}. Widths of single layers: `mct.QuantizationConfig(rules=[...])`"
            )


def _with_search(base: settings.TensorConfig, name: str, method: Any) -> settings.TensorConfig:
    if not isinstance(method, QuantizationErrorMethod):
        raise TypeError(f"`{name}` must be a QuantizationErrorMethod. Received: {name}={method!r}")
    if method not in _SEARCHES:
        supported = [member.name for member in _SEARCHES]
        raise NotImplementedError(f"`{name}` must be one of {supported} in this version. Received: {method.name}")
    return dataclasses.replace(base, range_search=_SEARCHES[method])
