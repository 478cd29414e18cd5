"""Graphs of a model as torch records them, shared by formats.

In: a model and an example. Out: the graph, and what tracing froze in it; or `Unsupported`, in one
line that names the line of the model's code.
"""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.jit._trace import TracerWarning

from toolkit.checkpoints.model import NamedClassifier
from toolkit.errors import FailedRun, Unsupported, headline

_MODEL_FILE = NamedClassifier.forward.__code__.co_filename
_LIBRARY = str(Path(torch.__file__).parent)
_LONGEST_CODE = 80
_NO_GRAPH = {
    *("GuardOnDataDependentSymNode", "ConstraintViolationError", "UserError", "TorchExportError"),
    *("Unsupported", "TorchRuntimeError", "UnsupportedOperatorException"),
}

# Beginnings of TracerWarning's messages, and what they mean.
_FROZEN = {
    "Converting a tensor to a Python boolean": "a branch",
    "Converting a tensor to a Python integer": "a number",
    "Converting a tensor to a Python float": "a number",
    "Converting a tensor to a Python index": "a number",
    "Converting a tensor to a NumPy array": "an array",
    "Iterating over a tensor": "the length of a loop",
}


def trace(model: nn.Module, example: Tensor) -> tuple[Any, tuple[str, ...]]:
    """Return the model traced by `torch.jit.trace`, and what tracing froze, one sentence each."""
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript from 2.13 on
        warnings.simplefilter("always", TracerWarning)
        traced = torch.jit.trace(model, example)
    frozen = [
        _frozen(str(each.message), each.filename, each.lineno)
        for each in caught
        if issubclass(each.category, TracerWarning)
    ]
    return traced, tuple(dict.fromkeys(filter(None, frozen)))


def export_program(model: nn.Module, example: Tensor, *, batch: Any = None) -> ExportedProgram:
    """Return the model's graph with a dynamic batch; `batch` is its range, 1 and more by default.

    Raises:
        Unsupported: torch.export cannot take the model.
    """
    shapes = {"input": {0: batch or Dim("batch", min=1)}}
    with as_unsupported(model, example):
        return torch.export.export(model, (example,), dynamic_shapes=shapes)


@contextlib.contextmanager
def as_unsupported(model: nn.Module, example: Tensor) -> Iterator[None]:
    """Turn an exception of torch.export, called in the block, into `Unsupported`; leave what comes
    from later steps of a converter. Torch's dump of the graph is not printed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), without_logs():
            yield
    except (FailedRun, MemoryError, OSError):
        raise
    except Exception as error:
        chain = list(chain_of(error))
        if not _is_about_graph(chain):
            raise
        raise Unsupported(
            f"torch.export cannot take this model: {_reason(chain, model, example)}",
            stderr_tail=traceback.format_exc(),
        ) from error


def refuse_fixed_batch(size: int | None, model: nn.Module, example: Tensor) -> None:
    """Raise Unsupported if a converter has written `size` as the only batch size.

    Raises:
        Unsupported: It is not None.
    """
    if size is not None:
        raise Unsupported(f"torch.export cannot take this model: {_fixed_batch(model, example)}")


@contextlib.contextmanager
def without_logs() -> Iterator[None]:
    """Silence the warnings that libraries log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _is_about_graph(chain: list[BaseException]) -> bool:
    """Return whether the graph of the model could not be recorded: torch says so, or its code
    raised the exception, although the model has run before."""
    kinds = {type(each).__name__ for each in chain}
    return bool(kinds & _NO_GRAPH) or any(map(_place, chain))


def _reason(chain: list[BaseException], model: nn.Module, example: Tensor) -> str:
    """Return which line of the model is the problem, and what to write instead."""
    kinds = {type(each).__name__ for each in chain}
    if "ConstraintViolationError" in kinds:
        return _fixed_batch(model, example)
    place = next(filter(None, map(_place, reversed(chain))), None)
    where = "" if place is None else f"{place}: "
    if "GuardOnDataDependentSymNode" in kinds:
        return f"{where}depends on the values of a tensor; write torch.where or torch.cond instead"
    return (
        f"{where}{headline(chain[-1])}; write operators of torch on tensors instead, and "
        "torch.where or torch.cond for branches"
    )


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Return an exception and those that it came from, the first one last."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__ or found.__context__


def _fixed_batch(model: nn.Module, example: Tensor) -> str:
    frozen: tuple[str, ...] = ()
    with contextlib.suppress(Exception):  # the trace only helps to find the line
        frozen = trace(model, example)[1]
    hint = f" ({frozen[0].partition(':')[0]})" if frozen else ""
    return (
        f"its code fixes the batch size to that of the example{hint}; write x.flatten(1), or "
        "x.reshape(x.shape[0], -1), without int() and without a number for the batch"
    )


def _place(error: BaseException) -> str | None:
    """Return file, line and code of the innermost line of the model's code in a traceback, which
    may be that of a library of layers; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    entered = max(
        (at for at, each in enumerate(frames) if each.filename == _MODEL_FILE), default=-1
    )
    if entered < 0:
        return None
    own = [
        each
        for each in frames[entered + 1 :]
        if not each.filename.startswith((_LIBRARY, "<")) and each.filename != _MODEL_FILE
    ]
    return _named(own[-1].filename, own[-1].lineno or 0, own[-1].line or "") if own else None


def _frozen(message: str, filename: str, line: int) -> str | None:
    """Return what a TracerWarning means; None if it is about torch's own check of the trace, which
    the comparison of logits makes better."""
    import linecache

    what = next((text for start, text in _FROZEN.items() if message.startswith(start)), None)
    if what is None:
        return None
    code = linecache.getline(filename, line).strip()
    return (
        f"tracing froze {what} at {_named(filename, line, code)}: it is a constant in the file, as "
        "the example gave it; if it depends on the input, write torch.where or another operator"
    )


def _named(filename: str, line: int, code: str) -> str:
    short = code if len(code) <= _LONGEST_CODE else f"{code[:_LONGEST_CODE]}..."
    return f"{Path(filename).name}, line {line}" + (f" (`{short}`)" if short else "")
