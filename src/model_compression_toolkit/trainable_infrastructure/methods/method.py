# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`Method`: what a training method says once, for every framework, for weights and activations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import FloatArray, QuantParams

# Keeps a learned scale a normal float32 number, far below any scale that occurs.
SMALLEST_SCALE = 2.0**-100

_METHODS: dict[str, type["Method"]] = {}


@dataclass(frozen=True, slots=True)
class Learned:
    """A tensor of a method's state.

    Attributes:
        value: initial value, shape (1,) or (C,).
        trainable: whether it gets a gradient; else it is kept as a buffer.
    """

    value: npt.NDArray[Any]
    trainable: bool = True


class Method(ABC):
    """A way to train a quantizer. Subclass it in one file; the class header registers it.

    For example `class MyMethod(Method, name="MY_METHOD", supports={QuantizationMethod.SYMMETRIC})`.

    The state is a dictionary of tensors; those of the base class are `scale` and, on uniform grids, `zero_point`.
    Override `parameters` to change what is learned, `quantize` for what happens in training, `freeze` for what runs
    afterwards. `freeze(learned, params)` must describe what `quantize` computes in evaluation.

    Attributes:
        name: under which configurations find it.
        supports: the grids that it can train.
        quantization_method: the grid of this instance.

    Raises:
        ValueError: the name is taken by another class, or the grid is not supported.
    """

    name: ClassVar[str] = ""
    supports: ClassVar[frozenset[QuantizationMethod]] = frozenset()

    def __init_subclass__(
        cls, *, name: str | None = None, supports: AbstractSet[QuantizationMethod] | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
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

    def __init__(self, quantization_method: QuantizationMethod) -> None:
        if quantization_method not in self.supports:
            raise ValueError(
                f"{self.name} trains {sorted(m.name for m in self.supports)}. Received: {quantization_method.name}"
            )
        self.quantization_method = quantization_method

    @abstractmethod
    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """The state at the start: name → `Learned`.

        Args:
            params: the calibrated grid.
            x_shape: shape of a weight; None for an activation.
        """

    @abstractmethod
    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """Quantized values of `x`, differentiable: shape and dtype of `x`.

        Args:
            x: floating-point tensor.
            learned: the state, each tensor shaped to broadcast against `x`.
            params: the calibrated grid; its integers (`quant_min`, `quant_max`, `axis`) hold throughout.
            ops: the framework's tensor functions.
        """

    def freeze(self, learned: Mapping[str, FloatArray], params: QuantParams) -> QuantParams:
        """The grid that runs after training.

        Args:
            learned: the state as NumPy arrays, shape (1,) or (C,).
            params: the calibrated grid.
        """
        scale = np.asarray(learned["scale"], dtype=np.float32)
        return params.replace_scale(self.effective_scale(scale, numpy_ops))

    def grid(self, params: QuantParams, trainable: bool) -> dict[str, Learned]:
        """The usual state: `scale`, trainable or not, and a fixed `zero_point` on uniform grids."""
        state = {"scale": Learned(params.scale.astype(np.float32), trainable)}
        if self.quantization_method is QuantizationMethod.UNIFORM:
            state["zero_point"] = Learned(params.zero_point, trainable=False)
        return state

    def effective_scale(self, scale: Tensor, ops: Ops) -> Tensor:
        """The positive scale that a learned number stands for, with a straight-through gradient.

        Its magnitude, so that an optimizer's step across zero leaves a valid grid; for power-of-two grids the nearest
        power of two in the logarithm.
        """
        positive = ops.maximum(ops.absolute(scale), SMALLEST_SCALE)
        if self.quantization_method is QuantizationMethod.POWER_OF_TWO:
            return positive + ops.stop_gradient(arithmetic.power_of_two(positive, ops) - positive)
        return positive


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


def elements_per_scale(x_shape: Sequence[int], params: QuantParams) -> int:
    """Number of elements of a tensor that share one scale."""
    return int(np.prod(x_shape, dtype=np.int64)) // params.scale.size
