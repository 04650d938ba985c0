# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the conformance checks found: a value, printed as a table."""

import textwrap
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["CheckResult", "CheckStatus", "ConformanceReport"]

_WIDTH_OF_EXPECTED, _WIDTH_OF_DETAIL = 46, 66


class CheckStatus(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    """The promise holds."""
    FAILED = "failed"
    """It does not, or the check raised."""
    SKIPPED = "skipped"
    """It does not apply, or what it needs is broken already; the detail says why."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check.

    Attributes:
        name: its short name, which stays the same between versions.
        status: how it ended.
        expected: what was expected.
        detail: what came, with the values that show it.
    """

    name: str
    status: CheckStatus
    expected: str
    detail: str


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """What `check_quantizer` found. `print` shows a table.

    Attributes:
        quantizer: name of the class.
        framework: the framework it ran on.
        cases: the quantizations that it was checked with.
        results: the checks in the order in which they ran.
    """

    quantizer: str
    framework: str
    cases: tuple[str, ...]
    results: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return self._with_status(CheckStatus.FAILED)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the checks that were skipped."""
        return self._with_status(CheckStatus.SKIPPED)

    def __getitem__(self, name: str) -> CheckResult:
        """The check `name`.

        Raises:
            KeyError: there is none; the text lists those that exist.
        """
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"There is no check {name!r}. There are {[result.name for result in self.results]}.")

    def __str__(self) -> str:
        total = len(self.results) - len(self.skipped)
        verdict = f"{total} checks passed" if self.ok else f"{len(self.failed)} of {total} checks failed"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        lines = [f"{self.quantizer} on {self.framework}: {verdict}{skipped}", "", *self._table(), "", "Checked with:"]
        return "\n".join([*lines, *(f"  {case}" for case in self.cases or ("nothing",))])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "quantizer": self.quantizer,
            "framework": self.framework,
            "ok": self.ok,
            "cases": list(self.cases),
            "results": [
                {"name": item.name, "status": item.status.value, "expected": item.expected, "detail": item.detail}
                for item in self.results
            ],
        }

    def _with_status(self, status: CheckStatus) -> tuple[str, ...]:
        return tuple(result.name for result in self.results if result.status is status)

    def _table(self) -> list[str]:
        rows = [
            (
                [item.name],
                [item.status.value.upper() if item.status is CheckStatus.FAILED else item.status.value],
                textwrap.wrap(item.expected, _WIDTH_OF_EXPECTED),
                [line for text in item.detail.splitlines() for line in textwrap.wrap(text, _WIDTH_OF_DETAIL)],
            )
            for item in self.results
        ]
        header = (["check"], ["status"], ["expected"], ["what came"])
        widths = [max(len(cell) for row in (header, *rows) for cell in row[index]) for index in range(3)]
        lines = []
        for row in (header, tuple([["-" * width] for width in (*widths, _WIDTH_OF_DETAIL)]), *rows):
            for number in range(max(map(len, row))):
                cells = [column[number] if number < len(column) else "" for column in row]
                padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
                lines.append("  ".join([*padded, cells[-1]]).rstrip())
        return lines
