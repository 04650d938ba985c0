# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the examples of the interface's documents: files as printed, in which only what they leave open is filled in."""

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

DOCUMENTS = Path(__file__).parent / "documents"
OPEN = "..."
_MODULE = "document_example_"
_number = itertools.count()


def printed(file: str) -> str:
    """Text of an example as the document prints it."""
    return (DOCUMENTS / file).read_text(encoding="utf-8")


def filled(text: str, *fills: str) -> str:
    """`text` with each `...` replaced by one of `fills`, in order; nothing else changes."""
    parts = text.split(OPEN)
    if len(parts) != len(fills) + 1 or any("\n" in fill for fill in fills):
        raise ValueError(f"`fills` must be {len(parts) - 1} lines of code. Received: {fills}")
    return "".join(part + fill for part, fill in itertools.zip_longest(parts, fills, fillvalue=""))


def new_module() -> str:
    """A name for a module that no example has had."""
    return f"{_MODULE}{next(_number)}"


def run_example(text: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """The names that an example defines.

    Args:
        text: the example, filled in.
        names: what the document names without importing it.
    """
    # A real module: torch's compiler looks for the globals of functions there.
    place = ModuleType(new_module())
    sys.modules[place.__name__] = place
    vars(place).update(names)
    # What this file's own `from __future__` says must not count in the example.
    exec(compile(text, "<document>", "exec", dont_inherit=True), vars(place))
    return vars(place)


@contextmanager
def examples_forgotten(*bases: type) -> Iterator[None]:
    """Afterwards nothing finds the modules of examples, nor the classes in them by their marks."""
    try:
        yield
    finally:
        for cls in _subclasses(bases):
            if cls.__module__.startswith(_MODULE):
                cls.quantization_target = cls.identifier = None
        for name in [name for name in sys.modules if name.startswith(_MODULE)]:
            del sys.modules[name]


def _subclasses(classes: Any) -> Iterator[Any]:
    for cls in classes:
        yield from _subclasses(cls.__subclasses__())
        yield cls


def run_in_new_process(code: str, *arguments: Any) -> str:
    """Standard output of `code` in a fresh interpreter, which finds this file."""
    prologue = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", prologue + code, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # our own code
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()
