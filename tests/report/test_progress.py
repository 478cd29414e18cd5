"""Progress: bars in a terminal, and otherwise a line for each finished step."""

from __future__ import annotations

import io

import pytest

from toolkit.report.progress import bars, tell_finished


class Stream(io.StringIO):
    """A stream that may be a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    stream = Stream(terminal=terminal)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", "200")
    with bars() as progress:
        progress("export", 0, 2, "onnx fp32")
        tell_finished(progress, "onnx fp32", "written", 12.34)
        progress("export", 1, 2, "[litert] fp32")
        tell_finished(progress, "[litert] fp32", "crashed: a reason", 3.0)
        progress("export", 2, 2)
    return stream.getvalue()


def test_without_a_terminal_each_finished_step_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False).splitlines() == [
        "onnx fp32: written (12.3 s)",
        "[litert] fp32: crashed: a reason (3.0 s)",
        "export: 2/2",
    ]


def test_in_a_terminal_finished_steps_stay_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, terminal=True)
    assert "onnx fp32: written (12.3 s)" in text
    assert "[litert] fp32: crashed: a reason (3.0 s)" in text
    assert "2/2" in text
