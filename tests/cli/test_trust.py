"""`toolkit trust`: what a user sees and allows, and what other commands refuse without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from conftest import Cli

from toolkit.files import sha256_of, size_of


@pytest.fixture
def stranger(own_exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export folder that another user has made: nothing in it is in this user's trust store."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return own_exports


def verify(cli: Cli, folder: Path, data: Path, *options: object) -> Result:
    return cli("verify", folder, "--runtime", "torchscript", "--data", data, *options)


def assert_refused(result: Result, *texts: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    for text in (*texts, "toolkit trust"):
        assert text in result.stderr


def test_a_program_is_refused_until_it_is_trusted(
    cli: Cli, stranger: Path, small_data: Path
) -> None:
    assert_refused(verify(cli, stranger, small_data), "mnist-cnn.torchscript (torchscript fp32)")
    made = cli("trust", stranger, "--yes")
    assert made.exit_code == 0
    assert "2 trusted" in made.stdout
    assert verify(cli, stranger, small_data).exit_code == 0
    revoked = cli("trust", "--revoke", stranger / "mnist-cnn.torchscript")
    assert revoked.exit_code == 0
    assert "1 revoked" in revoked.stdout
    assert_refused(verify(cli, stranger, small_data))


@pytest.mark.parametrize("command", ["verify", "bench", "tune", "loadgen"])
def test_every_command_that_opens_artifacts_refuses_untrusted_programs(
    cli: Cli, stranger: Path, small_data: Path, command: str
) -> None:
    more = ["--scenario", "offline"] if command == "loadgen" else []
    assert_refused(cli(command, stranger, "--data", small_data, *more), "more like it")


def test_data_needs_no_trust(cli: Cli, stranger: Path, small_data: Path) -> None:
    path = stranger / "mnist-cnn.onnx"
    result = cli("verify", path, "--runtime", "onnxruntime", "--data", small_data)
    assert result.exit_code == 0, result.output
    assert "only data, no program" in cli("trust", path).stdout


def test_trust_for_one_command_names_the_program_and_is_not_kept(
    cli: Cli, stranger: Path, small_data: Path
) -> None:
    result = verify(cli, stranger, small_data, "--trust")
    assert result.exit_code == 0, result.output
    assert "--trust: running" in result.stderr
    assert "mnist-cnn.torchscript" in result.stderr
    assert_refused(verify(cli, stranger, small_data))


def test_trust_shows_what_would_run_and_needs_an_answer(cli: Cli, stranger: Path) -> None:
    result = cli("trust", stranger)
    assert result.exit_code == 2
    for text in ("torchscript fp32", "pt2 fp32", "native code", "owner ", "add --yes"):
        assert text in result.stderr
    assert "nothing is trusted" in cli("trust", "--list").stdout


def test_export_trusts_what_it_writes_and_writes_again_what_is_not_trusted(
    cli: Cli, stranger: Path, own_checkpoint: Path
) -> None:
    own_checkpoint = own_checkpoint.rename(own_checkpoint.parent / "mnist-cnn")
    one = ("export", own_checkpoint, "--format", "pt2", "--out", stranger, "--json")
    assert json.loads(cli(*one).stdout)["written"] == ["mnist-cnn.pt2"]
    assert json.loads(cli(*one).stdout)["written"] == []
    listed = json.loads(cli("trust", "--list", "--json").stdout)["programs"]
    assert [(each["name"], each["command"]) for each in listed] == [("pt2 fp32", "export")]
    assert Path(listed[0]["path"]) == (stranger / "mnist-cnn.pt2").resolve()


def test_changed_bytes_are_no_longer_trusted(cli: Cli, stranger: Path, small_data: Path) -> None:
    assert cli("trust", stranger, "--yes").exit_code == 0
    path = stranger / "mnist-cnn.torchscript"
    path.write_bytes(path.read_bytes() + b"\0")
    reseal(path)
    assert_refused(verify(cli, stranger, small_data), "it has changed since you did")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "but only one of them"),
        (("--list", "--revoke", "abcdef"), "but only one of them"),
        (("--revoke", "abcdef"), "nothing that is trusted matches"),
        (("nowhere",), "no nowhere"),
    ],
)
@pytest.mark.usefixtures("stranger")
def test_bad_usage_is_one_line(cli: Cli, arguments: tuple[str, ...], text: str) -> None:
    result = cli("trust", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert text in result.stderr


def reseal(path: Path) -> None:
    """Record the size and the checksum of changed bytes in the manifest, as an attacker does."""
    manifest = path.parent / "manifest.json"
    record = json.loads(manifest.read_text())
    for each in record["artifacts"]:
        if each["path"] == path.name:
            each |= {"sha256": sha256_of(path), "size_bytes": size_of(path)}
    manifest.write_text(json.dumps(record))


def test_what_is_shown_cannot_steer_the_terminal(cli: Cli, stranger: Path) -> None:
    sent = stranger.rename(stranger.parent / "sent\x1b[2J\nnothing to trust")
    result = cli("trust", sent)
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 5  # heading, line, two programs, error
    assert "\\x1b[2J\\nnothing to trust" in result.stderr
