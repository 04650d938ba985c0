# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Changing a captured model: folding batch norms, wrapping layers, inserting holders. Nothing decides here."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from mct_quantizers.common import arithmetic
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.pending import ReLU6BeforeQuantization, ReLUBeforeQuantization
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.operation import Kind
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import FrozenParams, QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.batch_norm import (
    LiveBatchNorm,
    affine_of,
    can_fold,
    fold_batch_norm,
    folded_bias,
    make_factors_positive,
    set_bias,
)
from model_compression_toolkit.core.pytorch.capture import Captured
from model_compression_toolkit.core.pytorch.graph_arguments import ArgumentCheck, free_name
from model_compression_toolkit.core.pytorch.hooks import has_hooks
from model_compression_toolkit.core.pytorch.operators import kind_of_module
from model_compression_toolkit.core.pytorch.quantized_input import QuantizedInput
from model_compression_toolkit.core.pytorch.tied_weights import keep_names_of_tied_weights
from model_compression_toolkit.core.pytorch.unwrapping import NAME_ATTRIBUTE, PLAN_ATTRIBUTE, plan_inside

HOLDER_SUFFIX = "activation_holder_quantizer"
_RELU_FUNCTIONS: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((functional.relu, functional.relu_, torch.relu, torch.relu_), nn.ReLU),
    functional.relu6: nn.ReLU6,
}
_PENDING_RELUS: dict[type[nn.Module], type[nn.Module]] = {
    nn.ReLU: ReLUBeforeQuantization,
    nn.ReLU6: ReLU6BeforeQuantization,
}

QuantizerFactory = Callable[[TensorPlan], Any]


def make_batch_norms_freezable(model: nn.Module) -> None:
    """Give every batch norm with running statistics, live ones apart, a place for the flag that freezes them."""
    inside = {module.norm for module in model.modules() if isinstance(module, LiveBatchNorm)}
    for norm in [module for module in model.modules() if kind_of_module(module) is Kind.BATCH_NORM]:
        if norm not in inside and can_fold(norm):
            for path in _replace(model, norm, LiveBatchNorm(norm, folds=False)):
                _retarget(model, path, f"{path}.norm")


def unwrap_batch_norms(model: nn.Module) -> None:
    """Put the batch norms themselves where `make_batch_norms_freezable` wrapped them."""
    for module in [module for module in model.modules() if isinstance(module, LiveBatchNorm)]:
        for path in _replace(model, module, module.norm):
            _retarget(model, f"{path}.norm", path)


def fold_batch_norms(captured: Captured, pairs: dict[str, str], live: set[str]) -> None:
    """Fold each batch norm into its layer, or keep it live behind the layer.

    Args:
        captured: a model captured as a graph.
        pairs: layer of each batch norm, by the name of the batch norm.
        live: the batch norms that train along.
    """
    root = captured.model
    for norm_name, layer_name in pairs.items():
        layer, norm = root.get_submodule(layer_name), root.get_submodule(norm_name)
        if norm_name in live:
            make_factors_positive(layer, norm)
            root.set_submodule(norm_name, LiveBatchNorm(norm))
        else:
            fold_batch_norm(layer, norm)
            bypass_layer(root, norm_name)
            del captured.node_names[norm_name]


def apply_plan(
    captured: Captured,
    plan: QuantizationPlan,
    weight_quantizer: QuantizerFactory,
    activation_quantizer: QuantizerFactory,
) -> nn.Module:
    """Wrap the layers and insert the holders of a calibrated plan.

    Args:
        captured: the captured model, batch norms treated as the plan says; it is changed.
        plan: the plan, its tensors with parameters.
        weight_quantizer: makes the quantizer of a weight; its state is moved to the model's device.
        activation_quantizer: makes the quantizer of an activation, likewise.

    Returns:
        The quantized model; `plan_of` gives its plan.

    Raises:
        ValueError: the plan belongs to another model; what was assembled computes something else than the user's model.
    """
    root = captured.model
    device = next((parameter.device for parameter in root.parameters()), torch.device("cpu"))
    for tensor in plan.quantized():
        if tensor.is_weight:
            layer = root.get_submodule(tensor.site.layer)
            quantizers = {tensor.site.tensor: weight_quantizer(tensor)}
            _replace(root, layer, PytorchQuantizationWrapper(layer, quantizers).to(device))
            _retarget(root, tensor.site.layer, f"{tensor.site.layer}.layer", but=tensor.site.tensor)
    for tensor in plan.quantized():
        if not tensor.is_weight:
            holder = PytorchActivationQuantizationHolder(activation_quantizer(tensor)).to(device)
            setattr(holder, NAME_ATTRIBUTE, tensor.site.layer)
            if plan.capture is CaptureMode.GRAPH:
                _insert_holder(captured, tensor.site.layer, holder)
            else:
                layer = root.get_submodule(tensor.site.layer)
                _replace(root, layer, QuantizedInput(holder, layer))
    if isinstance(root, fx.GraphModule):
        root.graph.lint()
        root.recompile()
    if captured.check is not None:
        captured.check(root)
    keep_names_of_tied_weights(root)
    set_plan(root, plan)
    return root


def leave_to_quantizers(model: nn.Module) -> None:
    """Let quantizers compute in training what stands before them, in one pass over memory: batch norms and ReLUs.

    Taken is what nothing else sees: a ReLU behind a new tensor; a batch norm behind a layer, also with an addition
    behind it, with a ReLU or without one.

    Args:
        model: a quantized model; one captured as a graph is changed, what it computes is not.
    """
    if not isinstance(model, fx.GraphModule):
        return
    for module in _at_home_everywhere(model, tuple(_PENDING_RELUS), _is_between):
        _replace(model, module, _PENDING_RELUS[type(module)]())
    for node in model.graph.nodes:
        if node.op == "call_function" and node.target in _RELU_FUNCTIONS and _is_between(model, node):
            # A module: a graph that is traced anew, as when it is unpickled, does not look into it.
            name = free_name(model, f"{node.name}_before_quantization")
            model.add_module(name, _PENDING_RELUS[_RELU_FUNCTIONS[node.target]]())
            node.op, node.target, node.args, node.kwargs = "call_module", name, tuple(node.all_input_nodes), {}
    for norm in _at_home_everywhere(model, (LiveBatchNorm,), _take_norm):
        norm.is_before_quantization = True
    model.recompile()


def _at_home_everywhere(
    model: fx.GraphModule, types: tuple[type[nn.Module], ...], fits: Callable[[fx.GraphModule, fx.Node], bool]
) -> list[Any]:
    """The modules of some types of which every call fits."""
    found: dict[nn.Module, bool] = {}
    for node in model.graph.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is not None and type(module) in types and not any(map(has_hooks, module.modules())):
            found[module] = fits(model, node) and found.get(module, True)
    return [module for module, fits_everywhere in found.items() if fits_everywhere]


def _take_norm(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a quantizer can compute a batch norm; an addition behind it is no more in place."""
    if not _is_alone_with_a_new_tensor(model, node.all_input_nodes[0]) or len(node.users) != 1:
        return False
    (user,) = node.users
    if _is_quantizer(model, user):
        return True
    is_addition = user.op == "call_function" and (
        user.target in (operator.add, torch.add) or (user.target is operator.iadd and user.args[0] is node)
    )
    # Between the addition and the quantizer nobody can change what is added.
    if not is_addition or user.kwargs or len(user.args) != 2 or len(user.users) != 1 or user.next not in user.users:
        return False
    if not _is_quantizer(model, user.next):
        return False
    # The batch norm's result, to which it adds, is seen by nobody else.
    user.target = operator.add
    return True


def _is_quantizer(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a holder, or a ReLU that the next node, a holder, computes."""
    if node.op != "call_module":
        return False
    module = model.get_submodule(str(node.target))
    if type(module) in _PENDING_RELUS.values():
        return node.next in node.users and len(node.users) == 1 and _is_quantizer(model, node.next)
    return isinstance(module, PytorchActivationQuantizationHolder)


def plan_of(model: nn.Module) -> QuantizationPlan:
    """The plan of a quantized model, also where it stands inside of other modules.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: the model is not quantized, or there is more than one in it.
    """
    return plan_inside(model)


def set_plan(model: nn.Module, plan: QuantizationPlan) -> None:
    """Keep `plan` with the model.

    It stands on each wrapper and holder, because a graph module loses attributes of its own in `copy.deepcopy`.
    """
    for module in model.modules():
        if isinstance(module, (PytorchQuantizationWrapper, PytorchActivationQuantizationHolder)):
            setattr(module, PLAN_ATTRIBUTE, plan)


def wrapper_of(model: nn.Module, layer: str) -> PytorchQuantizationWrapper:
    """The wrapper of a layer of a quantized model."""
    module = model.get_submodule(layer)
    wrapper = module.layer if isinstance(module, QuantizedInput) else module
    if not isinstance(wrapper, PytorchQuantizationWrapper):
        raise TypeError(f"Expected a quantization wrapper at {layer!r}. Received: {type(wrapper).__name__}")
    return wrapper


def holder_of(model: nn.Module, tensor: TensorPlan) -> PytorchActivationQuantizationHolder:
    """The holder of a quantized activation of a quantized model."""
    name = tensor.site.layer
    for module in model.modules():
        if isinstance(module, PytorchActivationQuantizationHolder) and getattr(module, NAME_ATTRIBUTE, None) == name:
            return module
    raise ValueError(f"The model has no holder for {tensor.name}: the plan belongs to another model.")


def quantizer_of(model: nn.Module, tensor: TensorPlan) -> Any:
    """The quantizer of a quantized tensor of a quantized model."""
    if tensor.is_weight:
        return wrapper_of(model, tensor.site.layer).weights_quantizers[tensor.site.tensor]
    return holder_of(model, tensor).activation_holder_quantizer


def replace_quantizer(model: nn.Module, tensor: TensorPlan, quantizer: Any) -> None:
    """Quantize a quantized tensor of a quantized model with `quantizer` from now on."""
    if tensor.is_weight:
        wrapper_of(model, tensor.site.layer).set_quantizer(tensor.site.tensor, quantizer)
    else:
        holder_of(model, tensor).set_quantizer(quantizer)


def fold_live_batch_norm(model: nn.Module, norm_name: str, layer_name: str, params: FrozenParams) -> FrozenParams:
    """Fold a live batch norm into the quantized layer before it; the integers of the weight stay as they are.

    The factor of each channel goes into its scale, or its threshold of a table; a factor of zero becomes the smallest
    number that float32 holds.

    Args:
        model: a model in quantization-aware training; it is changed.
        norm_name: path of the `LiveBatchNorm`.
        layer_name: path of the wrapped layer.
        params: the grid or table that the layer's weight quantizer froze to, per channel.

    Returns:
        That of the folded weight.
    """
    wrapper = wrapper_of(model, layer_name)
    factor, shift = affine_of(model.get_submodule(norm_name))
    weight = wrapper.get_parameter("weight")
    smallest = np.finfo(np.float32).tiny
    folded: FrozenParams
    with torch.no_grad():
        if isinstance(params, LookupTable):
            folded = dataclasses.replace(params, threshold=np.maximum(params.threshold * factor, smallest))
            codes = arithmetic.lut_codes(weight.detach(), params, torch_ops)
            weight.copy_(arithmetic.lut_dequantize(codes, folded, torch_ops, like=weight))
        else:
            folded = params.replace_scale(np.maximum(params.scale * factor, smallest))
            codes = arithmetic.quantize(weight.detach(), params, torch_ops)
            weight.copy_(arithmetic.dequantize(codes, folded, torch_ops, like=weight))
    set_bias(wrapper.layer, folded_bias(wrapper.layer, factor, shift), like=weight)
    return folded


def bypass_layer(model: nn.Module, layer: str) -> None:
    """Take a layer with one input out of a graph, and out of the model."""
    if not isinstance(model, fx.GraphModule):
        raise TypeError(f"Expected a model that was captured as a graph. Received: {type(model).__name__}")
    (node,) = (node for node in model.graph.nodes if node.op == "call_module" and node.target == layer)
    node.replace_all_uses_with(node.all_input_nodes[0])
    model.graph.erase_node(node)
    model.delete_submodule(layer)
    model.recompile()


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> list[str]:
    """Put `new` wherever `old` stands, and tell where: a module can be registered under several names."""
    paths = [path for path, module in root.named_modules(remove_duplicate=False) if module is old]
    for path in paths:
        root.set_submodule(path, new)
    return paths


def _retarget(root: nn.Module, old: str, new: str, but: str = "") -> None:
    """Operations of a graph that read an attribute of the module at `old`, except `but`, find it at `new`."""
    if not isinstance(root, fx.GraphModule):
        return
    changed = False
    for node in root.graph.find_nodes(op="get_attr"):
        owner, _, name = str(node.target).rpartition(".")
        if owner == old and name != but:
            node.target = f"{new}.{name}"
            changed = True
    if changed:
        root.recompile()


def _insert_holder(captured: Captured, layer: str, holder: nn.Module) -> None:
    root, node = captured.model, captured.node(layer)
    name = free_name(root, f"{node.name}_{HOLDER_SUFFIX}")
    root.add_module(name, holder)
    with captured.graph.inserting_after(_last_of_arguments(root, node)):
        inserted = captured.graph.call_module(name, (node,))
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted and not _checks(root, user))


def _is_between(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node alone sees a new tensor, and only a holder sees its result."""
    (source,), users = node.all_input_nodes, list(node.users)
    return (
        len(users) == 1
        and users[0].op == "call_module"
        and isinstance(model.get_submodule(str(users[0].target)), PytorchActivationQuantizationHolder)
        and _is_alone_with_a_new_tensor(model, source)
    )


def _is_alone_with_a_new_tensor(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a node returns is memory that nothing but its one user can change."""
    if len(node.users) != 1:
        return False
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), (LiveBatchNorm, PytorchQuantizationWrapper))
    if node.op == "call_function" and node.target is operator.iadd:
        return _is_alone_with_a_new_tensor(model, node.all_input_nodes[0])
    return node.op == "call_function" and node.target in (operator.add, torch.add)


def _last_of_arguments(root: nn.Module, node: fx.Node) -> fx.Node:
    """The node itself; for an input of the model the last input or check of one, because those come first."""
    if node.op == "placeholder":
        while node.next.op == "placeholder" or _checks(root, node.next):
            node = node.next
    return node


def _checks(root: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), ArgumentCheck)
