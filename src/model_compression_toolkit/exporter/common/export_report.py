# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What an export tells about the file that it wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from model_compression_toolkit.exporter.common.format import ExportFormat
from model_compression_toolkit.exporter.common.parity import ParityReport

__all__ = ["ExportReport", "ParityError", "finish"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: the file.
        format: its format.
        file_size: its bytes.
        notes: what a reader should know, such as a batch size that is fixed.
        parity: how the file compares with the model; None when it was not asked for.
    """

    path: Path
    format: ExportFormat
    file_size: int
    notes: tuple[str, ...] = ()
    parity: ParityReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "format": self.format.value,
            "file_size": self.file_size,
            "notes": list(self.notes),
            "parity": None if self.parity is None else self.parity.to_dict(),
        }

    def __str__(self) -> str:
        lines = [f"Wrote {self.path} ({self.file_size:,} bytes)", *(f"  note: {note}" for note in self.notes)]
        return "\n".join(lines if self.parity is None else [*lines, str(self.parity)])


class ParityError(RuntimeError):
    """The file that an export wrote does not compute what the model computes. The file stays where it is.

    Attributes:
        report: what was written, and in `report.parity` how it differs.
    """

    def __init__(self, report: ExportReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        where = None if self.report.parity is None else self.report.parity.first_divergence
        return (
            f"{self.report.path} was written, but does not compute what the model computes: it differs first at "
            f"{where}. `report.parity` of this error has the numbers of every tensor.\n{self.report.parity}"
        )


def finish(report: ExportReport, quiet: bool) -> ExportReport:
    """Print the comparison and the notes of an export unless it is to be quiet, and return its report.

    Raises:
        ParityError: a comparison was asked for, and file and model differ.
    """
    if not quiet:
        _print(report)
    if report.parity is not None and not report.parity.passed:
        raise ParityError(report)
    return report


def _print(report: ExportReport) -> None:
    console = Console(soft_wrap=True)
    if report.parity is not None:
        console.print(report.parity.render())
    for note in report.notes:
        console.print(f"Note: {note}", markup=False)
