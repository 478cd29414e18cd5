"""Notes about verdicts: why a row failed, what to look at, what was not shown.

In: results. Out: lines of text, shared by the table and Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.report.labels import kind_of
from toolkit.schema import EXACT_PRECISIONS, ParityReport, Results, Status, WorstImage

_SHOWN_CHECKS = 3
_FIRST_CLAUSE = 60


def status_text(status: Status, reason: str | None) -> str:
    """Return `passed`, or the status with its reason: `crashed: SIGSEGV`."""
    words = status.replace("_", " ")
    return f"{words}: {' '.join(reason.split())}" if reason else words


def parity_text(row: ParityReport) -> str:
    """Return the table cell: the status, the reason, and the name of the cause."""
    named = f" [{row.cause.kind}]" if row.cause is not None else ""
    return status_text(row.status, row.reason) + named


def parity_notes(results: Results) -> list[str]:
    """Return notes about the verdicts; each is a sentence or a short block."""
    lines = list(_noise(results))
    for remark in dict.fromkeys(text for row in results.parity for text in row.remarks):
        named = [row for row in results.parity if remark in row.remarks]
        rows = "" if len(named) == len(results.parity) else f"{row_name(named[0])}: "
        lines.append(f"Note: {rows}{remark}.")
    lines += [
        f"{row_name(row)}: {row.allowance}." for row in results.parity if row.allowance is not None
    ]
    for row in results.parity:
        if row.status in ("failed", "undecided"):
            lines += _explained(row)
    return lines


def row_name(row: ParityReport) -> str:
    """Return runtime, precision and file of a row; its format and input if there is no file."""
    kind = kind_of(row.format, uint8=row.embeds_preprocessing)
    return " ".join(filter(None, [row.runtime, row.precision, row.file or kind]))


def _noise(results: Results) -> Iterator[str]:
    judged = next((row for row in results.parity if row.noise_floor is not None), None)
    if judged is None or judged.noise_floor is None or judged.typical_noise_floor is None:
        return
    against = "the checkpoint in float64"
    if judged.reference_precision == "fp32":
        against = "the checkpoint in float32 (its code fixes a dtype, so it cannot run in float64)"
    yield (
        f"Logit differences are measured against {against}. PyTorch's own float32 results "
        "differ from it by the noise floor of an image: typically "
        f"{judged.typical_noise_floor:.1e}, at most {judged.noise_floor:.1e}."
    )
    confidence = judged.gates.confidence
    yield f"The bounds of flips have a confidence of {confidence:.1%}."
    checked = [row for row in results.parity if row.checks]
    if checked:
        names = ", ".join(dict.fromkeys(each.name for row in checked for each in row.checks))
        yield f"Second look at each row: {names}."


def _explained(row: ParityReport) -> list[str]:
    """Return the reason, the possible cause, and where to look."""
    lines = [f"{row_name(row)} {status_text(row.status, row.reason)}."]
    if row.cause is not None:
        lines.append(f"  Cause: {row.cause.text}")
        lines.append(f"  Look at: {row.cause.action}")
    wrong = [check for check in row.checks if check.reason is not None]
    lines += [f"  Second look, {each.name}: {each.reason}." for each in wrong[:_SHOWN_CHECKS]]
    if row.worst and row.status == "failed":
        lines.append("  Worst images: " + "; ".join(_worst(each, row) for each in row.worst) + ".")
    return lines


def _worst(image: WorstImage, row: ParityReport) -> str:
    """Return a text such as `#340 (label 5): checkpoint 5 by 2.1, here 3, logits 0.84 away`."""
    same = image.reference == image.candidate
    here = "same here" if same else f"here {image.candidate}"
    text = f"#{image.index} (label {image.label}): checkpoint {image.reference} by "
    text += f"{image.margin:.2g}, {here}"
    if image.difference is None:
        return f"{text}, logits NaN or infinite"
    text += f", logits {image.difference:.2g} away"
    if image.floors is not None and row.precision in EXACT_PRECISIONS:
        text += f" ({image.floors:,.0f} floors)"
    return text
