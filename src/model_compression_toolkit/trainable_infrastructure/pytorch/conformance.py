# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch does for the conformance checks."""

import contextlib
import copy
import io
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers.common.quantizer_dispatch import frozen_weight_of, takes_training
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import Array
from model_compression_toolkit.trainable_infrastructure.common.conformance.report import ConformanceReport
from model_compression_toolkit.trainable_infrastructure.common.conformance.run import run_checks
from model_compression_toolkit.trainable_infrastructure.common.conformance.wing import Output, TrainingCall
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerConfig,
)

__all__ = ["PytorchWing", "check_class"]

_WEIGHT = "weight"
_SEED = 0


def check_class(
    cls: type, quantization_config: TrainableQuantizerConfig | None, arguments: Mapping[str, Any]
) -> ConformanceReport:
    """`check_quantizer` for a PyTorch class."""
    return run_checks(cls, PytorchWing(), quantization_config, arguments)


class GivesItsWeight(nn.Module):
    """A layer whose result is its weight: a wrapper around it gives the quantized weight.

    Args:
        weight: the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        """The weight."""
        return self.weight


class PytorchWing:
    """The checks' view of PyTorch; see `Wing`."""

    name = "PyTorch"
    channels_first = True
    inferable_base: type = BasePyTorchInferableQuantizer
    compile_equals = "torch.compile(fullgraph=True) equals eager"
    compiles_training = True

    def carry(self, quantizer: Any, values: Array, is_weight: bool) -> Any:
        """See `Wing.carry`."""
        if is_weight:
            return PytorchQuantizationWrapper(GivesItsWeight(torch.tensor(values)), {_WEIGHT: quantizer})
        return PytorchActivationQuantizationHolder(quantizer)

    def call(self, quantizer: Any, values: Array, training: bool | None = None, dtype: str = "float32") -> Output:
        """See `Wing.call`."""
        output = self._called(quantizer, torch.tensor(values).to(getattr(torch, dtype)), training)
        return Output(_array(output), str(output.dtype).removeprefix("torch."))

    def input_after(self, quantizer: Any, values: Array, training: bool) -> Array:
        """See `Wing.input_after`."""
        tensor = torch.tensor(values)
        self._called(quantizer, tensor, training if takes_training(quantizer) else None)
        return _array(tensor)

    def run(self, carrier: Any, values: Array, training: bool = False, compiled: bool = False) -> Array:
        """See `Wing.run`."""
        carrier.train(training)
        arguments = () if _is_wrapper(carrier) else (torch.tensor(values),)
        return _array(_function(carrier, compiled)(*arguments))

    def train(self, carrier: Any, values: Array, upstream: Array, compiled: bool = False) -> TrainingCall:
        """See `Wing.train`."""
        carrier.train()
        variables = self.variables(carrier)
        arguments: tuple[Tensor, ...] = ()
        if _is_wrapper(carrier):
            leaf = carrier.weight
        else:
            leaf = torch.tensor(values, requires_grad=True)
            arguments = (leaf,)
        gradients: list[Tensor | None] = [None] * (1 + len(variables))
        with torch.enable_grad():
            output = _function(carrier, compiled)(*arguments)
            if output.requires_grad:
                targets = [leaf, *variables.values()]
                gradients = list(torch.autograd.grad(output, targets, torch.tensor(upstream), allow_unused=True))
        arrays = [None if gradient is None else _array(gradient) for gradient in gradients]
        return TrainingCall(_array(output), arrays[0], dict(zip(variables, arrays[1:], strict=True)))

    def variables(self, carrier: Any) -> dict[str, Any]:
        """See `Wing.variables`."""
        return {
            name: parameter
            for name, parameter in carrier.named_parameters()
            if parameter.requires_grad and name != _WEIGHT
        }

    def change(self, variable: Any, update: Callable[[Array], Array]) -> None:
        """See `Wing.change`."""
        with torch.no_grad():
            variable.copy_(torch.tensor(update(_array(variable))))

    def is_trainable(self, variable: Any) -> bool:
        """See `Wing.is_trainable`."""
        return isinstance(variable, Tensor) and variable.requires_grad

    def state(self, carrier: Any) -> dict[str, Array]:
        """See `Wing.state`."""
        return {
            name: _array(value)
            for name, value in carrier.state_dict().items()
            if name != _WEIGHT and isinstance(value, Tensor)
        }

    def float_weight(self, carrier: Any) -> Array | None:
        """See `Wing.float_weight`."""
        return _array(carrier.weight) if _is_wrapper(carrier) else None

    def frozen_weight(self, quantizer: Any, values: Array) -> Array:
        """See `Wing.frozen_weight`."""
        return _array(frozen_weight_of(quantizer, torch.tensor(values)))

    def codes(self, quantizer: Any, values: Array) -> Array:
        """See `Wing.codes`."""
        return _array(quantizer.quantize(torch.tensor(values)))

    def copies(self, carrier: Any, values: Array) -> Iterator[tuple[str, Any]]:
        """See `Wing.copies`."""
        del values
        yield "copy.deepcopy", copy.deepcopy(carrier)
        cls = type(_quantizer_of(carrier))
        # A class that was defined inside of a function is none that pickle could find.
        if getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls:
            yield "pickle", pickle.loads(pickle.dumps(carrier))

    def reloaded(self, carrier: Any, fresh: Callable[[], Any], values: Array) -> Any:
        """See `Wing.reloaded`."""
        del values
        file = io.BytesIO()
        torch.save(carrier.state_dict(), file)
        file.seek(0)
        loaded = fresh()
        loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
        return loaded

    def converted(self, carrier: Any) -> tuple[Any, Any]:
        """See `Wing.converted`."""
        carrier.convert_to_inferable_quantizers()
        return carrier, _quantizer_of(carrier)

    @contextlib.contextmanager
    def seeded(self) -> Iterator[None]:
        """See `Wing.seeded`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            yield

    @staticmethod
    def _called(quantizer: Any, tensor: Tensor, training: bool | None) -> Tensor:
        if isinstance(quantizer, nn.Module) and training is not None:
            quantizer.train(training)
        result: Tensor = quantizer(tensor) if training is None else quantizer(tensor, training=training)
        return result


def _is_wrapper(carrier: Any) -> bool:
    return isinstance(carrier, PytorchQuantizationWrapper)


def _quantizer_of(carrier: Any) -> Any:
    return carrier.weights_quantizers[_WEIGHT] if _is_wrapper(carrier) else carrier.activation_holder_quantizer


def _array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu()
    # NumPy has no bfloat16. A copy: the tensor may change later.
    return np.array(plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain)


def _function(carrier: Any, compiled: bool) -> Callable[..., Tensor]:
    def call(*arguments: Tensor) -> Tensor:
        # What a layer gets in a model is no leaf.
        output: Tensor = carrier(*(argument.clone() for argument in arguments))
        return output

    if not compiled:
        return call
    # With code of its own: torch counts how often one piece of code is compiled, and gives up at eight.
    own = types.FunctionType(call.__code__.replace(), globals(), "call", None, call.__closure__)
    # Not dynamic: torch would take the shapes of one check for those of the next, grown.
    traced = torch.compile(own, fullgraph=True, dynamic=False, backend="aot_eager")

    def run(*arguments: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # torch's own compiler uses what torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            output: Tensor = traced(*arguments)
        return output

    return run
