# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Names of a package that load a framework on first use, and the one sentence for a framework that is missing."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

_EXTRA_OF = {
    "torch": "torch",
    "keras": "keras",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime_extensions": "onnx",
    "onnxscript": "onnx",
    "sklearn": "demo",
    "PIL": "dev",
}


def attach(
    package: str, table: Mapping[str, str], names: list[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the face of a package.

    Args:
        package: its name.
        table: module of each lazy name; `"module:"` means the module itself.
        names: its public names.
    """
    return lambda name: load(package, name, table), lambda: names


def load(package: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that `package.name` stands for.

    Args:
        package: name of the package whose face is asked.
        name: the attribute asked for.
        table: module of each lazy name; `"module:"` means the module itself.

    Raises:
        AttributeError: the package has no such name.
        ImportError: the framework behind the name is not installed.
    """
    if name not in table:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module_name, is_module, _ = table[name].partition(":")
    module = import_optional(module_name, needed_by=f"{package}.{name}")
    return module if is_module else getattr(module, name)


def import_optional(module_name: str, needed_by: str) -> Any:
    """Import a module that needs an optional dependency.

    Args:
        module_name: the module to import.
        needed_by: what the user asked for, for the text of the error.

    Raises:
        ImportError: an optional dependency is missing; the text names the extra to install.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_OF:
            raise
        raise ImportError(
            f"`{needed_by}` needs {missing}, which is not installed. "
            f"Install it with: pip install 'quantizers-infrastructure[{_EXTRA_OF[missing]}]'",
            name=missing,
        ) from error
