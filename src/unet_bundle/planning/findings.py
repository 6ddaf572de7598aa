"""What a check of a data set found, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first. An error spoils training or stops it; a warning may; a note tells what was accepted."""


@dataclass(frozen=True)
class Finding:
    """One thing about one file, or about the data set.

    Attributes:
        severity: see `SEVERITIES`.
        kind: a few words for programs, such as ``"fractional labels"``.
        file: path relative to the data set; empty for the data set as a whole.
        message: what is wrong and what to do, one sentence that reads on from the file's name.
    """

    severity: Severity
    kind: str
    file: str
    message: str


@dataclass(frozen=True)
class Report:
    """Everything a check found.

    Attributes:
        dataset: name of the data set's folder.
        layout: name of its layout.
        cases: number of labelled cases.
        channels: channels of most images; None if no image could be read.
        findings: worst first, then by file.
    """

    dataset: str
    layout: str
    cases: int
    channels: int | None
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def would_spoil_training(self) -> bool:
        """Whether there is an error."""
        return self.count("error") > 0

    def summary(self) -> str:
        """The data set and the number of findings in one line."""
        channels = "" if self.channels is None else f", {_many(self.channels, 'channel')}"
        counts = ", ".join(_many(self.count(severity), severity) for severity in SEVERITIES if self.count(severity))
        cases = f"{_many(self.cases, 'labelled case')}{channels}"
        return f"{self.dataset}: {cases} (layout: {self.layout}); {counts or 'nothing found that is wrong'}."

    def table(self) -> list[str]:
        """The findings as lines of aligned columns: severity, file, message."""
        width = max((len(finding.file) for finding in self.findings), default=0)
        return [f"{one.severity:<7}  {one.file or '-':<{width}}  {one.message}" for one in self.findings]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the same every time for the same data set."""
        return {
            "format": 1,
            "dataset": self.dataset,
            "layout": self.layout,
            "cases": self.cases,
            "channels": self.channels,
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
        }


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
