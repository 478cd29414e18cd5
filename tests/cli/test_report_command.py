"""`toolkit report`, and the pages that other commands write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Cli
from samples import ALL, results_of

from toolkit.results import write_results
from toolkit.schema import Interval, Results

pytestmark = pytest.mark.usefixtures("no_child_is_left")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_results(tmp_path / "results.json", ALL)
    return tmp_path


def test_report_is_written_beside_the_results(cli: Cli, folder: Path) -> None:
    for given in (folder, folder / "results.json"):
        done = cli("report", given)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.strip() == str(folder / "report.html")
        assert "1 of 2 rows agrees with your model" in (folder / "report.html").read_text()


def test_report_names_its_page_for_scripts(cli: Cli, folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = cli("report", folder, "--html", page, "--json")
    assert json.loads(done.stdout) == {"html": str(page), "exit_code": 0}
    assert page.exists()


def faster(results: Results, factor: float) -> Results:
    rows = []
    for row in results.measurements:
        speed = row.images_per_s
        if speed is not None:
            speed = Interval(
                value=speed.value * factor,
                low=speed.low * factor,
                high=speed.high * factor,
                passes=speed.passes,
            )
        rows.append(replace(row, images_per_s=speed))
    return replace(results, measurements=tuple(rows))


def test_report_of_two_runs_shows_what_changed(cli: Cli, tmp_path: Path) -> None:
    for name, results in (("old", ALL), ("new", faster(ALL, 1.5))):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", results)
    done = cli("report", tmp_path / "old", tmp_path / "new")
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "new" / "report.html").read_text()
    assert "Compared with the older run" in page
    assert "new/old [95 %]" in page


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "not a results file"),
        ('{"schema_version": 999}', "not a results file"),
        ('{"trials": []}', "not a results file"),
    ],
)
def test_report_says_what_it_cannot_read(
    cli: Cli, tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    done = cli("report", path)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_page_that_cannot_be_written_is_one_line(cli: Cli, folder: Path) -> None:
    done = cli("report", folder, "--html", folder / "missing.txt" / "results.json" / "x.html")
    assert done.exit_code in (0, 2)
    (folder / "file").write_text("")
    done = cli("report", folder, "--html", folder / "file" / "x.html")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_more_than_two_runs_are_refused(cli: Cli, folder: Path) -> None:
    done = cli("report", folder, folder, folder)
    assert done.exit_code == 2
    assert "an old and a new one" in done.stderr


def test_runs_without_speeds_cannot_be_compared(cli: Cli, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", results_of(*ALL.parity))
    done = cli("report", tmp_path / "old", tmp_path / "new")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_verify_writes_a_page_beside_its_results(
    cli: Cli, exports: Path, small_data: Path, tmp_path: Path
) -> None:
    done = cli(
        *("verify", exports, "--runtime", "onnxruntime", "--data", small_data),
        *("--out", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.stderr
    page = tmp_path / "out" / "report.html"
    assert done.stdout.rstrip().endswith(f"Report: {page}")
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["pictures"]
    assert f"data:image/png;base64,{record['pictures'][0]['png']}" in page.read_text()


def test_table_is_printed_although_the_page_cannot_be_written(
    cli: Cli, exports: Path, small_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    done = cli(
        *("verify", exports, "--runtime", "onnxruntime", "--data", small_data),
        *("--out", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.stderr
    assert "1 of 1 row agrees with your model" in done.stdout
    assert "No report: " in done.stdout
