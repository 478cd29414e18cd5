"""The trust store: exactly the bytes and arguments that were trusted, in a folder of this user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import NotTrustedError, ToolkitWarning
from toolkit.schema import Program
from toolkit.trust_store.store import TrustStore, require_trust, trust_store

ARTIFACT = Program(
    kind="artifact", name="pt2 fp32", path="/a/m.pt2", sha256="a" * 64, runs="its code"
)
FACTORY = Program(
    kind="factory",
    name="net:build",
    path="/a/net.py",
    sha256="b" * 64,
    runs="all code of this file",
    arguments={"width": 2},
    root="/a",
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrustStore:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return trust_store()


def test_a_program_is_trusted_once_it_is_added(store: TrustStore) -> None:
    assert not store.holds(ARTIFACT)
    store.add([ARTIFACT, FACTORY], command="trust")
    assert store.holds(ARTIFACT)
    assert store.holds(FACTORY)
    assert [each.command for each in store.programs()] == ["trust", "trust"]
    assert store.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "other",
    [
        replace(ARTIFACT, sha256="c" * 64),
        replace(FACTORY, sha256="c" * 64),
        replace(FACTORY, name="net:other"),
        replace(FACTORY, arguments={"width": 3}),
        replace(FACTORY, arguments={}),
    ],
)
def test_other_bytes_or_arguments_are_not_trusted(store: TrustStore, other: Program) -> None:
    store.add([ARTIFACT, FACTORY], command="trust")
    assert not store.holds(other)


def test_an_artifact_is_trusted_wherever_it_lies(store: TrustStore) -> None:
    store.add([ARTIFACT], command="export")
    assert store.holds(replace(ARTIFACT, path="/elsewhere/m.pt2"))


def test_a_removed_program_is_no_longer_trusted(store: TrustStore) -> None:
    store.add([ARTIFACT, FACTORY], command="trust")
    store.remove([FACTORY.key, "0" * 64])
    assert not store.holds(FACTORY)
    assert store.holds(ARTIFACT)


def test_files_that_are_not_records_are_skipped(store: TrustStore) -> None:
    store.add([ARTIFACT], command="trust")
    (store.folder / "broken.json").write_text("{")
    (store.folder / "deep.json").write_text("[" * 100_000)
    record = (store.folder / f"{ARTIFACT.key}.json").read_text()
    (store.folder / f"{'d' * 64}.json").write_text(record)  # under the name of other bytes
    assert [each.key for each in store.programs()] == [ARTIFACT.key]


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_store_that_others_can_write_to_is_refused(store: TrustStore, mode: int) -> None:
    store.add([ARTIFACT], command="trust")
    store.folder.chmod(mode)
    with pytest.raises(NotTrustedError, match=r"other users can write to .*chmod 700"):
        store.holds(ARTIFACT)


def test_a_store_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.warns(ToolkitWarning, match=r"cannot record in .* later commands will ask"):
        trust_store().remember([ARTIFACT], command="export")
    assert not trust_store().holds(ARTIFACT)
    assert trust_store().programs() == []


@pytest.mark.usefixtures("store")
def test_refusal_says_what_runs_and_how_to_trust_it() -> None:
    with pytest.raises(NotTrustedError) as caught:
        require_trust([ARTIFACT, FACTORY], given=False, what=["/a"])
    text = str(caught.value)
    assert "/a/m.pt2 (pt2 fp32)" in text
    assert "its code; 1 more like it" in text
    assert "toolkit trust /a;" in text
    assert "--trust" in text
    assert "\n" not in text


def test_refusal_says_that_a_file_has_changed(store: TrustStore) -> None:
    store.add([FACTORY], command="import")
    with pytest.raises(NotTrustedError, match="it has changed since you did"):
        require_trust([replace(FACTORY, sha256="c" * 64)], given=False, what=["/a"])
    with pytest.raises(NotTrustedError, match=r"net:build\(width=9\).*has changed"):
        require_trust([replace(FACTORY, arguments={"width": 9})], given=False, what=["/a"])


@pytest.mark.usefixtures("store")
def test_trust_for_one_command_shows_each_program_and_records_nothing() -> None:
    with pytest.warns(ToolkitWarning, match=r"running net:build\(width=2\) in /a/net.py"):
        require_trust([FACTORY], given=True, what=["/a"])
    assert not trust_store().holds(FACTORY)


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.booleans() | st.text(max_size=5)),
    st.dictionaries(st.text(max_size=5), st.integers() | st.booleans() | st.text(max_size=5)),
)
def test_keys_differ_exactly_where_arguments_do(
    one: dict[str, int | float | str | bool], other: dict[str, int | float | str | bool]
) -> None:
    same = {**one} == {**other} and {k: type(v) for k, v in one.items()} == {
        k: type(v) for k, v in other.items()
    }
    keys = replace(FACTORY, arguments=one).key, replace(FACTORY, arguments=other).key
    assert (keys[0] == keys[1]) == same
