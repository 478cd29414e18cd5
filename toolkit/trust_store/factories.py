"""Model factories: where the code of `package.module:function` is, without importing it."""

from __future__ import annotations

from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from toolkit.errors import CheckpointError
from toolkit.files import sha256_of
from toolkit.processes.import_path import add_factory_folder
from toolkit.schema import ModelSpec, Program
from toolkit.trust_store.store import require_trust, trust_store

REFERENCE_FACTORY = "toolkit.model:ReferenceCNN"
"""The name of the reference CNN in records, wherever its code is located."""
_RUNS = "all code of this file, and of the modules that it imports"


def trusted_factory(spec: ModelSpec, *, model: str | None, trust: bool, what: str) -> str | None:
    """Return the name of the factory that may be called, or None for the reference CNN.

    A factory may be called if the trust store holds it with these arguments, if the user trusts
    everything in this command, or if the user names it and the checkpoint passes no arguments.

    Args:
        spec: The factory and its arguments, as the checkpoint names them.
        model: The factory that the user names (`--model`).
        trust: Whether the user trusts everything in this command (`--trust`).
        what: The checkpoint or export folder, for messages.

    Raises:
        NotTrustedError: The factory is not trusted.
        CheckpointError: Its code cannot be found, or another factory is named.
    """
    if spec.factory == REFERENCE_FACTORY:
        return None
    if model is not None and model != spec.factory:
        raise CheckpointError(
            f"--model names {model!r}, but the checkpoint names the model factory "
            f"{spec.factory!r}; use --model {spec.factory} if you trust that code"
        )
    program = factory_program(spec)
    if model is None or spec.arguments:
        require_trust([program], given=trust, what=[what])
    make_importable(program)
    return spec.factory


def make_importable(program: Program) -> None:
    """Allow the import of a factory from its folder; that comes last, so that nothing in it
    replaces another module."""
    if program.root:
        add_factory_folder(program.root)


def factory_program(spec: ModelSpec) -> Program:
    """Return the program behind a factory. Its module is searched in the import path, then in the
    current folder, then where it was when it was trusted. Nothing is imported.

    Raises:
        CheckpointError: It is not a module with a source file.
    """
    module = spec.factory.partition(":")[0]
    known = [each.root for each in trust_store().programs() if each.name == spec.factory]
    for root in (None, str(Path.cwd()), *known):
        file = _find_module(module, root)
        if file is not None:
            return Program(
                kind="factory",
                name=spec.factory,
                path=str(file),
                sha256=sha256_of(file),
                runs=_RUNS,
                arguments=spec.arguments,
                root=root or "",
            )
    raise CheckpointError(
        f"the checkpoint names the model factory {spec.factory!r}, but module {module!r} is no "
        "file in the import path or the current folder; run the command in the folder that "
        "contains it, or install its package"
    )


def _find_module(name: str, root: str | None) -> Path | None:
    """Return the source file of a module that is imported from the folder `root`, or from the
    import path."""
    top, *others = name.split(".")
    spec = _find_top(top) if root is None else PathFinder.find_spec(top, [root])
    for depth in range(1, len(others) + 1):
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or ())
        spec = PathFinder.find_spec(".".join([top, *others[:depth]]), folders)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin).resolve()


def _find_top(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ValueError, ImportError):  # a running script, or a broken finder
        return None
