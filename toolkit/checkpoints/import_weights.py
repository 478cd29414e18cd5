"""Import: a user's weights and the factory of their model → checkpoint.

In: a file of weights, a model factory, and what the user says about input and classes. Out: a
checkpoint folder. What was done to the weights is said in a warning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.checkpoints.denormals import flushed, warn_of_denormals
from toolkit.checkpoints.input_spec import Preprocessing, check_input_spec
from toolkit.checkpoints.naming import Chosen, choose_weights, names_of
from toolkit.checkpoints.storage import refuse_to_replace, save_checkpoint
from toolkit.checkpoints.weight_files import read_saved, tensors_in
from toolkit.checkpoints.weights import put_weights
from toolkit.errors import CheckpointError, ToolkitWarning
from toolkit.files.locks import locked_folder
from toolkit.files.paths import StrPath, as_path
from toolkit.schema import CHECKPOINT_SCHEMA_VERSION, Checkpoint, InputSpec, ModelSpec
from toolkit.trust_store.factories import REFERENCE_FACTORY, factory_program, make_importable
from toolkit.trust_store.store import trust_store

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """How to read a file of weights.

    Attributes:
        key: Where in the file the state_dict is, such as `state_dict`; None searches.
        strip_prefix: The start of the names that belong to the model; None searches.
        flush_denormals: Set denormal weights to zero.
    """

    key: str | None = None
    strip_prefix: str | None = None
    flush_denormals: bool = False


def import_weights(
    weights: StrPath,
    *,
    out: StrPath,
    model: ModelSpec | str,
    input_spec: InputSpec | None = None,
    classes: int | None = None,
    class_names: Sequence[str] = (),
    preprocess: object = None,
    key: str | None = None,
    strip_prefix: str | None = None,
    flush_denormals: bool = False,
    force: bool = False,
) -> Checkpoint:
    """Create a checkpoint from a user's `state_dict` file and the factory of its model.

    `weights` is a `.safetensors` file, or a file that `torch.save(model.state_dict())` or a
    training framework wrote. The latter is read with `weights_only=True`, so nothing in it can run.
    The model is tried on batches of 1, 2 and 3 samples: it must return `[N, classes]`. Naming a
    factory here means to trust it, so it is recorded in the trust store, and later commands need
    not be told again.

    Args:
        weights: The file.
        out: Checkpoint folder to write.
        model: The factory, its arguments, and its output.
        input_spec: The input; None takes it from `preprocess`.
        classes: Number of classes; None is the number of class names.
        class_names: In the order of the logits.
        preprocess: A torchvision transform or the name of one, such as
            `torchvision:mobilenet_v3_small`; see
            `toolkit.checkpoints.presets.read_preprocessing`. Its class names are used if their
            number is that of the classes. A `Preprocessing` says the same in fields.
        key: Where in the file the state_dict is, such as `state_dict`; None searches.
        strip_prefix: The start of the names that belong to the model; None searches.
        flush_denormals: Set denormal weights to zero.
        force: Replace a checkpoint in `out`.

    Returns:
        The record of the checkpoint.

    Warns:
        ToolkitWarning: Says what was done to fit the weights to the model, or the model to a
            checkpoint.

    Raises:
        CheckpointError: The file is refused or does not fit the model, or the model is no
            classifier.
        OutputError: `out` holds a checkpoint, or cannot be written.
    """
    weights, out = as_path(weights, "weights"), as_path(out, "out")
    model = ModelSpec(factory=model) if isinstance(model, str) else model
    refuse_to_replace(out, force=force)
    said = _said(preprocess)
    if input_spec is None:
        input_spec = said.spec()
    check_input_spec(input_spec, weights)
    classes, names = count_classes(classes, class_names, said.class_names)
    program = None if model.factory == REFERENCE_FACTORY else factory_program(model)
    if program is not None:
        make_importable(program)
    options = WeightsOptions(key=key, strip_prefix=strip_prefix, flush_denormals=flush_denormals)
    module = _with_weights(model, input_spec, weights, options)
    spec = _tried(module, model, input_spec, classes)
    record = Checkpoint(
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        name=out.resolve().name,
        model=spec,
        input=input_spec,
        classes=classes,
        class_names=names,
        sha256="",
    )
    with locked_folder(out):
        refuse_to_replace(out, force=force)  # another command may have written it by now
        saved = save_checkpoint(out, module, record)
    if program is not None:
        trust_store().remember([program], command="import")
    warn_of_denormals(saved, out)
    return saved


def _said(preprocess: object) -> Preprocessing:
    if preprocess is None or isinstance(preprocess, Preprocessing):
        return preprocess or Preprocessing()
    from toolkit.checkpoints.presets import read_preprocessing

    return read_preprocessing(preprocess)


def count_classes(
    classes: int | None, class_names: Sequence[str], preset: Sequence[str] = ()
) -> tuple[int, tuple[str, ...]]:
    """Return the number of classes and their names; `preset` are names that may not be meant.

    Raises:
        CheckpointError: The number is missing, too small, or not that of the names; or a name is
            empty or there twice.
    """
    if classes is None:
        classes = len(class_names or preset)
        if not classes:
            raise CheckpointError("--classes missing; give their number, or --class-names")
    if classes < 2:
        raise CheckpointError(
            f"--classes {classes}: expected 2 or more; a binary model with one logit (sigmoid) has "
            "2 classes"
        )
    names = tuple(class_names) or (tuple(preset) if len(preset) == classes else ())
    if names and len(names) != classes:
        raise CheckpointError(f"{len(names)} class names for {classes} classes; expected one each")
    twice = [each for number, each in enumerate(names) if each in names[:number]]
    if class_names and (twice or not all(each.strip() for each in names)):
        problem = f"{twice[0]!r} is there twice" if twice else "a name is empty"
        raise CheckpointError(f"class names: {problem}; expected {classes} different names")
    return classes, names


def _with_weights(
    spec: ModelSpec, input: InputSpec, weights: Path, options: WeightsOptions
) -> nn.Module:
    """Build the model and put the weights into it; warn of what was done."""
    from toolkit.checkpoints.model import build_plain, example_input
    from toolkit.checkpoints.plain import creates_weights, first_call, with_plain_weights

    built = build_plain(spec, trusted=spec.factory)
    saved, module = read_saved(weights), built.module
    example = functools.partial(example_input, input.shape, batch_size=2)

    def choose() -> Chosen:
        return choose_weights(
            saved,
            names_of(module),
            path=weights,
            key=options.key,
            strip_prefix=options.strip_prefix,
        )

    first_call(module, example)
    chosen = choose()
    if not chosen.complete and creates_weights(module, example):
        chosen = choose()
    state = chosen.state
    if options.flush_denormals:
        state = {**state, **{name: flushed(value) for name, value in tensors_in(state).items()}}
    put_weights(module, state, where=str(weights))
    plain = with_plain_weights(module)
    _tell(weights, [*chosen.notes, *_widened(chosen), *plain.changes])
    _tell(spec.factory, built.changes)
    return plain.module


def _widened(chosen: Chosen) -> list[str]:
    narrow = {
        str(each.dtype).removeprefix("torch.")
        for each in tensors_in(chosen.state).values()
        if each.is_floating_point() and each.element_size() < 4
    }
    return [f"its {' and '.join(sorted(narrow))} weights are kept as float32"] if narrow else []


def _tell(what: object, notes: Sequence[str]) -> None:
    if notes:
        warnings.warn(f"{what}: {'; '.join(notes)}", ToolkitWarning, stacklevel=3)


def _tried(module: nn.Module, spec: ModelSpec, input: InputSpec, classes: int) -> ModelSpec:
    """Try the model. Return its spec, which says whether it returns one logit."""
    from toolkit.checkpoints.trial import Trial

    found = Trial(
        model=module, spec=replace(spec, one_logit=False), shape=input.shape, classes=classes
    ).run()
    if found.one_logit and not spec.one_logit:
        _tell(
            spec.factory,
            ["returns one logit z, taken as the logits [0, z] of two classes, the second if z > 0"],
        )
    return found
