"""What became of the cases: counts for each target, and the findings.

In: fates. Out: rows of a table. A finding is a hang, a crash of the driver, or a wrong pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Fate = Literal[
    "refused",
    "accepted",
    "failed",
    "crashed",
    "timed out",
    "passed",
    "wrong pass",
    "hang",
    "driver crash",
]
"""`accepted` by a parser; `failed` to `passed` are rows of verify."""

FINDINGS: tuple[Fate, ...] = ("wrong pass", "hang", "driver crash")


@dataclass(kw_only=True)
class Counts:
    """The fates of one target's cases, and the text of each finding."""

    target: str
    fates: Counter[Fate] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """Return the number of cases."""
        return self.fates.total()

    def add(self, fate: Fate, text: str = "") -> None:
        """Count one case."""
        self.fates[fate] += 1
        if fate in FINDINGS:
            self.findings.append(f"{fate}: {text}")


def table(rows: Sequence[Counts]) -> str:
    """Return a Markdown table with a row for each target, and their sum."""
    total = Counts(target="all")
    for each in rows:
        total.fates.update(each.fates)
    fates: tuple[Fate, ...] = get_args(Fate)
    lines = [
        f"| target | cases | {' | '.join(fates)} |",
        f"| --- | {' | '.join(['---:'] * (len(fates) + 1))} |",
    ]
    for each in [*rows, total]:
        cells = [each.target, str(each.cases), *(str(each.fates[fate]) for fate in fates)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
