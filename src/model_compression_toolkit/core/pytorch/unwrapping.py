# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the quantized model in what a training has put around it."""

from torch import nn
from torch.optim.swa_utils import AveragedModel

from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.pytorch.quantized_input import QuantizedInput

__all__ = ["NAME_ATTRIBUTE", "PLAN_ATTRIBUTE", "plan_inside", "plan_on", "unwrapped"]

PLAN_ATTRIBUTE = "quantization_plan"
"""Where wrappers and holders keep the plan of their model."""
NAME_ATTRIBUTE = "plan_layer"
"""Where holders keep the layer or operation whose tensor they quantize."""

_TRANSPARENT = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)
_LAYERS = (PytorchQuantizationWrapper, QuantizedInput)
_COMPILED = "_orig_mod"
"""The one child of what `torch.compile` makes of a module, as its `state_dict` calls it."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The quantized model inside of DistributedDataParallel, DataParallel, AveragedModel and `torch.compile`.

    Args:
        model: the quantized model, or one of these around it, however many.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: there is no quantized model, or more than one; it stands in another module, whose own computation
            would be lost; it is a part of a quantized model. The text says what to pass.
    """
    plans = _plans(model)
    roots = _roots(model, plans)
    if not roots:
        raise ValueError(
            "`model` must be the whole model that `quantize` or `prepare_qat` returned, its layers under the names of "
            f"the plan. Received: a {type(model).__name__} with a part of one, or with layers that something stands "
            "around; pass the model as it was returned"
        )
    if len(roots) > 1:
        raise _more_than_one([path for path, _ in roots])
    ((path, found),) = roots
    outer = model
    for name in filter(None, path.split(".")):
        if not _passes_on(outer):
            raise ValueError(
                f"`model` must be the quantized model itself. Received: a {type(model).__name__} around it, which may "
                f"compute more than it; pass `model.{path}`"
            )
        outer = outer._modules[name]  # type: ignore[assignment]  # the path was found
    return found


def plan_inside(model: nn.Module) -> QuantizationPlan:
    """The plan of the quantized model that `model` is, holds, or is a part of.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: there is no quantized model, or more than one.
    """
    plans = _plans(model)
    first = next(iter(plans.values()))
    if any(plan is not first for plan in plans.values()):
        raise _more_than_one([path for path, _ in _roots(model, plans)])
    return first


def plan_on(module: nn.Module) -> QuantizationPlan | None:
    """The plan that a wrapper or holder keeps; None where there is none."""
    if not isinstance(module, (PytorchQuantizationWrapper, PytorchActivationQuantizationHolder)):
        return None
    plan = getattr(module, PLAN_ATTRIBUTE, None)
    return plan if isinstance(plan, QuantizationPlan) else None


def _plans(model: nn.Module) -> dict[str, QuantizationPlan]:
    """The plans on wrappers and holders, by their paths; at least one."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    plans = {
        path: plan
        for path, module in model.named_modules(remove_duplicate=False)
        if (plan := plan_on(module)) is not None
    }
    if not plans:
        raise ValueError(
            "`model` must be a model that `quantize` or `prepare_qat` returned. Received: one without a plan"
        )
    return plans


def _roots(model: nn.Module, plans: dict[str, QuantizationPlan]) -> list[tuple[str, nn.Module]]:
    """The quantized models inside of `model`, each with its path."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, tuple[str, QuantizationPlan]] = {}
    for path, plan in plans.items():
        if any(plan is known and (not root or path.startswith(f"{root}.")) for root, known in found.values()):
            continue
        root = _root(path, plan, modules)
        if root is not None:
            found.setdefault(modules[root], (root, plan))
    return [(path, module) for module, (path, _) in found.items()]


def _more_than_one(paths: list[str]) -> ValueError:
    names = [f"model.{path}" if path else "model" for path in paths]
    return ValueError(f"`model` must hold one quantized model. Received: several; pass one of them: {names}")


def _root(path: str, plan: QuantizationPlan, modules: dict[str, nn.Module]) -> str | None:
    """Path of the module that has all layers that `plan` wraps, the wrapper or holder at `path` among them."""
    wrapped = {tensor.site.layer for tensor in plan.quantized() if tensor.is_weight}
    if plan.capture is CaptureMode.MODULES:
        wrapped |= {tensor.site.layer for tensor in plan.quantized()}
    parent = path.rpartition(".")[0]
    at = parent if isinstance(modules[parent], QuantizedInput) else path
    if not wrapped:
        # Holders of a graph are children of the model.
        return parent
    for layer in wrapped:
        if at == layer or at.endswith(f".{layer}"):
            root = at.removesuffix(layer).removesuffix(".")
            if all(isinstance(modules.get(f"{root}.{name}".removeprefix(".")), _LAYERS) for name in wrapped):
                return root
    return None


def _passes_on(module: nn.Module) -> bool:
    """Whether a module computes what the module inside computes."""
    return isinstance(module, _TRANSPARENT) or list(module._modules) == [_COMPILED]
