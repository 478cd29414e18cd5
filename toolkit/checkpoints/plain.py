"""A factory's module → the plain module in it: eager, float32, on the CPU, with plain weights.

In: a module as people build it: in DataParallel, compiled, averaged, half, with weight norm. Out:
the module that every format and runtime gets. Loading and saving both use it, so the names of the
weights agree.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    remove_spectral_norm,
)
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm
from torch.optim.swa_utils import AveragedModel

from toolkit.errors import CheckpointError, headline


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A plain module, and what was changed to get it, in words."""

    module: nn.Module
    changes: tuple[str, ...] = ()


def plain(model: nn.Module) -> Plain:
    """Return the plain module in `model`, which is changed in place.

    Its weights are not touched here: they may still be those of a weight norm; see
    `with_plain_weights`.
    """
    changes = []
    wrappers: list[str] = []
    model = _unwrapped(model, wrappers)
    if wrappers:
        changes.append(f"{', '.join(dict.fromkeys(wrappers))} around the model was left out")
    for each in model.modules():
        if each._compiled_call_impl is not None:  # of Module.compile()
            each._compiled_call_impl = None
            changes.append("compile() of the model was left out")
    tensors = [*model.parameters(), *model.buffers()]
    narrow = {str(each.dtype) for each in tensors if _is_other_float(each)}
    if narrow:
        model = model.float()
        names = ", ".join(sorted(each.removeprefix("torch.") for each in narrow))
        changes.append(f"the factory builds the model in {names}; the checkpoint is float32")
    if any(each.device.type != "cpu" for each in tensors):
        model = model.cpu()
    return Plain(module=model, changes=tuple(dict.fromkeys(changes)))


def _is_other_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


def _unwrapped(model: nn.Module, wrappers: list[str]) -> nn.Module:
    """Return the model without wrappers, around it or around its parts; their names are added to
    `wrappers`."""
    inner = _inner(model)
    while inner is not None:
        wrappers.append(type(model).__name__)
        model = inner
        inner = _inner(model)
    for name, child in list(model.named_children()):
        bare = _unwrapped(child, wrappers)
        if bare is not child:
            setattr(model, name, bare)
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
        inner: nn.Module = model.module
        return inner
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # importing it takes a second
    if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
        original: nn.Module = model._orig_mod
        return original
    return None


def with_plain_weights(model: nn.Module) -> Plain:
    """Replace weight norms, spectral norms, prunings and other parametrisations by the weights that
    they give in eval mode. `model` is changed in place.

    Some exporters cannot follow the hooks that compute these weights in each call.
    """
    names: list[str] = []
    for path, module in list(model.named_modules()):
        removed = _without_hooks(module)
        if parametrize.is_parametrized(module):
            in_eval(module)  # a spectral norm changes with each use in training mode
            parametrised: list[str] = list(module.parametrizations)
            for name in parametrised:
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            removed += parametrised
        names += [f"{path}.{name}".lstrip(".") for name in removed]
    if not names:
        return Plain(module=model)
    shown = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    return Plain(
        module=model,
        changes=(f"weight norms, prunings or parametrisations were applied once, to {shown}",),
    )


def _without_hooks(module: nn.Module) -> list[str]:
    """Remove hooks that compute a weight before each call. Return the names of these weights."""
    names = []
    for hook in list(module._forward_pre_hooks.values()):
        match hook:
            case WeightNorm():
                remove_weight_norm(module, hook.name)
                names.append(hook.name)
            case SpectralNorm():
                remove_spectral_norm(module, hook.name)
                _remove_loading_hooks(module)
                names.append(hook.name)
            case prune.BasePruningMethod():
                prune.remove(module, hook._tensor_name)
                names.append(str(hook._tensor_name))
    return names


def _remove_loading_hooks(module: nn.Module) -> None:
    """Remove the hooks of a spectral norm that ask for its weights. torch 2.14 forgets them,
    because it looks for them without their wrappers."""
    hooks = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def in_eval(model: nn.Module) -> nn.Module:
    """Put a model into eval mode, and return it. Overridden methods may forget to."""
    model.eval()
    return model


def first_call(model: nn.Module, make_example: Callable[[], Tensor]) -> None:
    """Call a model once if its first call creates weights (`nn.LazyLinear`); `make_example` gives
    an input `[N,...]`.

    Raises:
        CheckpointError: The call fails.
    """
    if not any(nn.parameter.is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        return
    example = make_example()
    try:
        _call(model, example)
    except Exception as error:  # the user's code may raise anything
        raise CheckpointError(
            f"the model does not run on an input of shape {list(example.shape)}, which it needs "
            f"to create its weights: {headline(error)}; correct --input-shape"
        ) from error


def creates_weights(model: nn.Module, make_example: Callable[[], Tensor]) -> bool:
    """Call a model once. Return whether it has weights of other names since. A call that fails
    creates none."""
    before = set(model.state_dict())
    with contextlib.suppress(Exception):  # the user's code may raise anything
        _call(model, make_example())
    return set(model.state_dict()) != before


def _call(model: nn.Module, example: Tensor) -> None:
    """Call a model in eval mode."""
    training = model.training
    with torch.no_grad():
        in_eval(model)(example)
    model.train(training)
