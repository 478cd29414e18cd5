"""The docs match the code: commands, files, links, the installation commands."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from conftest import REPOSITORY

from toolkit.artifacts.formats import FORMATS
from toolkit.results import SCHEMA
from toolkit.sessions.runtimes import RUNTIMES

README = (REPOSITORY / "README.md").read_text()
STRUCTURE = (REPOSITORY / "docs" / "structure.md").read_text()
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(REPOSITORY / "docs").glob("**/*.md"),
    *(REPOSITORY / "models").glob("*/*.md"),
    *(REPOSITORY / "benchmarks").glob("**/*.md"),
]


def test_generated_pages_are_up_to_date() -> None:
    loader = SourceFileLoader("make_docs", str(REPOSITORY / "scripts" / "make-docs"))
    spec = spec_from_loader("make_docs", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    assert (REPOSITORY / "docs" / "commands.md").read_text() == module.page()
    assert (REPOSITORY / "docs" / "structure.md").read_text() == module.structure()
    assert SCHEMA.read_text() == module.schema()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_structure_page_lists_every_file_once() -> None:
    files = {
        path.relative_to(REPOSITORY / "toolkit").as_posix()
        for path in (REPOSITORY / "toolkit").rglob("*.py")
    }
    listed = re.findall(r"^\| `([^`]+\.py)` \|", STRUCTURE, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) <= files
    assert {name for name in files - set(listed) if not name.endswith("__.py")} == set()


def test_readme_names_every_runtime_and_format() -> None:
    assert all(f"`{name}`" in README for name in {*RUNTIMES, *FORMATS})


def test_installation_is_two_one_line_commands_and_ci_runs_the_second() -> None:
    assert re.search(r"^pip install .* && toolkit run$", README, re.MULTILINE)
    tests = "pip install .* && pytest -n 2 --dist loadfile$"
    assert len(re.findall(f"^{tests}", README, re.MULTILINE)) == 1
    assert tests in (REPOSITORY / ".ci" / "run").read_text()


def test_names_in_the_readme_python_example_exist() -> None:
    """Every `toolkit.<name>` in the README exists."""
    names = set(re.findall(r"toolkit\.(\w+)\(", README))
    assert names
    code = "import toolkit\n" + "\n".join(f"toolkit.{name}" for name in names)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_published_reading_is_larger_than_100_kilobytes() -> None:
    for path in (REPOSITORY / "benchmarks" / "results").iterdir():
        assert path.stat().st_size <= 100_000, f"{path.name}: compress it with xz, or leave it out"


def test_no_address_in_requirement_files() -> None:
    for name in ("constraints.txt", "pyproject.toml"):
        assert "://" not in (REPOSITORY / name).read_text()
