"""Builds a model from the factory named in a checkpoint.

In: a model spec. Out: an `nn.Module` that maps float32 `[N,...]` to logits `[N,K]`.
"""

from __future__ import annotations

import copy
import importlib

import torch
from torch import Tensor, nn

from toolkit.checkpoints.plain import Plain, in_eval, plain
from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.errors import CheckpointError, headline
from toolkit.files import memory_bytes
from toolkit.processes.import_path import factories_importable
from toolkit.schema import ModelSpec
from toolkit.trust_store.factories import REFERENCE_FACTORY


class NamedClassifier(nn.Module):
    """The user's model with the input and output names of every artifact: `input` → `logits`.

    With `copy_input`, the model gets a copy, and the caller's input is not changed.
    """

    def __init__(self, model: nn.Module, *, copy_input: bool = False) -> None:
        super().__init__()
        self.model = model
        self.copy_input = copy_input

    def forward(self, input: Tensor) -> Tensor:
        """Float32 `[N,...]` → logits `[N,K]`."""
        logits: Tensor = self.model(input.clone() if self.copy_input else input)
        return logits


def exportable(model: nn.Module, example: Tensor) -> NamedClassifier:
    """Return the model for exporters, in eval mode; it is tried on a copy of `example`,
    `[N,...]`.

    A model that changes its input in place gets a copy in every artifact. Some converters cannot
    write such a model, and callers do not expect an artifact to change their input.
    """
    given = example.clone()
    with torch.no_grad():
        in_eval(model)(given)
    changes = not torch.equal(given, example)
    return NamedClassifier(model, copy_input=changes).eval()


def build_model(spec: ModelSpec, *, trusted: str | None = None) -> nn.Module:
    """Call the factory that `spec` names, and return the plain module; see `build_plain`."""
    return build_plain(spec, trusted=trusted).module


def build_plain(spec: ModelSpec, *, trusted: str | None = None) -> Plain:
    """Call the factory that `spec` names. Return the plain module in what it returns, and what was
    changed.

    A checkpoint is data, and a factory is code: only the toolkit's own factory and the one that the
    caller names as `trusted` are imported; see `toolkit.trust_store.factories.trusted_factory`.

    Raises:
        CheckpointError: The factory is not trusted, cannot be imported, or returns no module.
    """
    if spec.factory not in (REFERENCE_FACTORY, trusted):
        raise CheckpointError(
            f"the checkpoint names the model factory {spec.factory!r}, which is not trusted; if "
            f"you trust that code, add --model {spec.factory}"
        )
    try:
        if spec.factory == REFERENCE_FACTORY:
            _refuse_large(spec)
        with factories_importable():
            model = _call_factory(spec)
        if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
            return plain(model)
    except Exception as error:
        raise CheckpointError(
            f"cannot build the model with {spec.factory}({_shown(spec)}): {headline(error)}; "
            "expected package.module:function that can be imported from here and takes these "
            "arguments; set them with --model-argument NAME=VALUE"
        ) from error
    if isinstance(model, nn.Module):
        raise CheckpointError(
            f"{spec.factory} returns a TorchScript module, from which only TorchScript can be "
            "written; return the torch.nn.Module itself, before torch.jit.script or torch.jit.trace"
        )
    raise CheckpointError(
        f"{spec.factory} returned {type(model).__name__}, expected a torch.nn.Module"
    )


def _call_factory(spec: ModelSpec) -> object:
    """Call a factory; a module that is named instead of a factory is copied."""
    factory = find_attribute(spec.factory)
    if isinstance(factory, nn.Module) and not spec.arguments:
        return copy.deepcopy(factory)
    if not callable(factory):
        raise TypeError(f"it is a {type(factory).__name__}, not a function")
    return factory(**spec.arguments)


def _shown(spec: ModelSpec) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in spec.arguments.items())


def _refuse_large(spec: ModelSpec) -> None:
    """Raise MemoryError if the reference CNN with these arguments is larger than the memory."""
    with torch.device("meta"):  # shapes without values
        model = _call_factory(spec)
    assert isinstance(model, nn.Module)
    needed = sum(each.nbytes for each in model.parameters())
    if needed > memory_bytes():
        raise MemoryError(f"its weights have {needed:,} bytes, more than this machine's memory")


def find_attribute(name: str) -> object:
    """Import `package.module:attribute`. Call it in `factories_importable`.

    Raises:
        Exception: Any, from the code of the module.
    """
    if name == REFERENCE_FACTORY:
        return ReferenceCNN
    module_name, _, attribute = name.partition(":")
    module = importlib.import_module(module_name)
    try:
        found: object = getattr(module, attribute)
    except AttributeError as error:  # perhaps a library of the same name
        place = getattr(module, "__file__", None)
        raise AttributeError(f"{error} (imported from {place})") from error
    return found


def example_input(shape: tuple[int, ...], *, batch_size: int) -> Tensor:
    """Return float32 `[N,...]` noise from a fixed seed, for tracing."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, *shape, generator=generator)
