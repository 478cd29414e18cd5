"""Files of weights → tensors that fit a model.

In: a `.safetensors` file, or a file that `torch.save` wrote. Out: the weights of a module. Only
tensors are read: nothing is unpickled, and no value changes without a warning.
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import CheckpointError, ToolkitWarning, headline
from toolkit.files import read_regular

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_ZIP = b"PK\x03\x04"


def read_safetensors(path: Path, *, within: Path | None = None) -> dict[str, Tensor]:
    """Read a `.safetensors` file; see `toolkit.files.open_regular` for `within`.

    Raises:
        CheckpointError: Not readable, not a regular file, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_regular(path, within=within))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: incomplete safetensors file ({headline(error)}); copy it again"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a `state_dict` in either kind of file.

    Raises:
        CheckpointError: Missing, damaged, or it holds anything but tensors.
    """
    import torch

    if not path.exists():
        raise CheckpointError(f"no file {path}; expected a state_dict (.safetensors, .pt, .pth)")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        content = read_regular(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        _refuse_compressed(content, path)
        with warnings.catch_warnings():
            # About other pickle protocols, which are refused below.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch and zipfile raise various exceptions for damaged bytes
        first_sentence = headline(error).split(". ")[0]  # the next one says how to trust the file
        raise CheckpointError(
            f"{path}: refused ({first_sentence}); only tensors are read, because anything else "
            "in a pickle can run code: save with torch.save(model.state_dict(), ...) or "
            "safetensors"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path}: holds {type(state).__name__}, expected a state_dict of names and tensors: "
            "save with torch.save(model.state_dict(), ...)"
        )
    return state


def _refuse_compressed(content: bytes, path: Path) -> None:
    """Raise CheckpointError if a zip archive holds more than its own size: torch.save never
    compresses, and a small archive could fill the memory."""
    if not content.startswith(_ZIP):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        holds = sum(each.file_size for each in archive.infolist())
    if holds > len(content):
        raise CheckpointError(
            f"{path}: {len(content):,} bytes that unpack to {holds:,}; expected the file that "
            "torch.save(model.state_dict(), ...) wrote, which is not compressed"
        )


def put_weights(model: nn.Module, state: dict[str, Tensor], *, where: str) -> None:
    """Load weights into a model; `where` names their file.

    Warns:
        ToolkitWarning: Floats were rounded to the model's dtype.

    Raises:
        CheckpointError: Missing, unexpected, of another shape or kind of dtype, NaN or infinite.
    """
    _refuse_unusual(state, where=where)
    wanted = model.state_dict()
    expected = {name: tuple(value.shape) for name, value in wanted.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is not in the model" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} has shape {list(found[name])}, expected {list(expected[name])}"
        for name in expected.keys() & found.keys()
        if expected[name] != found[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{where}: weights do not fit the model: {'; '.join(sorted(wrong)[:5])}"
            f"{'; ...' if len(wrong) > 5 else ''}; check the model factory and its arguments"
        )
    fitted = {name: _converted(state[name], name, wanted[name].dtype, where) for name in wanted}
    check_finite(fitted, where=where)
    _warn_of_rounding(state, fitted, where=where)
    model.load_state_dict(fitted)


def _refuse_unusual(state: dict[str, Tensor], *, where: str) -> None:
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
