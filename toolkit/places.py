"""Places of this machine: the names of its folders, user and host in texts → placeholders.

In: a text or the bytes of a file. Out: the same without these names, so that it can be given away.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

# Folders that every machine has; they say nothing about this one.
_COMMON = frozenset({"/", "/usr", "/usr/local", "/opt", "/tmp", "/var/tmp"})

# A folder's name starts after a character that no path contains, or after a compiler's flag.
_BEFORE, _AFTER = r"(?:(?<![\w.~-])|(?<=-[IL]))", r"(?![\w-])"


def without_places(text: str) -> str:
    """Replace the folders of this machine by placeholders (`~`, `<python>`, `<toolkit>`, `<tmp>`,
    `<path>`, and `.` for the current folder), and the names of the user and of the host."""
    known = _known_folders()
    if known:
        text = re.sub(
            f"{_BEFORE}({'|'.join(map(re.escape, known))}){_AFTER}",
            lambda found: known[found[1]],
            text,
        )
    user, host = re.escape(_user() or ""), re.escape(platform.node())
    if user:  # in a path or an address; elsewhere it may be any word
        text = re.sub(rf"(?<=/){user}(?![\w.-])|(?<![\w.-]){user}(?=@)", "<user>", text)
    if host and host != "localhost":
        text = re.sub(rf"(?<![\w.-]){host}(?![\w-])", "<host>", text)
    return text


def blank_places(content: bytes, *, also: Iterable[Path] = ()) -> bytes:
    """Replace the folders of this machine by as many bytes, `.///`, which is still a path.

    Offsets in the file stay valid. `also` are more folders.
    """
    folders = {each for each in _known_folders() if each not in _COMMON}
    folders |= {form for each in also for form in _forms(each)}
    if not folders:
        return content
    longest_first = sorted(folders, key=len, reverse=True)
    names = b"|".join(re.escape(os.fsencode(each)) for each in longest_first)
    return re.sub(
        b"(?:" + names + rb")(?![\w-])",
        lambda found: b"." + b"/" * (len(found[0]) - 1),
        content,
    )


def _known_folders() -> dict[str, str]:
    """Return the folders of this machine with their placeholders, the longest first: a folder in
    another one is replaced by its own."""
    known: dict[str, str] = {}
    for place, placeholder in _places():
        for form in _forms(place):
            known.setdefault(form, placeholder)
    for temporary in ("/tmp", "/var/tmp"):  # of parents and of other programs
        known.setdefault(temporary, "<tmp>")
    return {each: known[each] for each in sorted(known, key=len, reverse=True)}


def _places() -> Iterator[tuple[str | Path, str]]:
    yield Path(__file__).parent, "<toolkit>"
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix):
        yield prefix, "<python>"
    with contextlib.suppress(OSError):  # it was deleted
        yield Path.cwd(), "."
    with contextlib.suppress(OSError):  # there is no writable one
        yield tempfile.gettempdir(), "<tmp>"
    for name in ("~", f"~{_user()}"):  # HOME may name another folder, as in a converter's process
        with contextlib.suppress(RuntimeError):
            yield Path(name).expanduser(), "~"
    for entry in sys.path:
        if Path(entry).is_absolute() and not _is_inside(entry, (sys.prefix, sys.base_prefix)):
            yield entry, "<path>"


def _forms(place: str | Path) -> set[str]:
    """Return a folder as it is named, and with its links resolved; none if every machine has it."""
    forms = {os.path.abspath(place), os.path.realpath(place)}  # noqa: PTH100 - it may be anything
    return {each for each in forms if each not in _COMMON}


def _is_inside(entry: str, folders: Iterable[str]) -> bool:
    return any(Path(entry).is_relative_to(each) for each in folders)


def _user() -> str | None:
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        return getpass.getuser()
    return None
