"""Records as the text that the command line prints."""

from __future__ import annotations

from toolkit.errors import printable
from toolkit.report.comparison import render_comparison
from toolkit.report.gate import render_gate
from toolkit.report.machine import render_diagnosis
from toolkit.report.table import render_table
from toolkit.report.tuning import render_tuning
from toolkit.schema import Comparison, Diagnosis, Gate, Results, Shown, Tuning


def text_of(record: Shown) -> str:
    """Return a record as text for a terminal of any width. It may come from a stranger's file, so
    it cannot steer the terminal."""
    return printable(_rendered(record))


def _rendered(record: Shown) -> str:
    match record:
        case Results():
            return render_table(record)
        case Tuning():
            return render_tuning(record)
        case Comparison():
            return render_comparison(record)
        case Gate():
            return render_gate(record)
        case Diagnosis():
            return render_diagnosis(record)
    return repr(record)
