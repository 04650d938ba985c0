# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of PyTorch models and of ONNX files."""

from typing import Any

import torch
from torch import nn

from mct_quantizers import _lazy
from mct_quantizers.common.constants import FRAMEWORK_VERSION, ONNX_VERSION
from mct_quantizers.common.metadata import verify_and_init_metadata

__all__ = ["add_metadata", "add_onnx_metadata", "get_metadata", "get_onnx_metadata"]


def add_metadata(model: nn.Module, metadata: dict[str, Any] | None) -> nn.Module:
    """Set `model.metadata`, completed with the versions of Python, torch and this package.

    Args:
        model: any module; it is changed and returned.
        metadata: see `verify_and_init_metadata`.

    Raises:
        TypeError: `model` is no module, or `metadata` no dictionary by text; nothing is changed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    verified = verify_and_init_metadata(metadata)
    verified[FRAMEWORK_VERSION] = torch.__version__
    model.metadata = verified  # type: ignore[assignment]  # torch types attributes as tensors and modules
    return model


def get_metadata(model: nn.Module) -> dict[str, Any]:
    """What `add_metadata` set; an empty dictionary where nothing was set."""
    metadata: dict[str, Any] = getattr(model, "metadata", {})
    return metadata


def add_onnx_metadata(model: Any, metadata: dict[str, Any] | None) -> Any:
    """Write metadata, completed with the version of onnx, into an ONNX model, one property for each key.

    Args:
        model: an `onnx.ModelProto`; it is changed and returned. A property of the same name is replaced.
        metadata: text or bytes by text.

    Raises:
        TypeError: a value is neither text nor bytes; nothing is changed.
        ImportError: onnx is not installed.
    """
    onnx = _lazy.import_optional("onnx", needed_by="add_onnx_metadata")
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"`model` must be an onnx.ModelProto. Received: {type(model).__name__}")
    metadata = {} if metadata is None else metadata
    for key, value in metadata.items():
        if not isinstance(value, (str, bytes)):
            raise TypeError(f"`metadata` of an ONNX model must be text or bytes. Received: {key}={value!r}")
    verified = verify_and_init_metadata({k: v.decode() if isinstance(v, bytes) else v for k, v in metadata.items()})
    verified[ONNX_VERSION] = onnx.__version__
    kept = [item for item in model.metadata_props if item.key not in verified]
    properties = [onnx.StringStringEntryProto(key=key, value=value) for key, value in verified.items()]
    del model.metadata_props[:]
    model.metadata_props.extend([*kept, *properties])
    return model


def get_onnx_metadata(model: Any) -> dict[str, str]:
    """All properties of an `onnx.ModelProto`, by their names."""
    return {item.key: item.value for item in model.metadata_props}
