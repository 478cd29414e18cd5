"""Named tensors → the weights of a module.

In: a state_dict. Out: the weights of a module. PyTorch's own strict loading decides which names are
missing. No value changes without a warning.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING

from toolkit.checkpoints.weight_files import State, tensors_in
from toolkit.errors import CheckpointError, ToolkitWarning, headline

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_SHOWN = 5


def put_weights(model: nn.Module, state: State, *, where: str) -> None:
    """Load weights into a model; `where` names their file.

    Warns:
        ToolkitWarning: Floats were rounded to the model's dtype.

    Raises:
        CheckpointError: Missing, unexpected, of another shape or kind of dtype, NaN or infinite.
    """
    given = tensors_in(state)
    refuse_unusual(given, where=where)
    wanted = model.state_dict()
    expected = tensors_in(wanted)
    both = [name for name in expected if name in given]
    shapes = [
        f"{name} has shape {list(given[name].shape)}, expected {list(expected[name].shape)}"
        for name in both
        if given[name].shape != expected[name].shape
    ]
    if not shapes:
        fitted = {n: _converted(given[n], n, expected[n].dtype, where) for n in both}
        check_finite(fitted, where=where)
        _warn_of_rounding(given, fitted, where=where)
        state = {**state, **fitted}
    names, failure = _load_strictly(model, state, wanted)
    wrong = sorted([*shapes, *names]) or failure
    if wrong:
        raise CheckpointError(
            f"{where}: weights do not fit the model: {'; '.join(wrong[:_SHOWN])}"
            f"{'; ...' if len(wrong) > _SHOWN else ''}; check the model factory and its arguments"
        )


def _load_strictly(model: nn.Module, state: State, wanted: State) -> tuple[list[str], list[str]]:
    """Let torch load a state_dict; `wanted` is the model's own. Return the names that torch finds
    missing or unexpected, and its own message if it fails."""
    complete = OrderedDict(state)
    # The versions of the modules. Without them, some modules take the names for those of old files.
    complete._metadata = getattr(wanted, "_metadata", None)  # type: ignore[attr-defined]
    try:
        model.load_state_dict(complete, strict=True)
    except Exception as error:  # noqa: BLE001 - the user's module may load in its own way
        text = str(error)
        missing = _names_after("Missing key(s) in state_dict: ", text)
        unexpected = _names_after("Unexpected key(s) in state_dict: ", text)
        names = [f"{name} is missing" for name in missing]
        names += [f"{name} is not in the model" for name in unexpected]
        return names, [headline(error)]
    return [], []


def _names_after(heading: str, text: str) -> list[str]:
    _, found, rest = text.partition(heading)
    return re.findall(r'"([^"]*)"', rest.split("\n")[0]) if found else []


def refuse_unusual(state: dict[str, Tensor], *, where: str) -> None:
    """Raise CheckpointError if a tensor does not hold plain numbers."""
    import torch

    for name, value in state.items():
        plain = value.layout is torch.strided and not (value.is_nested or value.is_quantized)
        if not plain or value.device.type != "cpu":
            raise CheckpointError(
                f"{where}: {name} is a sparse, nested, quantised or empty (meta) tensor; expected "
                "plain numbers: save the state_dict of the float model"
            )


def _converted(value: Tensor, name: str, dtype: torch.dtype, where: str) -> Tensor:
    """Return the weight in the model's dtype. Floats may be rounded; nothing else may change."""
    import torch

    if value.dtype == dtype:
        return value
    if _kind(value.dtype) == _kind(dtype):
        with contextlib.suppress(RuntimeError):  # torch cannot convert all of its dtypes
            converted = value.to(dtype)
            if dtype.is_floating_point or torch.equal(converted.to(value.dtype), value):
                return converted
    raise CheckpointError(
        f"{where}: {name} is {_name(value.dtype)}, expected {_name(dtype)}; the conversion would "
        "change its values: save the weights of the model that the factory builds"
    )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "float" if dtype.is_floating_point else "bool" if "bool" in str(dtype) else "integer"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _warn_of_rounding(given: dict[str, Tensor], fitted: dict[str, Tensor], *, where: str) -> None:
    """Warn if floats were rounded to the model's dtype."""
    rounded = [
        name
        for name, value in fitted.items()
        if value.dtype != given[name].dtype and (value.double() != given[name].double()).any()
    ]
    if rounded:
        old, new = _name(given[rounded[0]].dtype), _name(fitted[rounded[0]].dtype)
        warnings.warn(
            f"{where}: {len(rounded)} weights, such as {rounded[0]}, are {old} and were rounded "
            f"to {new}, the dtype of the model",
            ToolkitWarning,
            stacklevel=2,
        )


def check_finite(state: dict[str, Tensor], *, where: str) -> None:
    """Raise CheckpointError if a weight is NaN or infinite."""
    for name, value in state.items():
        bad = int((~value.isfinite()).sum()) if value.is_floating_point() else 0
        if bad:
            raise CheckpointError(
                f"{where}: {name} holds {bad} NaN or infinite values; expected finite weights: "
                "train again with a smaller --lr, or restore the file"
            )
