# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`Method`: what a training method says once, for every framework, for weights and activations."""

import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32 number: every scale that calibration finds counts as it is."""

GRIDS = frozenset({QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM})
"""The grids of integers."""

STEP = "step"
"""Name of the state that counts the steps of training."""

_METHODS: dict[str, type["Method"]] = {}


@dataclass(frozen=True, slots=True)
class Learned:
    """A tensor of a method's state.

    Attributes:
        value: initial value, of any shape but ().
        trainable: whether it gets a gradient; else it is kept as a buffer.
        per_scale: whether it has one element for each scale, shape (1,) or (C,), and is handed to `Method.quantize`
            shaped to broadcast against the tensor; else it is handed over as it is.
        unit: what an optimizer counts it in, powers of two, shape of `value`; None for 1. Adam moves a number by the
            learning rate, whatever its size: one that is far from 1 must be counted in units of its own size.
    """

    value: npt.NDArray[Any]
    trainable: bool = True
    per_scale: bool = True
    unit: npt.NDArray[Any] | None = None


class Method(ABC):
    """A way to train a quantizer. Subclass it in one file; the class header registers it.

    For example `class MyMethod(Method, name="MY_METHOD", supports={QuantizationMethod.SYMMETRIC})`.

    The state is a dictionary of tensors; those of the base class are `scale` and, on uniform grids, `zero_point`.
    `parameters` says what is learned, `quantize` what happens in training, `freeze` what runs afterwards. A method that
    computes something else in evaluation than in training overrides `evaluate`; one whose weights are not quantized by
    rounding to the nearest level overrides `frozen_weight`. The frozen quantizer, applied to the frozen weight, must
    compute what `evaluate` computes.

    Keyword arguments of a subclass's constructor are settings of the method: they come from
    `QATConfig(weight_quantizer_params_override=…)`, and are saved with the quantizer.

    Args:
        quantization_method: the grid.
        quantization_target: weight or activation.

    Attributes:
        name: under which configurations find it.
        supports: the grids that it can train.
        targets: what it can train: weights, activations or both.

    Raises:
        ValueError: the name is taken by another class, or the grid or target is not supported.
    """

    name: ClassVar[str] = ""
    supports: ClassVar[frozenset[QuantizationMethod]] = frozenset()
    targets: ClassVar[frozenset[QuantizationTarget]] = frozenset(QuantizationTarget)

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        supports: AbstractSet[QuantizationMethod] | None = None,
        targets: AbstractSet[QuantizationTarget] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if targets is not None:
            cls.targets = frozenset(targets)
        if name is None:
            return
        if not supports:
            raise ValueError(
                f"`supports` must name at least one QuantizationMethod. Received: {supports!r} for {name!r}"
            )
        taken = _METHODS.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"The training method name {name!r} is taken by {taken.__module__}.{taken.__qualname__}. "
                f"Registered: {sorted(_METHODS)}"
            )
        cls.name, cls.supports = name, frozenset(supports)
        _METHODS[name] = cls

    def __init__(
        self,
        quantization_method: QuantizationMethod,
        quantization_target: QuantizationTarget = QuantizationTarget.Weights,
    ) -> None:
        if quantization_method not in self.supports:
            raise ValueError(
                f"{self.name} trains {sorted(m.name for m in self.supports)}. Received: {quantization_method.name}"
            )
        if quantization_target not in self.targets:
            raise ValueError(
                f"{self.name} trains {sorted(t.name for t in self.targets)}. Received: {quantization_target.name}"
            )
        self.quantization_method = quantization_method
        self.quantization_target = quantization_target

    @property
    def is_weight(self) -> bool:
        """Whether it trains the quantizer of a weight."""
        return self.quantization_target is QuantizationTarget.Weights

    @abstractmethod
    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """The state at the start: name → `Learned`.

        Args:
            params: the calibrated grid.
            x_shape: shape of a weight; None for an activation.
        """

    @abstractmethod
    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """Quantized values of `x` in training, differentiable: shape and dtype of `x`.

        Args:
            x: float32 or float64.
            learned: the state in the dtype of `x`.
            params: the calibrated grid; its integers (`quant_min`, `quant_max`, `axis`) hold throughout.
            ops: the framework's tensor functions.
        """

    def evaluate(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """Quantized values of `x` in evaluation; those of training unless a method says otherwise."""
        return self.quantize(x, learned, params, ops)

    def advance(self, learned: Mapping[str, Tensor], ops: Ops) -> dict[str, Tensor]:
        """New values of state that is not trained, after each step of training: the `counter`, if there is one."""
        del ops
        return {STEP: learned[STEP] + 1.0} if STEP in learned else {}

    def regularization(
        self, x: Tensor | None, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops
    ) -> Tensor | None:
        """What the method adds to the loss of training, shape (); None adds nothing.

        Args:
            x: the weight; None for an activation.
            learned: the state.
            params: the calibrated grid.
            ops: the framework's tensor functions.
        """
        del x, learned, params, ops
        return None

    def frozen_weight(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """The weight to which the frozen quantizer is applied: `x` itself unless a method changes it."""
        del learned, params, ops
        return x

    def freeze(self, learned: Mapping[str, npt.NDArray[Any]], params: QuantParams) -> QuantParams | LookupTable:
        """The grid, or the table of levels, that runs after training.

        Args:
            learned: the state as NumPy arrays, of the shapes that `parameters` gave.
            params: the calibrated grid.
        """
        scale = np.asarray(learned["scale"], dtype=np.float32)
        # From the state: it may have been loaded into a network that was calibrated on other data.
        zero_point = learned.get("zero_point", params.zero_point)
        return dataclasses.replace(params, scale=self.effective_scale(scale, numpy_ops), zero_point=zero_point)

    @staticmethod
    def counter() -> dict[str, Learned]:
        """State that counts the steps of training, `learned[STEP]`, shape (1,)."""
        return {STEP: Learned(np.zeros(1, np.float32), trainable=False, per_scale=False)}

    def grid(self, params: QuantParams, trainable: bool) -> dict[str, Learned]:
        """The usual state: `scale`, trainable or not, and a fixed `zero_point` on uniform grids."""
        state = {"scale": learned_scale(params.scale, trainable)}
        if self.quantization_method is QuantizationMethod.UNIFORM:
            # In floating point: averages of models would truncate integers.
            state["zero_point"] = Learned(params.zero_point.astype(np.float32), trainable=False)
        return state

    def effective_scale(self, scale: Tensor, ops: Ops) -> Tensor:
        """The positive scale that a learned number stands for, with a straight-through gradient.

        Its magnitude, so that an optimizer's step across zero leaves a valid grid; for power-of-two grids the nearest
        power of two in the logarithm.
        """
        magnitude = ops.absolute(scale)
        # No maximum: that of some compilers hides NaN.
        positive = ops.where(magnitude < SMALLEST_SCALE, SMALLEST_SCALE, magnitude)
        if self.quantization_method is QuantizationMethod.POWER_OF_TWO:
            return arithmetic.with_gradient_of(arithmetic.power_of_two(positive, ops), positive, ops)
        return positive

    def rounded(
        self,
        x: Tensor,
        learned: Mapping[str, Tensor],
        params: QuantParams,
        ops: Ops,
        gradient_factor: Any = 1.0,
    ) -> Tensor:
        """`x` on the learned grid, with the gradients of `Ops.fake_quantize_learned`."""
        scale = self.effective_scale(learned["scale"], ops)
        return ops.fake_quantize_learned(
            x, scale, learned.get("zero_point"), params.quant_min, params.quant_max, gradient_factor
        )

    def gradient_factor(self, x: Tensor, scale: Tensor, params: QuantParams, ops: Ops) -> Any:
        """1/sqrt(N · quant_max) (Esser et al. 2020, section 2.2).

        N elements of a weight, or of one sample of an activation, share a scale: what the paper calls weights and
        features. Axis 0 of an activation counts its samples. So the gradient of a mean over samples is the same in one
        batch, in several small ones whose gradients are added up, and on several devices.
        """
        elements = ops.size(x) if self.is_weight else ops.sample_size(x)
        # Without elements the gradient is zero, and so is its product with a factor that is a number. The addition is
        # lost in any other: N and quant_max are at least 1.
        return (elements / ops.size(scale) * max(params.quant_max, 1) + 1e-30) ** -0.5


def learned_scale(scale: npt.NDArray[Any], trainable: bool = True) -> Learned:
    """A scale as state, counted in units of its own size; float64, (1,) or (C,)."""
    value = scale.astype(np.float32)
    return Learned(value, trainable, unit=power_of_two_unit(value))


def power_of_two_unit(size: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The power of two nearest to each positive number, in the logarithm: quotients and products with it are exact."""
    unit: npt.NDArray[Any] = arithmetic.power_of_two(size.astype(np.float32), numpy_ops)
    return unit


def registered_names() -> list[str]:
    """Names of all training methods, sorted."""
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The training method registered under `name`.

    Raises:
        ValueError: there is none; the text lists those that exist.
    """
    try:
        return _METHODS[name]
    except (KeyError, TypeError):
        raise ValueError(f"The training method must be one of {registered_names()}. Received: {name!r}") from None


def settings_of(method: type[Method]) -> dict[str, inspect.Parameter]:
    """The settings of a method, those of its base classes among them, by name."""
    return {
        item.name: item
        for cls in method.__mro__
        if "__init__" in vars(cls)
        for item in inspect.signature(vars(cls)["__init__"]).parameters.values()
        if item.kind is inspect.Parameter.KEYWORD_ONLY
    }


def check_settings(method: type[Method], settings: Mapping[str, Any]) -> None:
    """A method has all of these settings.

    Raises:
        TypeError: it does not; the text lists those that it has.
    """
    allowed = settings_of(method)
    if unknown := sorted(set(settings) - set(allowed)):
        raise TypeError(f"The training method {method.name} has the settings {sorted(allowed)}. Received: {unknown}")


def checked_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value`, the setting `name`, as `float`.

    Raises:
        TypeError: no number.
        ValueError: outside `low` to `high`, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"`{name}` must be from {low} to {high}, and finite. Received: {name}={value!r}")
    return float(value)


def checked_count(name: str, value: Any, low: int = 1) -> int:
    """`value`, the setting `name`, as `int`.

    Raises:
        TypeError: no integer.
        ValueError: below `low`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={value!r}")
    if value < low:
        raise ValueError(f"`{name}` must be at least {low}. Received: {name}={value!r}")
    return int(value)
