# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a model could be quantized when it is seen module by module."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.operation_graph import float_weight_site
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.pytorch.capture import Captured, run_model
from model_compression_toolkit.core.pytorch.data import Batch
from model_compression_toolkit.core.pytorch.model_state import scratch_copy
from model_compression_toolkit.core.pytorch.operators import weight_axis
from model_compression_toolkit.core.pytorch.positional_calls import first_value
from model_compression_toolkit.core.pytorch.weight_reads import direct_reads
from model_compression_toolkit.core.pytorch.weight_sites import weight_problem, weight_site

_READ = "others read its weight past the layer, which is never called: what they compute with it stays in float"


def module_sites(captured: Captured, sample: Batch) -> Iterator[TensorSite]:
    """The input and the weight of each layer that has a rule, in the order in which a run on `sample` calls them.

    The first and the last of the called layers count as first and last. Where code reads the weight of a layer besides
    calling it, the notes of `captured` say so from then on.
    """
    inputs, read = _record_inputs(captured.model, sample)
    called = [name for name, shape in inputs.items() if shape is not None]
    for name, shape in inputs.items():
        module = captured.model.get_submodule(name)
        near_end = name in (called[:1] + called[-1:])
        problem = _problem(module)
        unused = "" if name in called else _READ if name in read else "the layer was not reached by the data"
        is_embedding = isinstance(module, nn.Embedding)
        yield TensorSite(
            layer=name,
            tensor="input",
            target=QuantizationTarget.Activation,
            type=type(module).__name__,
            shape=shape or (),
            first_or_last=near_end,
            reason="indices are not quantized" if is_embedding else problem or unused,
        )
        site = weight_site(name, module, near_end, problem or unused)
        yield dataclasses.replace(site, read_elsewhere=name in read)
    yield from _float_weights(captured.model, set(inputs))
    captured.notes.extend(
        f"the model's code reads {name}.weight past the layer, too: what it computes with it there stays in float"
        for name in called
        if name in read
    )


def _problem(module: nn.Module) -> str:
    if any(weight_axis(inner) is not None for inner in module.modules() if inner is not module):
        return weight_problem(module) or "it contains other layers"
    return weight_problem(module)


def _float_weights(model: nn.Module, listed: set[str]) -> Iterator[TensorSite]:
    for name, parameter in model.named_parameters():
        layer, _, tensor = name.rpartition(".")
        if parameter.dim() > 1 and layer not in listed:
            type_name = type(model.get_submodule(layer)).__name__
            yield float_weight_site(layer or "model", tensor, type_name, tuple(parameter.shape))


def _record_inputs(model: nn.Module, sample: Batch) -> tuple[dict[str, tuple[int, ...] | None], set[str]]:
    """What a run does with the layers that have a rule.

    Returns:
        Shape of the first input of each layer, in the order of the calls, None for those not called; and the layers
        whose weight is read past them.
    """
    # What the model keeps on itself stays as it is.
    model = scratch_copy(model)
    layers = {name: module for name, module in model.named_modules() if weight_axis(module) is not None}
    called: dict[str, tuple[int, ...] | None] = {}
    handles = []
    for name, module in layers.items():

        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            value = first_value(layer, args, kwargs)
            if isinstance(value, Tensor):
                called.setdefault(name, tuple(value.shape))

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with direct_reads(layers) as read:
            run_model(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return called | {name: None for name in layers if name not in called}, read
