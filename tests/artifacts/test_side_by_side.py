"""Converters run beside each other; the order of rows does not depend on who is first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import CHECKPOINT

from toolkit.artifacts import export as export_module
from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.artifacts.manifest import read_manifest
from toolkit.artifacts.side_by_side import at_a_time
from toolkit.machine.environment import usable_cores
from toolkit.processes.confinement import SWITCH

pytestmark = pytest.mark.usefixtures("no_child_is_left")

CONVERTER = """
import os, time
from toolkit.artifacts.formats import Written

def wait_for(path):
    while not path.exists():
        time.sleep(0.02)

def export(request):
    here = request.path.parents[1]
    {body}
    request.path.write_text("x")
    return Written()
"""
Make = Callable[..., None]


@pytest.fixture
def formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Create formats whose converters follow the given orders; `most` run at a time."""

    def make(most: int, **bodies: str) -> None:
        rows = []
        for name, body in bodies.items():
            (tmp_path / f"{name}_format.py").write_text(CONVERTER.format(body=body))
            rows.append(
                f"table.FORMATS[{name!r}] = replace(table.FORMATS['pt2'], name={name!r}, "
                f"module='{name}_format', usual=False, suffix='.{name}')\n"
            )
            row = replace(
                FORMATS["pt2"],
                name=name,
                module=f"{name}_format",
                usual=False,
                suffix=f".{name}",
            )
            monkeypatch.setitem(FORMATS, name, row)
        (tmp_path / "sitecustomize.py").write_text(
            "import toolkit.artifacts.formats as table\nfrom dataclasses import replace\n"
            + "".join(rows)
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv(SWITCH, "1")  # the converters here wait for each other's files
        monkeypatch.setattr(export_module, "at_a_time", lambda _: most)

    return make


def test_two_converters_run_at_a_time_and_rows_stay_in_order(formats: Make, tmp_path: Path) -> None:
    # Each waits for the other, and the first one ends last: its neighbour must be published.
    formats(
        2,
        slow="(here / 'mark-a').write_text(''); wait_for(here / 'mnist-cnn.quick')",
        quick="wait_for(here / 'mark-a')",
    )
    done = export(CHECKPOINT, out=tmp_path / "out", formats=["slow", "torchscript", "quick"])
    assert done.failures == ()
    assert done.written == tuple(f"mnist-cnn.{each}" for each in ("slow", "torchscript", "quick"))
    assert [each.format for each in read_manifest(tmp_path / "out").artifacts] == [
        *("torchscript", "slow", "quick")
    ]


def test_one_at_a_time_where_memory_is_short(formats: Make, tmp_path: Path) -> None:
    alone = (
        "assert not list(here.glob('busy')); (here / 'busy').write_text(''); time.sleep(0.3); "
        "(here / 'busy').unlink()"
    )
    formats(1, first=alone, second=alone)
    done = export(CHECKPOINT, out=tmp_path / "out", formats=["first", "second", "torchscript"])
    assert done.failures == ()


def test_failures_keep_their_place(formats: Make, tmp_path: Path) -> None:
    formats(2, first="time.sleep(0.5); raise ValueError('late')", second="raise ValueError('soon')")
    done = export(CHECKPOINT, out=tmp_path / "out", formats=["first", "second", "torchscript"])
    assert [each.format for each in done.failures] == ["first", "second"]
    assert done.written == ("mnist-cnn.torchscript",)


def test_an_interruption_ends_all_converters(formats: Make, tmp_path: Path) -> None:
    formats(2, first="time.sleep(3600)", second="time.sleep(3600)", third="pass")

    def stop(label: str, done: int, total: int, note: str = "", /) -> None:
        if note.startswith("torchscript"):
            assert psutil.Process().children()
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        export(CHECKPOINT, out=out, formats=["first", "second", "torchscript"], progress=stop)
    assert sorted(each.name for each in out.iterdir()) == [
        *("manifest.json", "mnist-cnn.torchscript", "mnist-cnn.torchscript.md")
    ]


def test_memory_bounds_the_converters_at_a_time() -> None:
    available = psutil.virtual_memory().available
    assert at_a_time(available) == 1
    assert 1 <= at_a_time(0) <= min(2, usable_cores())
