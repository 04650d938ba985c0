# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters that an optimizer counts in units of their own size, and that a `state_dict` shows as they are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic
from mct_quantizers.pytorch import ops as torch_ops

_PARAMETER, _UNIT = "relative_{}", "{}_unit"
_KEPT_RANGE = 16.0


class RelativeStateModule(nn.Module):
    """A module some of whose numbers are trained in units of their own size.

    The number `scale`, say, is the product of the parameter `relative_scale`, which an optimizer moves, and of
    `scale_unit`, a power of two, so that the product is exact. The attribute `scale` and the `state_dict` have the
    number itself, under its own name. What is written into these tensors in place, by an average of states for
    example, counts at the next call.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._relative: tuple[str, ...] = ()
        self._shown: dict[str, tuple[Tensor, int]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_relative", ()):
            return self._show(name)
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        for key in self._relative:
            self._take_over(key)
        return {**self.__dict__, "_shown": {}}

    def _add_relative_parameter(self, key: str, value: Tensor, unit: Tensor) -> nn.Parameter:
        """Register `value`, to be trained in units of `unit`."""
        parameter = nn.Parameter(value / unit)
        self.register_parameter(_PARAMETER.format(key), parameter)
        self.register_buffer(_UNIT.format(key), unit, persistent=False)
        self._relative = (*self._relative, key)
        return parameter

    def _relative_number(self, key: str) -> Tensor:
        """The number `key` as it counts, differentiable."""
        self._take_over(key)
        parameter = getattr(self, _PARAMETER.format(key))
        result: Tensor = arithmetic.in_units(whole(parameter), getattr(self, _UNIT.format(key)), torch_ops)
        return result

    def _show(self, key: str) -> Tensor:
        """The number `key` as a tensor that stays the same one."""
        self._take_over(key)
        with torch.no_grad(), torch.inference_mode(False):
            parameter = getattr(self, _PARAMETER.format(key))
            value = parameter.detach() * self._unit_of(key, parameter)
            tensor, _ = self._shown.get(key, (None, 0))
            if tensor is None or tensor.device != value.device or type(tensor) is not type(value):
                tensor = value
            else:
                tensor.copy_(value)
        self._shown[key] = (tensor, tensor._version)
        return tensor

    def _take_over(self, key: str) -> None:
        """Count what was written into the tensor that was shown."""
        if torch.compiler.is_compiling() or key not in self._shown:
            return
        tensor, version = self._shown[key]
        if tensor._version != version:
            parameter = getattr(self, _PARAMETER.format(key))
            with torch.no_grad():
                parameter.copy_(tensor / self._unit_of(key, tensor))
            self._shown[key] = (tensor, tensor._version)

    def _unit_of(self, key: str, like: Any) -> Tensor:
        """The unit, distributed as `like` is where a model is sharded."""
        unit: Tensor = getattr(self, _UNIT.format(key))
        if not hasattr(like, "full_tensor"):
            return unit.to(like.device)
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(unit, like.device_mesh, like.placements)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        own: dict[str, Any] = {}
        super()._save_to_state_dict(own, prefix, keep_vars)
        keys = {prefix + _PARAMETER.format(key): key for key in self._relative}
        for name, value in own.items():
            if name in keys:
                destination[prefix + keys[name]] = self._show(keys[name])
            else:
                destination[name] = value

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state, missing, errors = dict(state_dict), list[str](), list[str]()
        for key in self._relative:
            self._shown.pop(key, None)
            if strict and prefix + _PARAMETER.format(key) in state:
                unexpected_keys.append(prefix + _PARAMETER.format(key))
            if prefix + key in state:
                state[prefix + _PARAMETER.format(key)] = self._in_units(key, state.pop(prefix + key))
        super()._load_from_state_dict(state, prefix, local_metadata, strict, missing, unexpected_keys, errors)
        for key in self._relative:
            parameter, name = prefix + _PARAMETER.format(key), prefix + key
            missing = [name if each == parameter else each for each in missing]
            errors = [each.replace(parameter, name) for each in errors]
        missing_keys.extend(missing)
        error_msgs.extend(errors)

    def _in_units(self, key: str, value: Any) -> Any:
        """A loaded number in units; one of quite another size than the unit brings a unit of its own."""
        unit = getattr(self, _UNIT.format(key))
        if not isinstance(value, Tensor) or value.shape != unit.shape:
            # Refused as any tensor of a wrong shape is.
            return value
        with torch.no_grad():
            if not (hasattr(value, "full_tensor") or value.is_meta or unit.is_meta):
                size = value.detach().to(unit).abs()
                ratio = size / unit
                near = (ratio <= _KEPT_RANGE) & (ratio >= 1 / _KEPT_RANGE)
                usable = (size > 0) & (size < torch.inf)
                own = arithmetic.power_of_two(torch.where(usable, size, unit), torch_ops)
                unit.copy_(torch.where(near | ~usable, unit, own))
            return value.to(torch.float32) / self._unit_of(key, value)


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered where it is a part of a sharded one (a `DTensor`); differentiable."""
    gather = getattr(tensor, "full_tensor", None)
    result: Tensor = tensor if gather is None else gather()
    return result
