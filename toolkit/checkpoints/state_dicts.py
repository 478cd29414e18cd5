"""Find the state_dicts in a saved file: dictionaries of named tensors, at any depth.

In: the content of a file, as `weight_files` reads it. Out: its state_dicts, by their keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from toolkit.checkpoints.weight_files import EXTRA_STATE, State, is_tensor, stands_for
from toolkit.errors import CheckpointError

_DEPTH = 5  # of dictionaries in dictionaries that are searched
_PACKED = "_packed_params"  # of quantised modules


def state_dicts_in(saved: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Return all dictionaries of named tensors, by their keys with dots between them."""
    if not isinstance(saved, Mapping) or depth > _DEPTH:
        return
    state = {name: value for name, value in saved.items() if isinstance(name, str)}
    if any(is_tensor(value) for value in state.values()):
        yield place, {name: value for name, value in state.items() if _belongs(name, value)}
    for name, value in state.items():
        yield from state_dicts_in(value, f"{place}.{name}".lstrip("."), depth + 1)


def _belongs(name: str, value: object) -> bool:
    """Return whether a value may be one of a state_dict."""
    return is_tensor(value) or name.endswith(EXTRA_STATE) or _PACKED in name


def advice_for(saved: object) -> str:
    """Return advice for a value that holds no weights."""
    pickled = [saved, *(saved.values() if isinstance(saved, Mapping) else ())]
    name = next((found for each in pickled if (found := stands_for(each))), None)
    if name is None:
        return ": save with torch.save(model.state_dict(), ...)"
    return (
        f"; a pickled {name} is refused, because loading it can run code: load it where you trust "
        "it, and save its state_dict with torch.save(model.state_dict(), ...)"
    )


def refuse_quantised(groups: Mapping[str, State], path: Path) -> None:
    """Check that no weights are quantised.

    Raises:
        CheckpointError: Some are.
    """
    for state in groups.values():
        for name, value in state.items():
            if _PACKED in name or (is_tensor(value) and value.is_quantized):
                raise CheckpointError(
                    f"{path}: {name} belongs to a quantised model; expected the state_dict of the "
                    "float model: toolkit export --precision int8 quantises it"
                )
