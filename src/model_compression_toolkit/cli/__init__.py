# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: `mct demo`, `mct quantize`, `mct inspect`."""

import sys

import typer
from rich.console import Console

from model_compression_toolkit.cli import demo, inspect, quantize

app = typer.Typer(
    name="mct",
    help="Make neural networks small and fast: quantize, train with quantization, export, verify.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(demo.demo)
app.command()(quantize.quantize)
app.command()(inspect.inspect)


@app.callback()
def options(debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error.")) -> None:
    """Options of every command."""
    del debug  # read in `main`, because an error may come before the options are parsed


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # the last line of defence: one line for the user, all of it with --debug
        if "--debug" in sys.argv:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]error:[/] ", end="")
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)
        sys.exit(1)
