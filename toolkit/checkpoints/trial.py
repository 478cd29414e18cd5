"""A trial of a model before it is imported: does it map inputs `[N,...]` to logits `[N,K]`?

In: a model with its weights, and what the user says about it. Out: the model spec, or an error that
names the cause: another input or output, random logits, logits that depend on the batch, a batch
size that is fixed in the code, arithmetic in float16.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.checkpoints.model import example_input
from toolkit.checkpoints.outputs import outputs_of, pick, with_chosen_output
from toolkit.checkpoints.plain import in_eval
from toolkit.errors import CheckpointError, headline
from toolkit.schema import ModelSpec

PAGE = "docs/own-models.md"
_BATCH_SIZES = (2, 3, 1)  # the first that fails shows whether only one sample does
_SAME = 1e-3  # of the largest logit: float32 kernels of different batch sizes differ by less
_MASK = 1e30  # logits of masked classes are below minus this
_NARROW = (torch.float16, torch.bfloat16)
_SAME_VALUES = {
    "view",
    "_unsafe_view",
    "squeeze",
    "unsqueeze",
    "select",
    "slice",
    "clone",
    "detach",
}
_OURS = (Path(torch.__file__).parent, Path(__file__).parents[1])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model to try, and the input and output that the user expects of it."""

    model: nn.Module
    spec: ModelSpec
    shape: tuple[int, ...]
    classes: int

    def run(self) -> ModelSpec:
        """Try the model on batches of 1, 2 and 3 samples, twice. Return its spec, which says
        whether it returns one logit.

        Raises:
            CheckpointError: It does not give logits `[N,K]` that depend on the sample alone.
        """
        self._check_signature()
        examples = example_input(self.shape, batch_size=max(_BATCH_SIZES))
        watch = _Watch()
        with torch.no_grad(), watch:
            found = self._first_output(examples[:2])
        self._check_arithmetic(watch)
        spec = self._with_logits(found, watch)
        self._check_batches(with_chosen_output(self.model, spec), examples)
        return spec

    def _check_signature(self) -> None:
        """Raise CheckpointError unless the model has one input."""
        try:
            parameters = inspect.signature(self.model.forward).parameters.values()
        except (ValueError, TypeError):  # not written in Python
            return
        needed = [
            each.name
            for each in parameters
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        if len(needed) > 1:
            raise self._error(
                f"takes {len(needed)} inputs ({', '.join(needed)}), but a classifier here has one; "
                f"wrap it in a module that makes the others, or that splits one input: {PAGE} has "
                "a recipe"
            )

    def _first_output(self, examples: Tensor) -> object:
        """Return what the model returns for two samples."""
        try:
            return in_eval(self.model)(examples.clone())
        except Exception as error:  # the user's code may raise anything
            if _runs(self.model, examples[:1]):
                raise self._error(
                    f"takes one sample, but not 2: {headline(error)}; the batch size 1 is fixed in "
                    "its code: write x.flatten(1), or x.shape[0] for the batch size"
                ) from error
            image = "" if len(self.shape) == 3 else f", which is no image: see {PAGE}"
            raise self._error(
                f"does not run on an input of shape {[2, *self.shape]}: {headline(error)}; "
                f"correct --input-shape{image}"
            ) from error

    def _check_arithmetic(self, watch: _Watch) -> None:
        if watch.narrow:
            raise self._error(
                f"computes in {watch.narrow}; a checkpoint is float32, and export --precision "
                "rounds it: remove autocast and casts such as .half() from its forward, or use "
                "torch.autocast(..., enabled=self.training)"
            )

    def _with_logits(self, found: object, watch: _Watch) -> ModelSpec:
        """Return the spec with what the output of two samples shows.

        Raises:
            CheckpointError: It is not logits `[2, classes]`, nor one logit per sample.
        """
        logits = self._picked(found)
        shape, spec = list(logits.shape), self.spec
        if not logits.is_floating_point():
            raise self._error(
                f"returned {_described(logits)} for 2 samples, expected logits "
                f"[2, {self.classes}] as float32: return the logits, not the class (argmax)"
            )
        if shape in ([2, 1], [2]):
            if self.classes != 2:
                raise self._error(
                    f"returned {shape} for 2 samples: one logit, which is a binary classifier; use "
                    "--classes 2, and it is taken as the logits [0, z] of two classes"
                )
            if watch.last == "sigmoid":
                raise self._error(
                    "returns one probability, the sigmoid of a logit, expected the logit: remove "
                    "the sigmoid, and train with BCEWithLogitsLoss, which has the same loss"
                )
            spec = replace(spec, one_logit=True)
        elif shape != [2, self.classes]:
            raise self._error(
                f"returned {shape} for 2 samples, expected logits [2, {self.classes}]; "
                f"{self._advice(shape)}"
            )
        if logits.dtype != torch.float32:
            raise self._error(
                f"returned {_described(logits)}, expected float32 logits: end its forward with "
                ".float()"
            )
        return spec

    def _picked(self, found: object) -> Tensor:
        output = self.spec.output
        try:
            logits: object = pick(found, output)
        except (LookupError, AttributeError) as error:
            raise self._error(
                f"has no output {output!r}; it returned {_described(found)}: correct --output"
            ) from error
        if isinstance(logits, Tensor):
            return logits
        choices = {n: v for n, v in outputs_of(logits) if isinstance(v, Tensor)}
        fit = [name for name, value in choices.items() if list(value.shape) == [2, self.classes]]
        if output is None and choices:
            likely = (fit or list(choices))[0]
            raise self._error(
                f"returned {_described(logits)}; choose the logits, such as --output {likely}"
            )
        raise self._error(
            f"returned {_described(logits)}, expected logits [2, {self.classes}] for 2 samples; "
            f"wrap the model so that it returns them: {PAGE} has recipes"
        )

    def _advice(self, shape: list[int]) -> str:
        if shape == [self.classes] or shape[:1] == [1]:
            return "it loses the batch: look for squeeze() and for a view with a fixed size"
        if len(shape) == 2 and shape[0] == 2:
            return (
                "correct --classes or --class-names, or add --model-argument "
                f"num_classes={self.classes}"
            )
        if len(shape) > 2:
            return (
                "image classifiers [N,C,H,W] -> [N,K] are supported: wrap the model so that it "
                f"returns logits [N,K]; {PAGE} has recipes"
            )
        return "wrap the model so that it returns logits [N, K]"

    def _check_batches(self, model: nn.Module, examples: Tensor) -> None:
        """Raise CheckpointError if logits change between calls or with the batch."""
        first: dict[int, Tensor] = {}
        for size in _BATCH_SIZES:
            for again in (False, True):
                logits = self._logits_of(model, examples[:size])
                if again and _differ(first[size], logits):
                    raise self._error(
                        "is random: the same samples gave logits that differ by up to "
                        f"{_differ(first[size], logits):.1e}; look for dropout or noise that "
                        "eval() does not switch off (F.dropout(..., training=True), torch.rand in "
                        "forward), or for a state that changes with each call"
                    )
                first.setdefault(size, logits)
        for size in (1, 3):
            count = min(size, 2)
            moved = _differ(first[2][:count], first[size][:count])
            if moved:
                raise self._error(
                    f"depends on the batch: the logits of a sample differ by up to {moved:.1e} "
                    f"between batches of 2 and of {size}; look for a BatchNorm without running "
                    "statistics (track_running_stats=False) or left in training mode, and for "
                    "means or sorts over the batch dimension"
                )

    def _logits_of(self, model: nn.Module, samples: Tensor) -> Tensor:
        """Return logits `[N,K]`; name the cause if this batch size gives none."""
        size = len(samples)
        cause = (
            "look for squeeze() without a dimension, and write flatten(1) or squeeze(-1)"
            if size == 1
            else "a batch size is fixed in its code: write x.shape[0], or flatten(1), instead"
        )
        try:
            with torch.no_grad():
                logits = in_eval(model)(samples.clone())
        except Exception as error:  # the user's code may raise anything
            raise self._error(
                f"takes a batch of 2, but not {_batch(size)}: {headline(error)}; {cause}"
            ) from error
        if list(logits.shape) != [size, self.classes]:
            raise self._error(
                f"takes a batch of 2, but not {_batch(size)}: it returned {list(logits.shape)}, "
                f"expected {[size, self.classes]}; {cause}"
            )
        found: Tensor = logits
        return found

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.spec.factory} {what}")


class _Watch(TorchDispatchMode):
    """Sees each operation of a model: where it first computes in float16 or bfloat16, and which
    operation is the last."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.narrow = ""
        self.last = ""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.last = self.last if name in _SAME_VALUES else name
        if not self.narrow and isinstance(found, Tensor) and found.dtype in _NARROW:
            self.narrow = f"{str(found.dtype).removeprefix('torch.')}{_place()}"
        return found


def _place() -> str:
    """Return the innermost line of the user's code that is being run, for a message."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(each) for each in _OURS):
            return f" ({path.name}, line {frame.lineno})"
    return ""


def _runs(model: nn.Module, samples: Tensor) -> bool:
    try:
        with torch.no_grad():
            in_eval(model)(samples.clone())
    except Exception:  # noqa: BLE001 - the user's code may raise anything
        return False
    return True


def _differ(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of logits; 0 if it is within the rounding of float32."""
    known = one.isfinite() & other.isfinite() & (one.abs() < _MASK) & (other.abs() < _MASK)
    if not bool(known.any()):
        return 0.0
    moved = float((one - other)[known].abs().max())
    scale = float(one[known].abs().max())
    return moved if moved > _SAME * scale else 0.0


def _batch(size: int) -> str:
    return "a batch of one" if size == 1 else f"a batch of {size}"


def _described(found: object) -> str:
    """Return what a model has returned, with the shapes of tensors."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
    parts = [
        f"{name}: {list(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for name, value in outputs_of(found)
    ]
    return f"{type(found).__name__}({', '.join(parts[:8])})" if parts else type(found).__name__
