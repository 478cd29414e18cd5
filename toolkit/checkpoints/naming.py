"""Names of weights in a file → the names that a model has for them.

In: what was saved, and a model. Out: the one state_dict in it that fits, with the names of the
model, and what was done to get it. People save weights under a key, beside an optimiser, with the
prefixes of DataParallel, torch.compile and Lightning, or averaged. If more than one state_dict or
prefix fits, the user must choose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.checkpoints.state_dicts import advice_for, refuse_quantised, state_dicts_in
from toolkit.checkpoints.weight_files import EXTRA_STATE, State, describe, is_tensor, tensors_in
from toolkit.checkpoints.weights import refuse_unusual
from toolkit.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 5
_COUNTER = "num_batches_tracked"  # of BatchNorm; PyTorch before 0.4.1 had none, and eval needs none
# Counts that tools leave in a state_dict: thop's, and that of torch's AveragedModel.
_COUNTS = ("total_ops", "total_params", "n_averaged")
# Parts of names that wrappers of modules add.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of a model's weights, and which of them are one and the same tensor.

    `own` is the model's state_dict. `mates` maps each name to all names of its tensor.
    """

    own: State
    mates: dict[str, frozenset[str]]

    def may_lack(self, name: str, found: Iterable[str]) -> bool:
        """Return whether a file with the names `found` may lack this one."""
        if name.endswith((_COUNTER, EXTRA_STATE)):
            return True
        return not self.mates.get(name, frozenset()).isdisjoint(found)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One way to read the weights of a model from a file.

    Attributes:
        key: Where the state_dict is; empty if the file holds nothing else.
        prefix: The start of the names that belong to the model.
        state: Values by the names of the model.
        complete: Whether everything that the model needs is there.
        left_out: Names in the file that are not used.
        unwrapped: Whether parts of names that wrappers add were removed.
    """

    key: str
    prefix: str
    state: State
    complete: bool
    left_out: tuple[str, ...] = ()
    unwrapped: bool = False


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Weights by the names of the model, and what was done to get them, in words."""

    state: State
    complete: bool
    notes: tuple[str, ...]


def names_of(model: nn.Module) -> Names:
    """Return the names of a model's weights."""
    import torch

    own = model.state_dict()
    places: dict[object, list[str]] = {}
    for name, value in own.items():
        if is_tensor(value) and value.layout is torch.strided and value.numel():
            place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape)
            places.setdefault((*place, value.stride()), []).append(name)
    tied = [frozenset(each) for each in places.values() if len(each) > 1]
    return Names(own=own, mates={name: each for each in tied for name in each})


def choose_weights(
    saved: object,
    names: Names,
    *,
    path: Path,
    key: str | None = None,
    strip_prefix: str | None = None,
) -> Chosen:
    """Return the weights of a model from what was saved in `path`.

    Args:
        saved: The content of the file.
        names: The names of the model.
        path: For messages.
        key: Where in it the state_dict is, such as `state_dict`; None searches.
        strip_prefix: The start of the names that belong to the model; None searches.

    Returns:
        The weights. If they are not complete, they are those that fit best, and loading them
        strictly says what is wrong.

    Raises:
        CheckpointError: It holds no weights, several that fit, or no such key or prefix.
    """
    groups = dict(state_dicts_in(saved))
    if not groups:
        raise CheckpointError(
            f"{path}: holds {describe(saved)}, expected a state_dict of names and tensors"
            f"{advice_for(saved)}"
        )
    if key is not None:
        if key not in groups:
            keys = _either([each for each in groups if each], "--key")
            raise CheckpointError(
                f"{path}: --key {key!r}: expected {keys or 'no key, because it is a state_dict'}"
            )
        groups = {key: groups[key]}
    fits = [fit for place in groups.items() for fit in _fits(place, names, strip_prefix)]
    if not fits and strip_prefix is not None:
        known = _prefixes(name for state in groups.values() for name in state)
        raise CheckpointError(
            f"{path}: --strip-prefix {strip_prefix!r}: no name starts with it; expected "
            f"{_either(known, '--strip-prefix') if known else 'no prefix'}"
        )
    if not any(each.complete for each in fits):
        refuse_quantised(groups, path)
    fit = _the_one(fits, names, path, chosen=strip_prefix is not None)
    refuse_unusual(tensors_in(fit.state), where=str(path))
    filled, notes = _filled(fit.state, names, path)
    return Chosen(state=filled, complete=fit.complete, notes=(*_done(fit, strip_prefix), *notes))


def _fits(place: tuple[str, State], names: Names, strip_prefix: str | None) -> Iterator[Fit]:
    """Return the ways to read the model's weights from one state_dict: those that are complete,
    else the best."""
    key, state = place
    if strip_prefix is not None:
        if any(name.startswith(strip_prefix) for name in state):
            yield _fit(key, state, names, strip_prefix, unwrapped=False)
        return
    partial = []
    for unwrapped in (False, True):
        named = _without_wrappers(state) if unwrapped else state
        votes = _votes(named, names)
        fits = [_fit(key, named, names, each, unwrapped=unwrapped) for each in votes]
        complete = [each for each in fits if each.complete]
        if complete:
            yield from complete
            return
        partial += fits[:1]
    yield partial[0] if partial else _fit(key, state, names, "", unwrapped=False)


def _votes(state: State, names: Names) -> list[str]:
    """Return the prefixes after which names of the model follow, the most frequent first."""
    votes: Counter[str] = Counter()
    for name in state:
        start = 0
        while start >= 0:
            if name[start:] in names.own:
                votes[name[:start]] += 1
            dot = name.find(".", start)
            start = dot + 1 if dot >= 0 else -1
    return [prefix for prefix, _ in votes.most_common()]


def _fit(key: str, state: State, names: Names, prefix: str, *, unwrapped: bool) -> Fit:
    used = {name: name[len(prefix) :] for name in state if name.startswith(prefix)}
    counts = {name for name in state if name.endswith(_COUNTS) and used.get(name) not in names.own}
    found = {new: state[old] for old, new in used.items() if old not in counts}
    missing = [name for name in names.own if name not in found]
    return Fit(
        key=key,
        prefix=prefix,
        state=found,
        complete=all(names.may_lack(name, found) for name in missing)
        and not found.keys().isdisjoint(names.own),
        left_out=tuple(name for name in state if name not in used or name in counts),
        unwrapped=unwrapped,
    )


def _without_wrappers(state: State) -> State:
    """Return the state_dict with names as they are without wrappers of modules."""
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in state.items()
    }


def _the_one(fits: list[Fit], names: Names, path: Path, *, chosen: bool) -> Fit:
    """Return the fit to use; `chosen` says that the user has named its prefix.

    Raises:
        CheckpointError: There are several, or one that leaves weights out.
    """
    complete = [each for each in fits if each.complete]
    if not complete:
        return max(fits, key=lambda each: len(each.state.keys() & names.own.keys()))
    exact = [each for each in complete if not _lost(each, names)]
    good = exact or complete
    if len(good) > 1:
        good = [each for each in good if _shapes_fit(each, names)] or good
    if len(good) > 1:
        keys = list(dict.fromkeys(each.key for each in good))
        option = "--key" if len(keys) > 1 else "--strip-prefix"
        choices = keys if len(keys) > 1 else [each.prefix for each in good]
        raise CheckpointError(
            f"{path}: holds {len(choices)} sets of weights that fit the model; choose one with "
            f"{_either(choices, option)}"
        )
    (fit,) = good
    if not chosen and fit.prefix and _lost(fit, names):
        lost = [each for each in fit.left_out if not each.endswith(_COUNTS)]
        raise CheckpointError(
            f"{path}: the names after the prefix {fit.prefix!r} are those of the model, but there "
            f"are others, such as {', '.join(lost[:_SHOWN])}; to leave them out, add "
            f"--strip-prefix {fit.prefix}"
        )
    return fit


def _lost(fit: Fit, names: Names) -> bool:
    """Return whether names in the file, other than counts, are not those of the model."""
    unused = [each for each in fit.left_out if not each.endswith(_COUNTS)]
    return bool(unused) or not fit.state.keys() <= names.own.keys()


def _shapes_fit(fit: Fit, names: Names) -> bool:
    return all(
        value.shape == names.own[name].shape
        for name, value in fit.state.items()
        if is_tensor(value) and is_tensor(names.own.get(name))
    )


def _filled(state: State, names: Names, path: Path) -> tuple[State, list[str]]:
    """Add what a file may lack, and return what was added, in words.

    Raises:
        CheckpointError: Names of one tensor have different values.
    """
    _refuse_untied(state, names, path)
    filled, notes, tied = dict(state), [], []
    absent = [name for name in names.own if name not in state]
    for name in absent:
        mate = next((each for each in names.mates.get(name, ()) if each in state), None)
        if mate is not None:
            filled[name] = state[mate]
            tied.append(f"{name} is the same tensor as {mate}")
        elif name.endswith((_COUNTER, EXTRA_STATE)):
            filled[name] = names.own[name]
    counters = [name for name in absent if name.endswith(_COUNTER)]
    if counters and len(absent) < len(names.own):
        notes.append(f"{len(counters)} {_COUNTER} of BatchNorm are not in it, and not needed")
    if any(name.endswith(EXTRA_STATE) for name in absent):
        notes.append("it holds no extra state, so the factory's is used")
    return filled, [*notes, *tied[:1]]


def _refuse_untied(state: State, names: Names, path: Path) -> None:
    for name in state.keys() & names.mates.keys():
        for mate in names.mates[name] & state.keys():
            one, other = state[name], state[mate]
            if one.shape == other.shape and not _same(one, other):
                raise CheckpointError(
                    f"{path}: {min(name, mate)} and {max(name, mate)} have different values, but "
                    "are the same tensor in the model (tied weights); check the model factory"
                )


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _done(fit: Fit, strip_prefix: str | None) -> list[str]:
    """Say what was done to get the weights."""
    notes = []
    if fit.key:
        notes.append(f"the weights under the key {fit.key!r} are used")
    if fit.prefix:
        notes.append(f"the prefix {fit.prefix!r} was removed from their names")
    if fit.unwrapped:
        notes.append("parts of names that wrappers add (module, _orig_mod) were removed")
    if fit.left_out and (fit.complete or strip_prefix is not None):
        shown = ", ".join(fit.left_out[:_SHOWN])
        more = len(fit.left_out) - _SHOWN
        notes.append(f"left out: {shown}{f' and {more} more' if more > 0 else ''}")
    return notes


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the first parts of names, with their dots."""
    return list(dict.fromkeys(f"{name.split('.')[0]}." for name in names if "." in name))


def _either(values: Iterable[str], option: str) -> str:
    known = [f"{option} {value or repr('')}" for value in values]
    return " or ".join([*known[:_SHOWN], *(["..."] if len(known) > _SHOWN else [])])
