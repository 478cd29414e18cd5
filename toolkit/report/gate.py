"""A gate for people and for CI: text, a Markdown summary, JUnit XML, GitHub annotations.

In: a `Gate`. Out: text. Names and reasons come from files, so they are escaped for each form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree

from toolkit.report.comparison import closing, comparison_cells, comparison_notes
from toolkit.report.table import aligned
from toolkit.schema import Gate, GateRow

MOST_BYTES = 65_000  # GitHub takes 65,536 characters in a comment
_MOST_ANNOTATIONS = 10  # GitHub shows as many for each step

_WORDS = {0: "✓ Passed", 1: "✗ Failed", 2: "? Not judged", 3: "? Incomplete", 4: "? Undecided"}
# XML has no way to write these.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def gate_verdict(gate: Gate) -> str:
    """Return the verdict in a word, with a symbol."""
    return _WORDS[gate.exit_code]


def render_gate(gate: Gate) -> str:
    """Return the verdict, the rows that did not pass or changed, and the table of speeds."""
    headings, rows, numeric = comparison_cells(gate.comparison)
    return "\n".join(
        [
            f"{gate_verdict(gate)}: {gate.headline} {_closed(gate)}",
            *(f"  {_outcome(row)} {row.name}: {row.reason or row.outcome}" for row in _shown(gate)),
            "",
            aligned(headings, rows, numeric=numeric),
            *comparison_notes(gate.comparison),
        ]
    )


def _closed(gate: Gate) -> str:
    return f"Speed: {closing(gate.comparison)}."


def _shown(gate: Gate) -> list[GateRow]:
    return [row for row in gate.rows if row.outcome != "passed" or row.changed]


def _outcome(row: GateRow) -> str:
    return {"passed": "✓", "failed": "✗"}.get(row.outcome, "?")


def render_summary(gate: Gate) -> str:
    """Return Markdown for a pull request: the verdict, and the rows that did not pass or changed.
    It is short enough for a comment."""
    counts = Counter(f"{row.kind}: {row.outcome}" for row in gate.rows)
    shown = _shown(gate)
    head = [
        f"## {gate_verdict(gate)}",
        "",
        _markdown(f"{gate.headline} {_closed(gate)}"),
        "",
    ]
    tail = [
        "",
        "<details><summary>How this was measured</summary>",
        "",
        *(f"- {_markdown(line)}" for line in comparison_notes(gate.comparison)[:-1]),
        f"- Rows: {', '.join(f'{number} {name}' for name, number in sorted(counts.items()))}.",
        "",
        "</details>",
    ]
    if not shown:
        return "\n".join([*head, "Nothing changed.", *tail]) + "\n"
    lines = ["| | what | row | change |", "| --- | --- | --- | --- |"]
    left = MOST_BYTES - sum(len(line.encode()) + 1 for line in [*head, *lines, *tail]) - 200
    for number, row in enumerate(shown):
        reason = _markdown(row.reason or row.outcome)
        line = f"| {_outcome(row)} | {row.kind} | {_markdown(row.name)} | {reason} |"
        left -= len(line.encode()) + 1
        if left < 0:
            lines += ["", f"{len(shown) - number} more rows are not shown."]
            break
        lines.append(line)
    return "\n".join([*head, *lines, *tail]) + "\n"


def _markdown(text: str) -> str:
    """Escape what Markdown, HTML and GitHub would interpret."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", flat)
    return flat.replace("@", "@<!-- -->")  # nobody is notified


def render_junit(gate: Gate) -> str:
    """Return JUnit XML: a suite for parity and one for speed. What failed or is undecided is a
    failed test, what could not be run an error."""
    root = ElementTree.Element("testsuites", name="toolkit gate")
    for kind in ("parity", "speed"):
        rows = [row for row in gate.rows if row.kind == kind]
        failed = sum(row.outcome in ("failed", "undecided") for row in rows)
        errors = sum(row.outcome == "not run" for row in rows)
        suite = ElementTree.SubElement(
            root, "testsuite", name=kind, tests=str(len(rows)), failures=str(failed)
        )
        suite.set("errors", str(errors))
        for row in rows:
            case = ElementTree.SubElement(suite, "testcase", name=_xml(row.name), classname=kind)
            if row.outcome == "passed":
                continue
            tag = "error" if row.outcome == "not run" else "failure"
            why = _xml(row.reason or row.outcome)
            ElementTree.SubElement(case, tag, message=why, type=row.outcome).text = why
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def github_annotations(gate: Gate) -> Iterator[str]:
    """Return GitHub's workflow commands: an error for each row that failed, a warning for each that
    is undecided or could not be run."""
    rows = sorted(
        (row for row in gate.rows if row.outcome != "passed"),
        key=lambda row: row.outcome != "failed",
    )
    for row in rows[:_MOST_ANNOTATIONS]:
        level = "error" if row.outcome == "failed" else "warning"
        title = _property(f"{row.kind}: {row.name}")
        yield f"::{level} title={title}::{_message(row.reason or row.outcome)}"


def _message(text: str) -> str:
    return _replaced(text, {"%": "%25", "\r": "%0D", "\n": "%0A"})


def _property(text: str) -> str:
    return _replaced(text, {"%": "%25", "\r": "%0D", "\n": "%0A", ":": "%3A", ",": "%2C"})


def _replaced(text: str, table: dict[str, str]) -> str:
    return "".join(table.get(each, each) for each in text)
