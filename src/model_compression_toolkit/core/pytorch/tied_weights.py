# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that layers share: what a plan says of them, and what models of Hugging Face's transformers say themselves.

Those models name their tied weights, because they save each only once. A wrapper gives a weight another name.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorSite
from model_compression_toolkit.core.pytorch.batch_norm import LiveBatchNorm
from model_compression_toolkit.core.pytorch.quantized_input import QuantizedInput

__all__ = ["keep_names_of_tied_weights", "mark_tied_weights", "without_broken_ties"]

_PATTERNS = "_tied_weights_keys"
"""Names or patterns of the tied weights: on the class, a dictionary target → source; a list in older versions."""
_NAMES = "all_tied_weights_keys"
"""Names alone, on the model, target → source."""


def mark_tied_weights(sites: Iterable[TensorSite], model: nn.Module) -> list[TensorSite]:
    """The sites; a weight that one before it shares names that one in `tied_to`."""
    first: dict[int, str] = {}
    marked = []
    for site in sites:
        weight = _weight_of(model, site.layer, site.tensor)
        if weight is not None:
            name = f"{site.layer}.{site.tensor}"
            owner = first.setdefault(id(weight), name)
            site = dataclasses.replace(site, tied_to="" if owner == name else owner)  # noqa: PLW2901  # the same site
        marked.append(site)
    return marked


def without_broken_ties(plan: QuantizationPlan, model: nn.Module) -> QuantizationPlan:
    """The plan without ties between weights that are no longer shared: some methods change a weight when they freeze.

    Args:
        plan: the plan.
        model: the quantized model.
    """
    weights = {tensor.name: _weight_of(model, tensor.site.layer, tensor.site.tensor) for tensor in plan.tensors}
    tensors = [
        tensor
        if not tensor.site.tied_to or weights[tensor.name] is weights.get(tensor.site.tied_to)
        else dataclasses.replace(tensor, site=dataclasses.replace(tensor.site, tied_to=""))
        for tensor in plan.tensors
    ]
    return dataclasses.replace(plan, tensors=tuple(tensors))


def keep_names_of_tied_weights(model: nn.Module) -> None:
    """Let modules that name their tied weights use the names that these have now; those that are no longer tied go.

    Args:
        model: a copy of the user's model in which layers are wrapped; the names are set on the copy alone.
    """
    for module in model.modules():
        patterns, names = getattr(module, _PATTERNS, None), module.__dict__.get(_NAMES)
        known = names if isinstance(names, dict) else patterns
        if isinstance(known, dict) and known:
            moved = {_name_now(module, str(key)): _name_now(module, str(value)) for key, value in known.items()}
            kept = {key: value for key, value in moved.items() if _same_or_unknown(module, key, value)}
            _set(module, _PATTERNS, _as_patterns(module, kept))
            if isinstance(names, dict):
                _set(module, _NAMES, kept)
        elif isinstance(patterns, (list, tuple)):
            _set(module, _PATTERNS, [_name_now(module, str(pattern)) for pattern in patterns])


def _as_patterns(module: nn.Module, names: dict[str, str]) -> dict[str, str]:
    """The names as the patterns that transformers makes of them, unless it takes all of them for names.

    A pattern stands for everything that begins like it: `layer.weight` for `layer.weight_quantizer.scale` too.
    """
    if all("weight" in name for name in (*names, *names.values())):
        return names

    def pattern(name: str) -> str:
        return name if _tensor(module, name) is None else f"{re.escape(name)}$"

    return {pattern(key): pattern(value) for key, value in names.items()}


def _set(module: nn.Module, name: str, value: Any) -> None:
    module.__dict__[name] = value


def _same_or_unknown(module: nn.Module, key: str, value: str) -> bool:
    first, second = _tensor(module, key), _tensor(module, value)
    # A pattern is no name of a tensor.
    return first is None or second is None or first is second


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    for part in filter(None, path.split(".")):
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    found = {**module._parameters, **module._buffers}.get(leaf)
    return found


def _weight_of(model: nn.Module, layer: str, tensor: str) -> Tensor | None:
    return _tensor(model, _name_now(model, f"{layer}.{tensor}"))


def _name_now(root: nn.Module, name: str) -> str:
    """The name of a tensor, wherever wrappers have moved it; `name` itself where it is no name of a tensor."""
    *path, leaf = name.split(".")
    module, parts = root, list[str]()
    for part in path:
        child = _into(module, part, "_modules", parts)
        if child is None:
            return name
        module = child._modules[part]  # type: ignore[assignment]  # it was found
        parts.append(part)
    owner = _into(module, leaf, "_parameters", parts) or _into(module, leaf, "_buffers", parts)
    return name if owner is None else ".".join([*parts, leaf])


def _into(module: nn.Module | None, part: str, registry: str, parts: list[str]) -> nn.Module | None:
    """The module, or one that it stands around, that has `part`; the way there is added to `parts`."""
    way: list[str] = []
    while module is not None and part not in getattr(module, registry):
        inside = "norm" if isinstance(module, LiveBatchNorm) else "layer"
        is_around = isinstance(module, (PytorchQuantizationWrapper, QuantizedInput, LiveBatchNorm))
        module = module._modules.get(inside) if is_around else None
        way.append(inside)
    if module is not None:
        parts.extend(way)
    return module
