"""Hypotheses about a model's graph: one of its operators was replaced.

In: the operators of a model. Out: changes, each with edits of operators and a description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor

from toolkit.parity.causes.operators import LAYERS, Call, Edit, Operator

Function = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Function] = {
    "ReLU": F.relu,
    "leaky ReLU (0.01)": lambda x: F.leaky_relu(x, 0.01),
    "leaky ReLU (0.1)": lambda x: F.leaky_relu(x, 0.1),
    "leaky ReLU (0.2)": lambda x: F.leaky_relu(x, 0.2),
    "ReLU6": F.relu6,
    "ELU": F.elu,
    "GELU": F.gelu,
    "GELU with tanh": lambda x: F.gelu(x, approximate="tanh"),
    "GELU with sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "softplus": F.softplus,
    "SiLU": F.silu,
    "hard swish": F.hardswish,
    "hard sigmoid": F.hardsigmoid,
    "hard sigmoid (0.2)": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "SELU": F.selu,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """One hypothesis: `what` describes it as a clause, `edits` changes the operators."""

    kind: str
    what: str
    action: str
    edits: Mapping[int, Edit]


def changes(operators: Sequence[Operator]) -> Iterator[Change]:
    """Return all changes of one operator, or of all operators of a kind; likely ones first."""
    for make in (_activations, _pools, _layouts, _layers, _normalisations, _resizes):
        yield from make(operators)


def _activations(operators: Sequence[Operator]) -> Iterator[Change]:
    found = [each for each in operators if each.activation]
    by_name = [
        [each for each in found if each.name == name]
        for name in dict.fromkeys(each.name for each in found)
    ]
    groups = [
        group for group in by_name if len(group) > 1
    ]  # converters change all operators of a kind
    for group in (*groups, *([each] for each in found)):
        name, where = str(group[0].activation), _where(group)
        yield _change("activation missing", f"the {name} {where} is missing", group, _identity)
        for other, function in _ACTIVATIONS.items():
            if other != name:
                what = f"the {name} {where} is a {other}"
                yield _change("other activation", what, group, _replaced(function))


def _where(group: Sequence[Operator]) -> str:
    layers = [each.layer for each in group]
    if len(layers) > 3:
        return f"after {layers[0]} and {len(layers) - 1} other layers"
    return f"after {' and '.join(layers)}"


def _change(kind: str, what: str, group: Sequence[Operator], edit: Edit) -> Change:
    layers = ", ".join(dict.fromkeys(each.layer for each in group[:3]))
    return Change(
        kind=kind,
        what=what,
        action=f"Check what the exporter or the runtime does with {group[0].name} at {layers}.",
        edits={each.index: edit for each in group},
    )


def _identity(call: Call) -> Any:
    return call.args[0].clone()


def _replaced(function: Function) -> Edit:
    return lambda call: function(call.args[0])


def _after(function: Function) -> Edit:
    """Change the operator's own result; if there are several results, the first."""

    def edit(call: Call) -> Any:
        result = call.run()
        if isinstance(result, tuple | list):
            return (function(result[0]), *result[1:])
        return function(result)

    return edit


def _pools(operators: Sequence[Operator]) -> Iterator[Change]:
    for each in operators:
        if each.name != "max_pool2d_with_indices":
            continue
        size, where = each.args[1], f"after {each.layer}"
        step = each.args[2] if len(each.args) > 2 and each.args[2] else size
        options: dict[str, Function] = {
            "an average pool": lambda x, k=size, s=step: F.avg_pool2d(x, k, s),  # type: ignore[misc]
            "a stride, without a maximum": lambda x, s=step: x[..., :: s[0], :: s[-1]],  # type: ignore[misc]
            "of 3x3": lambda x, s=step: F.max_pool2d(x, 3, s, padding=1),  # type: ignore[misc]
            "of 2x2": lambda x, s=step: F.max_pool2d(x, 2, s),  # type: ignore[misc]
            "one row and column later": lambda x, k=size, s=step: _later(x, k, s),  # type: ignore[misc]
        }
        for words, function in options.items():
            what = f"the max pool {where} is {words}"
            edit = _pooled(function, each.shape)
            yield _change("other pooling", what, [each], edit)


def _later(x: Tensor, size: list[int], step: list[int]) -> Tensor:
    moved = F.pad(x[..., 1:, 1:], (0, 1, 0, 1), value=float("-inf"))
    pooled: Tensor = F.max_pool2d(moved, size, step)
    return pooled


def _pooled(function: Function, shape: tuple[int, ...]) -> Edit:
    """Return a result of the shape that the model expects, for any batch."""

    def edit(call: Call) -> Any:
        pooled = function(call.args[0])[..., : shape[-2], : shape[-1]].contiguous()
        return pooled, torch.zeros_like(pooled, dtype=torch.long)

    return edit


def _layouts(operators: Sequence[Operator]) -> Iterator[Change]:
    """Return changes of the order in which images are flattened into vectors."""
    for each in operators:
        given = each.args[0] if each.args else ()
        if each.name not in ("view", "_unsafe_view", "reshape", "clone") or len(each.shape) != 2:
            continue
        if not isinstance(given, tuple) or len(given) != 4 or given[2] * given[3] == 1:
            continue
        for words, order in (("[N,H,W,C]", (0, 2, 3, 1)), ("[N,C,W,H]", (0, 1, 3, 2))):
            what = f"the features after {each.layer} are flattened as {words}, not [N,C,H,W]"
            yield _change("layout of features", what, [each], _permuted(order))


def _permuted(order: tuple[int, ...]) -> Edit:
    return lambda call: call.args[0].permute(order).flatten(1)


def _layers(operators: Sequence[Operator]) -> Iterator[Change]:
    for each in operators:
        if not each.has_weights or each.name == "native_batch_norm":
            continue
        bias = LAYERS[each.name][1]
        if len(each.args) > bias and each.args[bias] is not None:
            what = f"the bias of {each.layer} is missing"
            yield _change("bias missing", what, [each], _without(bias))
        if each.name == "convolution":
            yield from _kernels(each)


def _without(bias: int) -> Edit:
    return lambda call: call.run(**{f"a{bias}": torch.zeros_like(call.args[bias])})


def _kernels(each: Operator) -> Iterator[Change]:
    kernel = each.args[1]
    if len(kernel) != 4 or kernel[2] * kernel[3] == 1:
        return
    turned: dict[str, Function] = {
        "turned by 180 degrees": lambda w: w.flip(2, 3),
        "mirrored": lambda w: w.flip(3),
        "upside down": lambda w: w.flip(2),
    }
    if kernel[2] == kernel[3]:
        turned["transposed, H for W"] = lambda w: w.transpose(2, 3)
    if kernel[0] == kernel[1]:
        turned["with input and output channels exchanged"] = lambda w: w.transpose(0, 1)
    for words, function in turned.items():
        what = f"the kernels of {each.layer} are {words}"
        yield _change("kernels turned", what, [each], _other_weight(function))
    # Frameworks place asymmetric padding on different sides.
    if any(step > 1 for step in each.args[3]) and any(each.args[4]):
        what = (
            f"the padding of {each.layer} is only at the bottom and right, not at the top and left"
        )
        yield _change("other padding", what, [each], _padded_after)


def _other_weight(function: Function) -> Edit:
    return lambda call: call.run(a1=function(call.args[1]).contiguous())


def _padded_after(call: Call) -> Any:
    pad = call.args[4]
    fed = F.pad(call.args[0], (0, 2 * pad[-1], 0, 2 * pad[0]))
    return call.run(a0=fed[..., : fed.shape[-2], : fed.shape[-1]], a4=[0] * len(pad))


def _normalisations(operators: Sequence[Operator]) -> Iterator[Change]:
    norms = [each for each in operators if each.name == "native_batch_norm"]
    groups = ([norms] if norms else []) + ([[each] for each in norms] if len(norms) > 1 else [])
    for group in groups:
        where = _where(group).replace("after", "of", 1)
        what = f"the batch normalisation {where} uses the statistics of the batch"
        yield _change("depends on the batch", what, group, _training)
        for eps in (1e-3, 1e-5, 1e-6):
            if eps != group[0].args[7]:
                what = f"the batch normalisation {where} has an epsilon of {eps:g}"
                yield _change("other epsilon", what, group, _epsilon(7, eps))
    for each in operators:
        if each.name == "native_batch_norm":
            what = f"the batch normalisation {each.layer} is missing"
            yield _change("normalisation layer missing", what, [each], _first_as_is)
    layers = [each for each in operators if each.name == "native_layer_norm"]
    for eps in (1e-3, 1e-5, 1e-6, 1e-12):
        if layers and eps != layers[0].args[4]:
            what = f"the layer normalisation has an epsilon of {eps:g}"
            yield _change("other epsilon", what, layers, _epsilon(4, eps))


def _training(call: Call) -> Any:
    # Clones, because running statistics are changed in place.
    return call.run(a3=call.args[3].clone(), a4=call.args[4].clone(), a5=True, a6=0.0)


def _epsilon(at: int, value: float) -> Edit:
    return lambda call: call.run(**{f"a{at}": value})


def _first_as_is(call: Call) -> Any:
    empty = call.args[0].new_empty(0)
    return call.args[0].clone(), empty, empty


def _resizes(operators: Sequence[Operator]) -> Iterator[Change]:
    for each in operators:
        if each.name == "upsample_bilinear2d":
            what = f"the resize after {each.layer} has align_corners {not each.args[2]}"
            yield _change("other resize", what, [each], lambda call: call.run(a2=not call.args[2]))


def rounded_results(operators: Sequence[Operator]) -> Iterator[Change]:
    """Return changes that round the results of activations or of layers to a narrower format."""
    results = [each for each in operators if each.activation] or [
        each for each in operators if each.has_weights
    ]
    layers = [each for each in operators if each.has_weights or each.activation]
    groups = [layers, *([each] for each in results)]
    for dtype, word in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        for group in groups:
            where = "of all layers" if group is layers else _where(group)
            what = f"activations {where} are rounded to {word}"
            edit = _after(lambda x, d=dtype: x.to(d).to(x.dtype))  # type: ignore[misc]
            yield _change(f"activations rounded to {word}", what, group, edit)


def products(operators: Sequence[Operator], rounding: Function) -> Mapping[int, Edit]:
    """Return edits that round both operands of each convolution and matrix product."""

    def edit(call: Call, first: int, second: int) -> Any:
        given = {first: rounding(call.args[first]), second: rounding(call.args[second])}
        return call.run(**{f"a{at}": value for at, value in given.items()})

    operands = {
        "convolution": (0, 1),
        "addmm": (1, 2),
        "linear": (0, 1),
        "mm": (0, 1),
        "bmm": (0, 1),
    }
    return {
        each.index: partial(edit, first=operands[each.name][0], second=operands[each.name][1])
        for each in operators
        if each.name in operands
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Changes of one operator that differ by a number, and the number that changes nothing."""

    kind: str
    what: str
    action: str
    index: int
    edit: Callable[[float], Edit]
    layer: str


def factors(operators: Sequence[Operator]) -> Iterator[Family]:
    """Return changes that multiply the output of a layer, or its weights alone, by a factor."""
    for each in operators:
        if each.has_weights or each.activation:
            yield Family(
                kind="scaled layer",
                what="the whole output of "
                f"{each.layer}{' after its ' + each.activation if each.activation else ''}, "
                f"or the weights of the layer after it, is multiplied by {{0}}",
                action=f"Check the weights and the scales of {each.layer} and of the layer "
                "after it, and look for a factor between them (dropout's 1/(1-p)).",
                index=each.index,
                edit=lambda by: _after(lambda x: x * by),
                layer=each.layer,
            )
        if each.has_weights:
            weight = LAYERS[each.name][0]
            yield Family(
                kind="scaled weights",
                what=f"the weights of {each.layer}, not its bias, are multiplied by {{0}}",
                action=f"Check the weights and the scales of {each.layer}.",
                index=each.index,
                edit=lambda by, at=weight: lambda call: call.run(**{f"a{at}": call.args[at] * by}),  # type: ignore[misc]
                layer=each.layer,
            )


def ceilings(operators: Sequence[Operator]) -> Iterator[Family]:
    """Return changes that limit the output of an operator to a largest value."""
    for each in operators:
        if each.activation:
            yield Family(
                kind="saturation",
                what=f"activations after {each.layer} saturate: values above {{0}} are cut off",
                action=f"Check the range, or the scale, of the activations after {each.layer}: "
                "it must hold the largest values of the calibration images.",
                index=each.index,
                edit=lambda limit: _after(lambda x: x.clamp(max=limit)),
                layer=each.layer,
            )
