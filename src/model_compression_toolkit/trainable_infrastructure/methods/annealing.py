# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Annealing over any method: quantization sets in gradually, or for a growing random share of the elements."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.common.annealing_schedulers import annealing_factor
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    GRIDS,
    Learned,
    Method,
    check_settings,
    checked_count,
    method_class,
)

_STEP = "annealing_step"
# Multiples of it below 2 are float32 numbers: their sums are exact, whatever a compiler makes of them.
_GRAIN = 2.0**-23
_GOLDEN_RATIO = round(0.6180339887498949 / _GRAIN) * _GRAIN


class AnnealedMethod(Method):
    """Mixes the float tensor with what another method makes of it; evaluation is that of the other method.

    Args:
        method: name of the other method.
        start: steps of training before quantization sets in.
        end: steps of training until it is complete.
        arguments: settings of the other method.
    """

    def __init__(
        self,
        *args: Any,
        method: str = "LSQ",
        start: int = 0,
        end: int = 1000,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(*args)
        self.start, self.end = checked_count("start", start, low=0), checked_count("end", end)
        if self.start >= self.end:
            raise ValueError(f"`start` must be below `end`. Received: start={start}, end={end}")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise TypeError(f"`arguments` must be a dictionary of settings. Received: arguments={arguments!r}")
        inner = method_class(method)
        if issubclass(inner, AnnealedMethod):
            raise ValueError(f"`method` must be a method that is not annealed itself. Received: method={method!r}")
        check_settings(inner, arguments or {})
        self.inner = inner(*args, **(arguments or {}))

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        step = Learned(np.zeros(1, np.float32), trainable=False, per_scale=False)
        return {**self.inner.parameters(params, x_shape), _STEP: step}

    def share(self, learned: Mapping[str, Tensor], ops: Ops) -> Tensor:
        """How far quantization has set in, 0 to 1, shape (1,)."""
        return annealing_factor(learned[_STEP], self.start, self.end, ops)

    def evaluate(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.evaluate`."""
        return self.inner.evaluate(x, learned, params, ops)

    def advance(self, learned: Mapping[str, Tensor], ops: Ops) -> dict[str, Tensor]:
        """See `Method.advance`."""
        return {**self.inner.advance(learned, ops), _STEP: learned[_STEP] + 1.0}

    def regularization(
        self, x: Tensor | None, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops
    ) -> Tensor | None:
        """See `Method.regularization`."""
        return self.inner.regularization(x, learned, params, ops)

    def frozen_weight(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.frozen_weight`."""
        return self.inner.frozen_weight(x, learned, params, ops)

    def freeze(self, learned: Mapping[str, npt.NDArray[Any]], params: QuantParams) -> QuantParams | LookupTable:
        """See `Method.freeze`."""
        return self.inner.freeze(learned, params)


class Gradual(AnnealedMethod, name="GRADUAL", supports=GRIDS):
    """Alpha-blending (Liu and Mattina, IJCAI 2019, arXiv:1903.01061): `(1 - α) x + α q`, α from 0 to 1.

    Differs: q has the gradients of its own method, where the paper gives it none.
    """

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        quantized, share = self.inner.quantize(x, learned, params, ops), self.share(learned, ops)
        # At the end what is quantized alone: infinity times zero would be NaN.
        return ops.where(share < 1.0, (1.0 - share) * x + share * quantized, quantized)


class Stochastic(AnnealedMethod, name="STOCHASTIC", supports=GRIDS, targets={QuantizationTarget.Weights}):
    """Training with quantization noise (Fan et al., ICLR 2021, arXiv:2004.07320): a random share of a weight.

    At each step every element is quantized with the probability at hand (section 4.1, with single elements for blocks),
    and stays in float otherwise. Differs: the probability rises from 0 to 1, so that training ends with what is
    deployed; the random numbers are a fixed uniform one for each element, moved on by the golden ratio at every step
    (a Kronecker sequence), which is the same in every framework and resumes exactly.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`.

        Raises:
            ValueError: the shape of the weight is not given.
        """
        if not x_shape:
            raise ValueError(f"{self.name} needs the shape of the weight. Received: {x_shape!r}")
        noise = np.floor(np.random.default_rng(0).random(tuple(x_shape)) / _GRAIN).astype(np.float32) * np.float32(
            _GRAIN
        )
        return {**super().parameters(params, x_shape), "noise": Learned(noise, trainable=False, per_scale=False)}

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        quantized = self.inner.quantize(x, learned, params, ops)
        return ops.where(learned["noise"] < self.share(learned, ops), quantized, x)

    def advance(self, learned: Mapping[str, Tensor], ops: Ops) -> dict[str, Tensor]:
        """See `Method.advance`."""
        moved = learned["noise"] + _GOLDEN_RATIO
        return {**super().advance(learned, ops), "noise": ops.where(moved >= 1.0, moved - 1.0, moved)}
