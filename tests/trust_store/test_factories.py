"""Model factories: found without an import, and called only if they are trusted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from toolkit.errors import CheckpointError, NotTrustedError
from toolkit.processes.import_path import FOLDERS_VARIABLE, factory_folders
from toolkit.schema import ModelSpec
from toolkit.trust_store.factories import REFERENCE_FACTORY, factory_program, trusted_factory
from toolkit.trust_store.store import trust_store

TOUCH = "from pathlib import Path\nPath({marker!r}).touch()\ndef build(**options): ...\n"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a module in the current folder and a package create when they are imported."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv(FOLDERS_VARIABLE, "[]")
    folder = tmp_path / "work"
    (folder / "stranger").mkdir(parents=True)
    found = tmp_path / "ran"
    (folder / "stranger_net.py").write_text(TOUCH.format(marker=str(found)))
    (folder / "stranger" / "__init__.py").write_text(TOUCH.format(marker=str(found)))
    (folder / "stranger" / "net.py").write_text(TOUCH.format(marker=str(found)))
    monkeypatch.chdir(folder)
    return found


@pytest.mark.parametrize("name", ["stranger_net:build", "stranger.net:build", "stranger:build"])
def test_a_factory_is_found_without_running_its_code(marker: Path, name: str) -> None:
    program = factory_program(ModelSpec(factory=name))
    assert Path(program.path).is_relative_to(Path.cwd())
    assert program.root == str(Path.cwd())
    assert not marker.exists()
    assert not {"stranger", "stranger_net", "stranger.net"} & set(sys.modules)


def test_a_module_of_the_import_path_comes_before_one_in_the_current_folder(marker: Path) -> None:
    Path("json.py").write_text("")
    program = factory_program(ModelSpec(factory="json:loads"))
    assert not Path(program.path).is_relative_to(Path.cwd())
    assert program.root == ""


@pytest.mark.parametrize("name", ["nowhere:build", "builtins:exec", "stranger.other:build", ":x"])
@pytest.mark.usefixtures("marker")
def test_a_factory_without_a_source_file_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no file in the import path .*run the command in"):
        factory_program(ModelSpec(factory=name))


def test_the_reference_needs_no_trust(marker: Path) -> None:
    spec = ModelSpec(factory=REFERENCE_FACTORY)
    assert trusted_factory(spec, model=None, trust=False, what="models/x") is None


def test_a_factory_that_is_not_trusted_is_refused(marker: Path) -> None:
    spec = ModelSpec(factory="stranger_net:build", arguments={"path": "/etc"})
    with pytest.raises(NotTrustedError, match=r"stranger_net:build\(path='/etc'\).*trust models/x"):
        trusted_factory(spec, model=None, trust=False, what="models/x")
    assert not marker.exists()


def test_a_forgotten_option_is_named(marker: Path) -> None:
    """`--model` allows the factory alone, so it is of no use with arguments of a checkpoint."""
    spec = ModelSpec(factory="stranger_net:build")
    with pytest.raises(NotTrustedError, match=r"with --trust, or --model stranger_net:build$"):
        trusted_factory(spec, model=None, trust=False, what="models/x")
    spec = ModelSpec(factory="stranger_net:build", arguments={"path": "/etc"})
    with pytest.raises(NotTrustedError, match=r"only with --trust$"):
        trusted_factory(spec, model=None, trust=False, what="models/x")


def test_a_named_factory_is_trusted_but_not_the_arguments_of_a_checkpoint(marker: Path) -> None:
    name = "stranger_net:build"
    assert trusted_factory(ModelSpec(factory=name), model=name, trust=False, what="x") == name
    with pytest.raises(NotTrustedError, match=r"stranger_net:build\(depth=2\)"):
        trusted_factory(
            ModelSpec(factory=name, arguments={"depth": 2}), model=name, trust=False, what="x"
        )
    with pytest.raises(CheckpointError, match="--model names 'other:build'"):
        trusted_factory(ModelSpec(factory=name), model="other:build", trust=False, what="x")


def test_a_trusted_factory_is_found_from_any_folder_until_it_changes(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(factory="stranger_net:build")
    program = factory_program(spec)
    trust_store().add([program], command="import")
    home = Path.cwd()
    monkeypatch.chdir(tmp_path)
    assert trusted_factory(spec, model=None, trust=False, what="x") == spec.factory
    assert factory_folders() == [str(home)]
    (home / "stranger_net.py").write_text("import os\n")
    with pytest.raises(NotTrustedError, match="has changed"):
        trusted_factory(spec, model=None, trust=False, what="x")


def test_a_copy_of_a_trusted_factory_in_another_folder_is_not_trusted(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file, but what it imports is somebody else's: `stranger/__init__.py`."""
    spec = ModelSpec(factory="stranger.net:build")
    trust_store().add([factory_program(spec)], command="import")
    shutil.copytree(Path.cwd(), tmp_path / "sent")
    monkeypatch.chdir(tmp_path / "sent")
    with pytest.raises(NotTrustedError, match=r"sent/stranger/net\.py"):
        trusted_factory(spec, model=None, trust=False, what="x")
    assert not marker.exists()
