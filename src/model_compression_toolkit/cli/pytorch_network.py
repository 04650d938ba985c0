# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What `mct quantize` does with PyTorch networks alone."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils import _pytree as pytree

from mct_quantizers.common.files import check_tensor_bytes
from mct_quantizers.common.untrusted import check_is_file
from mct_quantizers.pytorch.model_description import max_state_bytes
from model_compression_toolkit.core.pytorch.data import batches_of

Array = npt.NDArray[Any]


def load_network(factory: str, weights: Path | None) -> Any:
    """The network that `package.module:factory` returns, with the weights of a safetensors file.

    The current folder is searched first, as by `python -m`.

    Raises:
        ValueError: `factory` has another form, the module or the function does not exist, it returns no module, or the
            weights do not fit.
        OSError: the weights cannot be read.
    """
    module_name, separator, function_name = factory.partition(":")
    if not (module_name and separator and function_name):
        raise ValueError(f"`--model` must look like package.module:factory. Received: {factory!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"`--model` names the module {module_name!r}, which cannot be imported: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"`--model` must name a function of {module_name}. Received: {function_name!r}")
    network = function()
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"`--model` must return a torch.nn.Module. Received: {type(network).__name__}")
    if weights is not None:
        _load_weights(network, weights)
    return network.eval()


def other_files() -> tuple[str, ...]:
    """What is written beside the .onnx file."""
    return ("model.safetensors",)


def set_seed(seed: int) -> None:
    """Let the training be the same each time."""
    torch.manual_seed(seed)


@torch.no_grad()
def first_output(network: Any, inputs: Array) -> Array | None:
    """The first output tensor for all inputs, shape (N, …); None where there is none."""
    found: list[torch.Tensor] = []
    for batch in batches_of(inputs):
        outputs = [leaf for leaf in pytree.tree_leaves(network(*batch)) if isinstance(leaf, torch.Tensor)]
        if not outputs:
            return None
        found.append(outputs[0])
    return torch.cat(found).numpy() if all(item.ndim for item in found) else None


def _load_weights(network: Any, path: Path) -> None:
    check_is_file(path, "--weights")
    check_tensor_bytes(path, max_state_bytes(network), "the network")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"`--weights` must be a safetensors file. Received: {path} ({error})") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"`--weights` must fit the network. Received: {path} ({error})") from error
