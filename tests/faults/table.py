"""Outcomes → the page docs/faults.md.

In: outcomes and a note on the run. Out: Markdown, with the counts at the top.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import click

from toolkit.schema import Device

from .cases import ALL
from .harness import Harness, runs_on, scratch_cache
from .records import Case, Outcome

PAGE = Path(__file__).parent.parent.parent / "docs" / "faults.md"
_CUT = 90
_NOT_RUN = "not run"


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count the faults that were caught and named, and the healthy variants that failed."""
    built = [each for each in outcomes if each.status not in ("not built", _NOT_RUN)]
    faults = [each for each in built if not each.case.healthy]
    healthy = [each for each in built if each.case.healthy]
    passed = [each for each in faults if each.status == "passed" and each.right]
    caught = [each for each in faults if each.right and each not in passed]
    nameable = [each for each in caught if each.case.cause]
    return {
        "faults": len(faults),
        "caught": len(caught),
        "rightly passed": len(passed),
        "with a cause to name": len(nameable),
        "named": sum(each.named for each in nameable),
        "named wrongly": sum(each.named_wrongly for each in caught),
        "healthy": len(healthy),
        "false alarms": sum(not each.right for each in healthy),
        "undecided": sum(each.status == "undecided" for each in healthy),
        "not built or run": len(outcomes) - len(built),
    }


def page(outcomes: Sequence[Outcome], note: str) -> str:
    """The page as Markdown."""
    number = counts(outcomes)
    faults = [each for each in outcomes if not each.case.healthy]
    healthy = [each for each in outcomes if each.case.healthy]
    lines = [
        "# Planted faults and healthy variants",
        "",
        f"`python -m tests.faults` wrote this page {note}. Code in `tests/faults/`",
        "builds each case, and `toolkit.verify` judges it with its default gates. Distances are in",
        "noise floors: the distance of PyTorch's own float32 results from the float64 reference on",
        "the same image.",
        "",
        "| | cases | count |",
        "| --- | --- | --- |",
        f"| faults caught | {number['faults']} | {number['caught']} |",
        f"| faults passed, without effect or within the rounding of the file "
        f"| {number['faults']} | {number['rightly passed']} |",
        f"| faults whose cause is named | {number['with a cause to name']} | {number['named']} |",
        f"| faults with a wrong cause | {number['caught']} | {number['named wrongly']} |",
        f"| healthy variants failed | {number['healthy']} | {number['false alarms']} |",
        f"| healthy variants undecided | {number['healthy']} | {number['undecided']} |",
        f"| not built or not run | {len(outcomes)} | {number['not built or run']} |",
        "",
        "## Faults",
        "",
        "| fault | level | format | verdict | flips | floors | named cause |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_fault_row(each) for each in faults),
        "",
        "## Healthy variants",
        "",
        "| variant | format | precision | runtime | verdict | flips | floors | reason |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_healthy_row(each) for each in healthy),
    ]
    return "\n".join(lines) + "\n"


def _fault_row(each: Outcome) -> str:
    verdict = each.status if each.right or each.status == _NOT_RUN else f"**{each.status}**"
    cause = each.cause or ""
    if each.named_wrongly:
        cause = f"**{cause}**"
    cells = [
        *(each.case.name, each.case.level, each.case.format, verdict),
        *(_number(each.flips), _number(each.floors), cause or _cut(each.reason)),
    ]
    return f"| {' | '.join(cells)} |"


def _healthy_row(each: Outcome) -> str:
    case = each.case
    verdict = each.status if each.right or each.status == _NOT_RUN else f"**{each.status}**"
    cells = [
        *(case.name, case.format, case.precision, case.runtime, verdict),
        *(_number(each.flips), _number(each.floors)),
        "" if each.status == "passed" else _cut(each.reason),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _cut(text: str) -> str:
    line = re.sub(r"(?:/[\w.-]+)+/", "", text.replace("|", "/").replace("\n", " "))
    return line if len(line) <= _CUT else f"{line[: _CUT - 1]}…"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Outcomes in a file of JSON lines, so that an interrupted run can continue."""

    path: Path | None
    only: bool = False  # do not judge anything

    def read(self) -> dict[tuple[str, str], Outcome]:
        """Return the recorded outcomes by bed and name."""
        if self.path is None or not self.path.exists():
            return {}
        cases = {(case.bed, case.name): case for case in ALL}
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        keys = [(line.pop("bed"), line.pop("name")) for line in lines]
        return {
            key: Outcome(case=cases[key], **line)
            for key, line in zip(keys, lines, strict=True)
            if key in cases
        }

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Append outcomes to the file."""
        if self.path is None:
            return
        with self.path.open("a") as file:
            for each in outcomes:
                values = {f.name: getattr(each, f.name) for f in fields(each) if f.name != "case"}
                file.write(
                    json.dumps({"bed": each.case.bed, "name": each.case.name, **values}) + "\n"
                )


def judge_all(
    chosen: Sequence[Case], record: Record, *, images: int, scratch: Path, device: Device = "cpu"
) -> list[Outcome]:
    """Return the outcome of each case: the recorded one, or one judged now."""
    known = record.read()
    if record.only:
        return [
            known.get((case.bed, case.name), Outcome(case=case, status=_NOT_RUN)) for case in chosen
        ]
    harness = Harness(
        scratch, images=images, device=device, say=lambda text: click.echo(text, err=True)
    )
    left = [case for case in chosen if (case.bed, case.name) not in known]
    found = {(each.case.bed, each.case.name): each for each in harness.judge(left, done=record.add)}
    return [(known | found)[case.bed, case.name] for case in chosen]


@click.command()
@click.option("--short", is_flag=True, help="Run the cases of the short version only.")
@click.option(
    "--match", "matching", default="", help="Run the cases that match this regular expression."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Device of the sessions; skip cases whose runtime does not support it.",
)
@click.option(
    "--images", default=2000, show_default=True, help="Number of test images for fp32 files."
)
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    help="File of outcomes (JSON lines); an existing one is continued.",
)
@click.option("--recorded", is_flag=True, help="Judge nothing; use the outcomes in --record.")
@click.option("--out", type=click.Path(path_type=Path), help="Page to write.  [default: none]")
def main(
    short: bool,
    matching: str,
    device: Device,
    images: int,
    record: Path | None,
    recorded: bool,
    out: Path | None,
) -> None:
    """Judge planted faults and healthy variants, and write the table."""
    chosen = [
        case
        for case in ALL
        if re.search(matching, f"{case.name} {case.level} {case.runtime} {case.bed}")
        and (case.short or not short)
        and runs_on(case, device)
    ]
    kept = Record(path=record, only=recorded)
    with tempfile.TemporaryDirectory() as folder:
        scratch_cache(Path(folder))
        outcomes = judge_all(chosen, kept, images=images, scratch=Path(folder), device=device)
    for each in outcomes:
        if each.status != _NOT_RUN and (not each.right or each.named_wrongly):
            click.echo(f"{each.case.name}: {each.status}; {each.cause}; {each.reason}"[:300])
    click.echo(str(counts(outcomes)))
    if out is not None:
        note = f"on {images} test images" + (", on CUDA" if device == "cuda" else "")
        out.write_text(page(outcomes, note))
