# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds a captured model against the user's: what both compute, and which gradients, on one batch in training mode."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from model_compression_toolkit.core.pytorch.data import Batch, call_model, first_line
from model_compression_toolkit.core.pytorch.model_state import scratch_copy

_TOLERANCE = 1e-3
"""Relative; what other control flow computes differs by far more, another order of a sum by far less."""

_NOISE = 1e-6


def training_difference(model: nn.Module, captured: nn.Module, batch: Batch) -> str:
    """What a captured model does otherwise than the model in training; empty when nothing is found.

    Outputs and gradients are compared on copies, from the same random numbers. A model that cannot be trained on the
    batch, or not reproducibly, has nothing to be compared with.

    Args:
        model: the float model; it is not changed.
        captured: the captured model, with the same parameters; it is not changed.
        batch: one batch.
    """
    try:
        expected = _train_once(model, batch)
    except Exception:  # the user's model may raise anything
        return ""
    try:
        received = _train_once(captured, batch)
    except Exception as error:  # the graph of the user's model may raise anything
        return f"the graph fails in training ({first_line(error)})"
    difference = _difference(expected, received)
    if difference and _difference(expected, _train_once(model, batch)):
        # The model does not repeat itself either.
        return ""
    return difference


def trains(model: nn.Module, batch: Batch) -> bool:
    """Whether a model runs forward and backward on a batch in training."""
    try:
        _train_once(model, batch)
    except Exception:  # the user's model may raise anything
        return False
    return True


@contextmanager
def repeatable() -> Iterator[None]:
    """The same random numbers at each entry; the caller's go on afterwards as if none had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    # Devices that nobody uses are left asleep, and unseeded.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        if devices:
            torch.cuda.manual_seed_all(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _train_once(model: nn.Module, batch: Batch) -> tuple[list[Any], dict[str, float | None]]:
    """The outputs of a model in training, and a number for the gradient of each parameter; None where it has none."""
    copied = scratch_copy(model)
    copied.train()
    with repeatable(), torch.enable_grad():
        outputs = pytree.tree_leaves(call_model(copied, batch))
    trained = [out for out in outputs if isinstance(out, Tensor) and out.requires_grad]
    named = {name: parameter for name, parameter in copied.named_parameters() if parameter.requires_grad}
    if not trained or not named:
        return _detached(outputs), {}
    # Other weights for each element: the gradient of a plain sum is zero behind a softmax.
    weights = [torch.linspace(1, 2, out.numel(), device=out.device).view_as(out).to(out.dtype) for out in trained]
    gradients = torch.autograd.grad(trained, list(named.values()), weights, allow_unused=True)
    return _detached(outputs), {
        name: None if gradient is None else _digest(gradient) for name, gradient in zip(named, gradients, strict=True)
    }


def _detached(outputs: list[Any]) -> list[Any]:
    return [out.detach() if isinstance(out, Tensor) else out for out in outputs]


def _digest(gradient: Tensor) -> float:
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    return float(gradient.double().norm())


def _difference(expected: Any, received: Any) -> str:
    if not same_values(expected[0], received[0], _TOLERANCE):
        return "in training the graph computes something else than the model"
    largest = max((norm for norm in expected[1].values() if norm is not None), default=0.0)
    for name, norm in expected[1].items():
        other = received[1].get(name)
        if (norm is None) != (other is None):
            return f"the gradient of {name} is {'lost' if other is None else 'not cut off'} in the graph"
        if norm is None or other is None:
            continue
        # Where a gradient is zero in exact arithmetic, both are noise.
        if abs(norm - other) > max(_TOLERANCE * max(norm, other), _NOISE * largest):
            return f"the gradient of {name} is another one in the graph"
    return ""


def same_values(expected: Any, received: Any, tolerance: float = 0.0) -> bool:
    """Whether two results have equal leaves, within a tolerance relative to the norm of each."""
    left, right = pytree.tree_leaves(expected), pytree.tree_leaves(received)
    return len(left) == len(right) and all(_same_leaf(a, b, tolerance) for a, b in zip(left, right, strict=True))


def _same_leaf(a: Any, b: Any, tolerance: float) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = torch.nan_to_num(a), torch.nan_to_num(b)
    if torch.equal(a, b):
        return True
    return bool(tolerance) and bool((a.double() - b.double()).norm() <= tolerance * a.double().norm())
