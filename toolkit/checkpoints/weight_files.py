"""Files of weights → names and tensors, in dictionaries as they were saved.

In: a `.safetensors` file, or a file that `torch.save` wrote. Out: its content. Only tensors and
plain values are read: `torch.load(weights_only=True)` builds nothing else, and objects of other
classes become empty stand-ins.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import CheckpointError, headline
from toolkit.files import read_regular

if TYPE_CHECKING:
    import torch

State = dict[str, Any]
"""A state_dict: tensors, and under names that end in `_extra_state`, plain values."""

EXTRA_STATE = "_extra_state"
_EXTRA_KEY = "toolkit.extra_state"  # in the metadata of a safetensors file
_ZIP = b"PK\x03\x04"
_ADVICE = "save with torch.save(model.state_dict(), ...) or safetensors"
_STANDS_FOR = "_stands_for"
_MANY = 64  # classes of stand-ins in one file
# What people give by mistake, by its first bytes.
_KINDS = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself: run git lfs install, then git lfs pull",
    ),
    (b"\x89HDF", "is an HDF5 file (Keras?), expected the state_dict of a PyTorch model"),
    (b"GGUF", "is a GGUF file, expected the state_dict of a PyTorch model"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"\x93NUMPY", "is a NumPy array, expected the state_dict of a PyTorch model"),
)


def read_safetensors(path: Path, *, within: Path | None = None) -> State:
    """Read a `.safetensors` file; see `toolkit.files.open_regular` for `within`.

    Raises:
        CheckpointError: Not readable, not a regular file, or damaged.
    """
    return _parse_safetensors(_read(path, within=within), path)


def _read(path: Path, *, within: Path | None = None) -> bytes:
    try:
        return read_regular(path, within=within)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _parse_safetensors(content: bytes, path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return {**load(content), **_extra_states(content)}
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: incomplete safetensors file ({headline(error)}); copy it again"
        ) from error


def _extra_states(content: bytes) -> State:
    """Return the extra states that `pack_safetensors` put into the metadata of a file."""
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    found = json.loads(metadata.get(_EXTRA_KEY, "{}"))
    if not isinstance(found, dict) or not all(name.endswith(EXTRA_STATE) for name in found):
        raise ValueError(f"{_EXTRA_KEY} is no dictionary of extra states")
    return found


def pack_safetensors(state: State) -> bytes:
    """Return a safetensors file with tensors, and with extra states in its metadata.

    Raises:
        CheckpointError: An extra state that JSON cannot hold.
    """
    import torch
    from safetensors.torch import save

    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    extra = {name: value for name, value in state.items() if name not in tensors}
    if not extra:
        return save(tensors)
    for name, value in extra.items():
        if not _json_keeps(value):
            raise CheckpointError(
                f"{name} is {type(value).__name__}, which a checkpoint cannot hold; expected "
                "tensors, numbers, texts, lists and dictionaries: change get_extra_state"
            )
    return save(tensors, {_EXTRA_KEY: json.dumps(extra, sort_keys=True)})


def _json_keeps(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: an array of tensors
        return False


def read_saved(path: Path) -> Any:
    """Read what `torch.save` or safetensors put into a file: usually a dictionary.

    Raises:
        CheckpointError: Missing, damaged, or another kind of file.
    """
    if not path.exists():
        raise CheckpointError(f"no file {path}; expected a state_dict (.safetensors, .pt, .pth)")
    content = _read(path)
    if content[8:10] == b'{"' or path.suffix == ".safetensors":
        _refuse_other_kinds(content, path)
        return _parse_safetensors(content, path)
    try:
        _refuse_other_kinds(content, path)
        _refuse_archives(content, path)
        with warnings.catch_warnings():
            # About other pickle protocols, which are refused below.
            warnings.simplefilter("ignore", UserWarning)
            return _load_tensors(content)
    except CheckpointError:
        raise
    except Exception as error:  # torch and zipfile raise various exceptions for damaged bytes
        first_sentence = headline(error).split(". ")[0]  # the next one says how to trust the file
        raise CheckpointError(
            f"{path}: refused ({first_sentence}); only tensors are read, because anything else "
            f"in a pickle can run code: {_ADVICE}"
        ) from error


def _refuse_other_kinds(content: bytes, path: Path) -> None:
    start = content[:512].lstrip().lower()
    for sign, what in _KINDS:
        if content.startswith(sign):
            raise CheckpointError(f"{path} {what}")
    if not content:
        raise CheckpointError(f"{path} is empty, expected a state_dict: copy it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not the file itself: download it again")
    if start.startswith(b"{") and b'"weight_map"' in content[: 1 << 20]:
        raise CheckpointError(
            f"{path} is the index of weights in several files; join them into one state_dict, "
            "and save it with safetensors.torch.save_file"
        )


def _refuse_archives(content: bytes, path: Path) -> None:
    """Raise CheckpointError for a zip archive that `torch.save` has not written: a program, or one
    that holds more than its own size. torch.save never compresses, and a small archive could fill
    the memory."""
    if not content.startswith(_ZIP):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    names = {each.filename.partition("/")[2] for each in members}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript archive, which is a program; expected a state_dict: save it "
            f'with torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pt")'
        )
    if "archive_format" in names:
        raise CheckpointError(
            f"{path} is a program of torch.export, expected a state_dict: save the one of the "
            "model that was exported, with torch.save(model.state_dict(), ...)"
        )
    if all(each.filename.endswith(".npy") for each in members):
        raise CheckpointError(
            f"{path} holds NumPy arrays, expected the state_dict of a PyTorch model: {_ADVICE}"
        )
    holds = sum(each.file_size for each in members)
    if holds > len(content):
        raise CheckpointError(
            f"{path}: {len(content):,} bytes that unpack to {holds:,}; expected the file that "
            "torch.save(model.state_dict(), ...) wrote, which is not compressed"
        )


def _load_tensors(content: bytes) -> Any:
    """Load with `weights_only=True`. Objects of classes that it refuses become stand-ins, which
    hold nothing that can run: a training framework saves its settings beside the weights."""
    import torch

    def load() -> Any:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    try:
        return load()
    except Exception:
        if not content.startswith(_ZIP):
            raise
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
        if not unknown or len(unknown) > _MANY:
            raise
    dictionaries: set[str] = set()  # those of these classes that are filled like dictionaries
    while True:
        stand_ins: list[Any] = [(_stand_in(each, each in dictionaries), each) for each in unknown]
        try:
            with torch.serialization.safe_globals(stand_ins):
                return load()
        except Exception as error:
            text = str(error)
            found = {each for each in unknown if "SETITEM" in text and f".{each}'" in text}
            if not found - dictionaries:
                raise
            dictionaries |= found


def _stand_in(name: str, is_dictionary: bool) -> type:
    """Return a class whose objects hold nothing, or are plain dictionaries, to be used in place of
    the class `name` of a pickle. Nothing of that class is imported."""

    def new(cls: type, *_: object) -> object:
        made = OrderedDict[Any, Any]() if is_dictionary else object.__new__(cls)
        made.__dict__[_STANDS_FOR] = name
        return made

    members = {
        "__new__": new,
        "__init__": lambda *_: None,
        "__setstate__": lambda *_: None,
        "__hash__": lambda self: id(self),
    }
    return type(name, (), members)


def stands_for(saved: object) -> str | None:
    """Return the name of the class of a pickle that this object stands for; None for others."""
    name = getattr(saved, _STANDS_FOR, None)
    return name if isinstance(name, str) else None


def describe(saved: object) -> str:
    """Return what a value from a file is, for a message."""
    name = stands_for(saved)
    if name is not None:
        return f"a pickled object of class {name}"
    if isinstance(saved, Mapping):
        shown = ", ".join(repr(each)[:60] for each in list(saved)[:5])
        return f"a dictionary of {shown}{', ...' if len(saved) > 5 else ''}"
    return type(saved).__name__


def is_tensor(value: object) -> bool:
    """Return whether a value from a file is a tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def tensors_in(state: State) -> dict[str, torch.Tensor]:
    """Return the tensors among the values of a state_dict."""
    return {name: value for name, value in state.items() if is_tensor(value)}
