# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The plan that a file carries, read without a framework and without running anything."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mct_quantizers._version import __version__
from mct_quantizers.common.files import FORMAT_KEY, FORMAT_VERSION_KEY, FROZEN_FORMAT, read_metadata
from mct_quantizers.common.untrusted import check_is_file, parse_json, shortened
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.exporter.common.format import ExportFormat

__all__ = ["FileInfo", "plan_metadata", "plan_of_metadata", "read_safetensors_plan", "safetensors_metadata"]

PLAN_KEY = "quantization_plan"
VERSION_KEY = "quantizers_infrastructure_version"

FROZEN_FORMAT_VERSION = "1"


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file says of itself besides the plan.

    Attributes:
        path: the file.
        format: its format.
        file_size: its bytes.
        package_version: version of the package that wrote it.
    """

    path: Path
    format: ExportFormat
    file_size: int
    package_version: str


def plan_metadata(plan: QuantizationPlan) -> dict[str, str]:
    """What every file carries: the plan as JSON, and the version of the package."""
    values = plan.to_dict()
    for tensor in values["tensors"]:
        params = tensor["params"] or {}
        for name in params.keys() & {"scale", "threshold"}:
            params[name] = [_short(number) for number in params[name]]
    return {PLAN_KEY: json.dumps(values, separators=(",", ":")), VERSION_KEY: __version__}


def _short(number: float) -> float:
    """The same float32 number in half as many digits, which are most of a plan's text."""
    short = float(str(np.float32(number)))
    return short if np.float32(short) == np.float32(number) else number


def plan_of_metadata(metadata: Mapping[str, str], path: Path) -> QuantizationPlan:
    """The plan that `plan_metadata` wrote.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if PLAN_KEY not in metadata:
        raise ValueError(f"Expected a file with a quantization plan. Received: {path}, which has none")
    try:
        return QuantizationPlan.from_dict(parse_json(metadata[PLAN_KEY]))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"The quantization plan in {path} is damaged: {shortened(error)}") from error


def info_of(path: Path, file_format: ExportFormat, metadata: Mapping[str, str]) -> FileInfo:
    """What a file says of itself, from its metadata."""
    return FileInfo(path, file_format, path.stat().st_size, metadata.get(VERSION_KEY, "unknown"))


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The metadata of a frozen model's file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no frozen model, truncated, or of another version.
    """
    check_is_file(path)
    metadata = read_metadata(path)
    if metadata.get(FORMAT_KEY) != FROZEN_FORMAT:
        raise ValueError(
            f"Expected a file that `export` or `save_frozen` wrote (format {FROZEN_FORMAT!r}). "
            f"Received: {path} with format {metadata.get(FORMAT_KEY)!r}"
        )
    if metadata.get(FORMAT_VERSION_KEY) != FROZEN_FORMAT_VERSION:
        raise ValueError(
            f"Expected version {FROZEN_FORMAT_VERSION} of the format. "
            f"Received: {path} with version {metadata.get(FORMAT_VERSION_KEY)!r}"
        )
    return metadata


def read_safetensors_plan(path: Path) -> tuple[QuantizationPlan, FileInfo]:
    """The plan of a frozen model's file, and what the file says of itself.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no frozen model, truncated, damaged, or of another version.
    """
    metadata = safetensors_metadata(path)
    return plan_of_metadata(metadata, path), info_of(path, ExportFormat.SAFETENSORS, metadata)
