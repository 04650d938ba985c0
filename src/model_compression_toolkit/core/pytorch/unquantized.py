# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The proof that what was assembled is the user's model: with its quantizers off it computes what that does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mct_quantizers.common.wrapped_weights import WeightKey
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.pending import computed
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.reference_outputs import RELATIVE_STEP, ReferenceOutputs
from model_compression_toolkit.core.pytorch.data import Batch, call_model, map_batch
from model_compression_toolkit.core.pytorch.model_kinds import uncompiled
from model_compression_toolkit.core.pytorch.model_state import scratch_copy
from model_compression_toolkit.core.pytorch.training_comparison import repeatable

_SEED = 0


def assembled_check(model: nn.Module, sample: Batch) -> Callable[[nn.Module], None]:
    """A check of what is assembled of a copy of the user's model.

    Args:
        model: the user's model; it is not changed.
        sample: inputs.

    Returns:
        A function that takes the assembled model, in evaluation mode, and raises a ValueError where it computes
        something else with its quantizers off.
    """
    # Another mode, and buffers that runs may change: of its own. The parameters are the user's, which nothing changes.
    own = uncompiled(model, scratch_copy)
    # An `eval` of the user's own may return nothing.
    own.eval()
    # What a model counts or averages itself differs from run to run, as random numbers do.
    outputs = _outputs(own, sample, _SEED)
    reference = ReferenceOutputs(outputs, lambda: _outputs(own, _moved(sample), _SEED + 1))
    dtypes = [parameter.dtype for parameter in own.parameters() if parameter.is_floating_point()]
    dtype = str(dtypes[0] if dtypes else torch.float32).removeprefix("torch.")

    def check(assembled: nn.Module) -> None:
        # What the assembled model keeps on itself stays as it is, too.
        copied = scratch_copy(assembled)
        with unquantized(copied):
            outputs = _outputs(copied, sample, _SEED)
        reference.check_assembled(outputs, dtype)

    return check


@contextmanager
def unquantized(model: nn.Module) -> Iterator[None]:
    """For a while, the wrappers and holders of a model quantize nothing."""
    holders = [module for module in model.modules() if isinstance(module, PytorchActivationQuantizationHolder)]
    wrappers = [module for module in model.modules() if isinstance(module, PytorchQuantizationWrapper)]
    try:
        for holder in holders:
            vars(holder)["forward"] = computed
        for wrapper in wrappers:
            vars(wrapper)["_quantized"] = _float_weight_of(wrapper)
        yield
    finally:
        for holder in holders:
            vars(holder).pop("forward", None)
        for wrapper in wrappers:
            vars(wrapper).pop("_quantized", None)


def _float_weight_of(wrapper: PytorchQuantizationWrapper) -> Callable[[WeightKey], Tensor]:
    weights = {key: weight for key, weight, _ in wrapper.get_weights_vars()}
    return lambda key: weights[key]


def _outputs(model: nn.Module, batch: Batch, seed: int) -> list[Any]:
    """The tensors among the outputs as NumPy arrays; random numbers are those of a seed, and the program's stay."""
    # With gradients, as torch's fused transformer layers fill padded places with zeros otherwise.
    with repeatable(), torch.enable_grad():
        torch.manual_seed(seed)
        outputs = call_model(model, batch)
    return [_as_array(leaf) for leaf in pytree.tree_leaves(outputs) if _is_plain(leaf)]


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided and not leaf.is_quantized


def _as_array(tensor: Tensor) -> Any:
    values = computed(tensor).detach().cpu()
    values = torch.view_as_real(values) if values.is_complex() else values
    return np.asarray(values.double() if values.is_floating_point() else values)


def _moved(batch: Batch) -> Batch:
    def moved(leaf: Any) -> Any:
        return leaf * (1 + RELATIVE_STEP) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return map_batch(moved, batch)
