# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The part of a quantizer's `state_dict` that says of which grid its numbers are, and refuses those of another one."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mct_quantizers.common.grid_state import GRID_LENGTH, QUANTIZATION_GRID, GridDescription, grid_mismatch
from mct_quantizers.pytorch import ops as torch_ops

__all__ = ["Float32StateModule", "GridStateModule", "grid_keys", "learned_buffers"]


class Float32StateModule(nn.Module):
    """A module whose own floating-point tensors follow `.to(device)` but stay float32 under `.half()` and the like."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            # `fn` has rounded to its dtype already: move the original instead.
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]  # torch has no types here
        return self


class GridStateModule(Float32StateModule):
    """A quantizer whose state says of which grid it is: the buffer `quantization_grid`, float32, shape (40,).

    `load_state_dict`, strict or not, raises where a state is of another grid, and leaves that quantizer as it was.
    Nothing is computed from the buffer. A quantizer that no grid describes has none.
    """

    def _set_grid(self, description: GridDescription) -> None:
        """Have `description` in the state, and compare loaded states with it."""
        self.__dict__["_grid_description"] = description
        self.register_buffer(QUANTIZATION_GRID, torch_ops.state_tensor(description.to_vector(), torch.float32))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        description: GridDescription | None = self.__dict__.get("_grid_description")
        stored = _numbers(state_dict.get(prefix + QUANTIZATION_GRID))
        if description is not None and stored is not None:
            error = grid_mismatch(prefix.removesuffix(".") or type(self).__name__, description, stored)
            if error:
                error_msgs.append(error)
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def grid_keys(model: nn.Module) -> set[str]:
    """The keys in the `state_dict` of `model` under which quantizers say of which grid they are."""
    return {
        f"{path}.{QUANTIZATION_GRID}".removeprefix(".")
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, GridStateModule) and QUANTIZATION_GRID in module._buffers
    }


def learned_buffers(quantizer: nn.Module) -> tuple[Tensor, ...]:
    """The buffers of a quantizer from which it computes."""
    return tuple(buffer for name, buffer in quantizer.named_buffers() if name.rpartition(".")[2] != QUANTIZATION_GRID)


def _numbers(stored: Any) -> npt.NDArray[np.float64] | None:
    """The numbers of an entry of a state; None where it has none, or another shape, of which torch tells."""
    if not isinstance(stored, Tensor) or stored.is_meta or stored.numel() != GRID_LENGTH:
        return None
    gather = getattr(stored, "full_tensor", None)
    array: npt.NDArray[np.float64] = (stored if gather is None else gather()).detach().double().cpu().numpy()
    return array
