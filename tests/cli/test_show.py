"""`toolkit show` prints an old file again, as the command that wrote it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli

pytestmark = pytest.mark.usefixtures("no_child_is_left")


def test_show_prints_what_verify_printed(
    cli: Cli, exports: Path, small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    verified = cli(
        "verify", exports, "--runtime", "onnxruntime", "--data", small_data, "--out", out
    )
    assert verified.exit_code == 0, verified.stderr
    for path in (out, out / "results.json"):
        shown = cli("show", path)
        assert shown.exit_code == 0, shown.stderr
        assert shown.stdout.strip()
        assert shown.stdout.strip() in verified.stdout
    record = json.loads(cli("show", out, "--json").stdout)
    assert record["parity"] == json.loads((out / "results.json").read_text())["parity"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "not a results file"),
        ("[1]", "not a results file"),
        ('{"schema_version": 999}', "not a results file"),
        ('{"trials": []}', "not a tuning file"),
    ],
)
def test_show_says_what_it_cannot_read(
    cli: Cli, tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    shown = cli("show", path)
    assert shown.exit_code == 2
    assert words in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
