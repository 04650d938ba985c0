# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bars for work that takes longer than two seconds."""

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

DELAY_SECONDS = 2.0


@contextmanager
def working(description: str) -> Iterator[None]:
    """Show on the error stream, where that is a terminal, that work without countable steps goes on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(description):
        yield


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items`; after two seconds show a bar on the error stream, where that is a terminal.

    Args:
        items: what to work on.
        description: what the work is.
        total: number of items; taken from `items` where it has a length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(description, total=total)
    start, shown = time.monotonic(), False
    try:
        for item in items:
            if not shown and time.monotonic() - start > DELAY_SECONDS:
                progress.start()
                shown = True
            yield item
            progress.advance(task)
    finally:
        if shown:
            progress.stop()
