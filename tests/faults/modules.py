"""The reference CNN with one change: a fault for every format that it is exported to.

In: the healthy network. Out: a module with the fault, and the kinds of cause that name it. The
change affects weights, a layer, the inputs or the outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor, nn

from toolkit.checkpoints.reference_cnn import ReferenceCNN

Function = Callable[[Tensor], Tensor]
MEAN, STD = 0.1307, 0.3081
_LAYERS = ("conv1", "conv2", "fc1", "fc2")


def same(x: Tensor) -> Tensor:
    """Nothing changed."""
    return x


def pool(x: Tensor) -> Tensor:
    """The healthy pool."""
    return F.max_pool2d(x, 2)


class Altered(nn.Module):
    """The reference CNN with replaced functions."""

    def __init__(
        self,
        net: ReferenceCNN,
        *,
        before: Function = same,
        relus: tuple[Function, Function, Function] = (F.relu, F.relu, F.relu),
        pool: Function = pool,
        flatten: Function = lambda x: x.flatten(1),
        after: Function = same,
    ) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc1, self.fc2 = net.conv1, net.conv2, net.fc1, net.fc2
        self._before, self._relus, self._pool = before, relus, pool
        self._flatten, self._after = flatten, after

    def forward(self, input: Tensor) -> Tensor:
        """Float32 `[N,1,28,28]` → logits `[N,10]`."""
        x = self._relus[0](self.conv1(self._before(input)))
        x = self._relus[1](self.conv2(x))
        x = self._relus[2](self.fc1(self._flatten(self._pool(x))))
        return self._after(self.fc2(x))


Change = Callable[[ReferenceCNN], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A change of the network; `cause` has the kinds of cause that name it."""

    change: Change
    cause: frozenset[str] = frozenset()
    moves: bool = True


def fed(function: Function) -> Change:
    """Other inputs."""
    return lambda net: Altered(net, before=function)


def pixels(function: Function) -> Change:
    """Other inputs, in terms of pixels from 0 to 1."""
    return fed(lambda x: function(x * STD + MEAN))


def answering(function: Function) -> Change:
    """Other logits."""
    return lambda net: Altered(net, after=function)


def weights(function: Callable[[ReferenceCNN], None]) -> Change:
    """Other weights, changed in place."""

    def change(net: ReferenceCNN) -> nn.Module:
        with torch.no_grad():
            function(net)
        return net

    return change


def each_weight(function: Function, *, matrices_only: bool = False) -> Change:
    """A function of each tensor of weights."""

    def change(net: ReferenceCNN) -> None:
        for value in net.parameters():
            if value.ndim > 1 or not matrices_only:
                value.copy_(function(value))

    return weights(change)


def one_weight(layer: str, factor: float) -> Change:
    """The largest weight of a layer, multiplied."""

    def change(net: ReferenceCNN) -> None:
        values = net.get_parameter(f"{layer}.weight").view(-1)
        values[values.abs().argmax()] *= factor

    return weights(change)


def scaled_layer(layer: str, factor: float) -> Change:
    """Multiply the whole output of a layer."""

    def change(net: ReferenceCNN) -> None:
        for value in net.get_submodule(layer).parameters():
            value.mul_(factor)

    return weights(change)


def no_bias(layer: str) -> Change:
    """A layer without its bias."""

    def change(net: ReferenceCNN) -> None:
        net.get_parameter(f"{layer}.bias").zero_()

    return weights(change)


def conv1_kernels(function: Function) -> Change:
    """Another function of the first kernels."""

    def change(net: ReferenceCNN) -> None:
        net.conv1.weight.copy_(function(net.conv1.weight))

    return weights(change)


def swapped(layer: str, axis: int) -> Change:
    """Two channels of a layer's weights, exchanged."""

    def change(net: ReferenceCNN) -> None:
        weight = net.get_parameter(f"{layer}.weight")
        order = torch.arange(weight.shape[axis])
        order[:2] = torch.tensor([1, 0])
        weight.copy_(weight.index_select(axis, order))

    return weights(change)


def rounded(dtype: torch.dtype) -> Change:
    """Weights rounded to another type."""
    return each_weight(lambda value: value.to(dtype).float())


def to_steps(bits: int) -> Change:
    """Round matrices to a number of bits, with one scale per tensor."""

    def function(value: Tensor) -> Tensor:
        scale = value.abs().max() / (2 ** (bits - 1) - 1)
        stepped: Tensor = (value / scale).round() * scale
        return stepped

    return each_weight(function, matrices_only=True)


def noisy(share: float) -> Change:
    """Change all weights by up to a share."""

    def function(value: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(value.numel())
        return value * (1 + share * (2 * torch.rand(value.shape, generator=generator) - 1))

    return each_weight(function)


def pruned(share: float) -> Change:
    """The smallest weights of fc1 set to zero."""

    def change(net: ReferenceCNN) -> None:
        values = net.fc1.weight
        values[values.abs() < values.abs().flatten().kthvalue(int(share * values.numel()))[0]] = 0

    return weights(change)


def relus(number: int, function: Function) -> Change:
    """Replace one of the three ReLUs by another function."""

    def change(net: ReferenceCNN) -> nn.Module:
        functions: list[Function] = [F.relu, F.relu, F.relu]
        functions[number] = function
        return Altered(net, relus=(functions[0], functions[1], functions[2]))

    return change


def tf32(value: Tensor) -> Tensor:
    """Rounded to the 10 bits of TF32's mantissa."""
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def one_hot(x: Tensor) -> Tensor:
    """1 for the largest logit, 0 for the others."""
    return F.one_hot(x.argmax(1), 10).float()


def exchanged(x: Tensor) -> Tensor:
    """Classes 3 and 5, exchanged."""
    return x[:, torch.tensor([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])]


def of_the_image_before(x: Tensor) -> Tensor:
    """Give the first image's answer to the second one."""
    return torch.cat([x[-1:], x[:-1]])


def blank_is_wrong(input: Tensor) -> Tensor:
    """Return another image if all pixels are equal."""
    flat = input.flatten(1)
    blank = (flat.amax(1) == flat.amin(1)).view(-1, 1, 1, 1)
    return torch.where(blank, input + 1.0, input)


def on(class_number: int, amount: float) -> Function:
    """Add something to one class."""
    one = torch.zeros(10)
    one[class_number] = amount
    return lambda x: x + one


def _words(*kinds: str) -> frozenset[str]:
    return frozenset(kinds)


_ONE = _words("few weights changed")


def _layer_faults() -> dict[str, Changed]:
    found = {}
    for layer in _LAYERS:
        found[f"weight {layer} +1 %"] = Changed(change=one_weight(layer, 1.01), cause=_ONE)
        found[f"weight {layer} +10 %"] = Changed(change=one_weight(layer, 1.1), cause=_ONE)
        found[f"weight {layer} sign"] = Changed(change=one_weight(layer, -1), cause=_ONE)
        found[f"layer {layer} scaled 2 %"] = Changed(
            change=scaled_layer(layer, 1.02),
            cause=_words("scaled layer", *(["scale"] if layer == "fc2" else [])),
        )
        found[f"bias {layer} dropped"] = Changed(
            change=no_bias(layer),
            cause=_words("bias missing", *(["bias of classes"] if layer == "fc2" else [])),
        )
    return found


_WEIGHTS = {
    **_layer_faults(),
    "channels 0,1 swapped conv1": Changed(
        change=swapped("conv1", 0), cause=_words("channels swapped")
    ),
    "input channels 0,1 swapped conv2": Changed(
        change=swapped("conv2", 1), cause=_words("channels swapped")
    ),
    "conv1 kernels turned by 180 degrees": Changed(
        change=conv1_kernels(lambda value: value.flip(2, 3)), cause=_words("kernels turned")
    ),
    "all weights +- 0.01 %": Changed(change=noisy(1e-4), cause=_words("weights noisy")),
    "all weights +- 0.10 %": Changed(change=noisy(1e-3), cause=_words("weights noisy")),
    "all weights +- 1.00 %": Changed(change=noisy(1e-2), cause=_words("weights noisy")),
    "30 % of fc1 pruned": Changed(change=pruned(0.3), cause=_words("weights pruned")),
    "weights rounded to fp16 in an fp32 file": Changed(
        change=rounded(torch.float16), cause=_words("weights rounded to fp16")
    ),
    "weights rounded to bf16 in an fp32 file": Changed(
        change=rounded(torch.bfloat16), cause=_words("weights rounded to bf16")
    ),
    "weights rounded to TF32 in an fp32 file": Changed(
        change=each_weight(tf32), cause=_words("weights rounded to TF32", "weights rounded to fp16")
    ),
    "weights rounded to 8 bits in an fp32 file": Changed(
        change=to_steps(8), cause=_words("weights rounded to 8 bits")
    ),
    "weights rounded to 4 bits in an fp32 file": Changed(
        change=to_steps(4), cause=_words("weights rounded to 4 bits")
    ),
    "conv1 weights in float8": Changed(
        change=conv1_kernels(lambda value: value.to(torch.float8_e4m3fn).float()),
        cause=_words("weights rounded to 8 bits", "weights noisy"),
    ),
}

_LAYER_ORDER = {
    "fc1 fed NHWC": Changed(
        change=lambda net: Altered(net, flatten=lambda x: x.permute(0, 2, 3, 1).flatten(1)),
        cause=_words("layout of features"),
    ),
    "fc1 fed H/W swapped": Changed(
        change=lambda net: Altered(net, flatten=lambda x: x.transpose(2, 3).flatten(1)),
        cause=_words("layout of features"),
    ),
    "relu before conv1": Changed(change=fed(F.relu), cause=_words("inputs cut off")),
    "padding: shifted by 1 pixel": Changed(
        change=fed(lambda x: x.roll((1, 1), (2, 3))), cause=_words("shifted by a pixel")
    ),
    "stride 2 for pool": Changed(
        change=lambda net: Altered(net, pool=lambda x: x[..., ::2, ::2]),
        cause=_words("other pooling"),
    ),
    "avg pool": Changed(
        change=lambda net: Altered(net, pool=lambda x: F.avg_pool2d(x, 2)),
        cause=_words("other pooling"),
    ),
    "pool 3x3/2": Changed(
        change=lambda net: Altered(net, pool=lambda x: F.max_pool2d(x, 3, 2, padding=1)),
        cause=_words("other pooling"),
    ),
    "relu missing after conv1": Changed(change=relus(0, same), cause=_words("activation missing")),
    "relu missing after conv2": Changed(change=relus(1, same), cause=_words("activation missing")),
    "relu missing after fc1": Changed(change=relus(2, same), cause=_words("activation missing")),
    "leaky relu": Changed(
        change=relus(0, lambda x: F.leaky_relu(x, 0.01)), cause=_words("other activation")
    ),
    "elu for last relu": Changed(change=relus(2, F.elu), cause=_words("other activation")),
    "relu6 for relu": Changed(change=relus(1, F.relu6), cause=_words("other activation")),
    "gelu for last relu": Changed(change=relus(2, F.gelu), cause=_words("other activation")),
    "softplus for last relu": Changed(
        change=relus(2, F.softplus), cause=_words("other activation")
    ),
    "dropout active p=0.5": Changed(
        change=lambda net: Altered(
            net, relus=(F.relu, F.relu, lambda x: F.dropout(F.relu(x), 0.5, training=True))
        ),
        cause=_words("random"),
    ),
    "dropout active p=0.01": Changed(
        change=lambda net: Altered(
            net, relus=(F.relu, F.relu, lambda x: F.dropout(F.relu(x), 0.01, training=True))
        ),
        cause=_words("random"),
    ),
    "dropout scale kept (x 1/(1-p))": Changed(
        change=lambda net: Altered(net, relus=(F.relu, F.relu, lambda x: F.relu(x) / 0.5)),
        cause=_words("scaled layer"),
    ),
    "activations rounded to fp16 and back": Changed(
        change=relus(1, lambda x: F.relu(x).half().float()),
        cause=_words("activations rounded to fp16"),
    ),
    "activations rounded to bf16 and back": Changed(
        change=relus(1, lambda x: F.relu(x).bfloat16().float()),
        cause=_words("activations rounded to bf16"),
    ),
    "fp16 overflow inside": Changed(
        change=relus(1, lambda x: (F.relu(x) * 30000).half().float() / 30000),
        cause=_words("not finite"),
    ),
}

_INPUT = {
    "normalised twice": Changed(
        change=fed(lambda x: (x - MEAN) / STD), cause=_words("normalised twice")
    ),
    "normalisation missing": Changed(change=pixels(same), cause=_words("not normalised")),
    "mean/std 0.5": Changed(
        change=pixels(lambda p: (p - 0.5) / 0.5), cause=_words("other normalisation")
    ),
    "mean/std ImageNet": Changed(
        change=pixels(lambda p: (p - 0.485) / 0.229), cause=_words("other normalisation")
    ),
    "mean/std rounded to .13/.31": Changed(
        change=pixels(lambda p: (p - 0.13) / 0.31), cause=_words("other normalisation")
    ),
    "0..255 for 0..1": Changed(
        change=pixels(lambda p: (p * 255 - MEAN) / STD), cause=_words("0..255 for 0..1")
    ),
    "1/256 for 1/255": Changed(
        change=pixels(lambda p: (p * (255 / 256) - MEAN) / STD),
        cause=_words("other normalisation", "1/256 for 1/255"),
    ),
    "inverted": Changed(change=pixels(lambda p: (1 - p - MEAN) / STD), cause=_words("inverted")),
    "H/W swapped": Changed(
        change=fed(lambda x: x.transpose(2, 3)), cause=_words("H and W swapped")
    ),
    "turned upside down": Changed(change=fed(lambda x: x.flip(2)), cause=_words("flipped")),
    "mirrored": Changed(change=fed(lambda x: x.flip(3)), cause=_words("flipped")),
    "turned by 90 degrees": Changed(
        change=fed(lambda x: x.rot90(1, (2, 3))), cause=_words("turned")
    ),
    "pixels rounded to 4 bits": Changed(
        change=pixels(lambda p: ((p * 15).round() / 15 - MEAN) / STD),
        cause=_words("pixels rounded"),
    ),
    "bright pixels cut off": Changed(
        change=fed(lambda x: x.clamp(max=2.0)), cause=_words("inputs cut off")
    ),
    "blank image wrong": Changed(change=fed(blank_is_wrong), cause=_words("some inputs only")),
    "input rounded to fp16": Changed(
        change=fed(lambda x: x.half().float()), cause=_words("inputs rounded")
    ),
}

_OUTPUT = {
    "softmax output": Changed(change=answering(lambda x: x.softmax(1)), cause=_words("softmax")),
    "log-softmax output": Changed(
        change=answering(lambda x: x.log_softmax(1)), cause=_words("log-softmax")
    ),
    "sigmoid output": Changed(change=answering(torch.sigmoid), cause=_words("sigmoid")),
    "tanh output": Changed(change=answering(torch.tanh), cause=_words("tanh")),
    "logits / 10 (temperature)": Changed(change=answering(lambda x: x / 10), cause=_words("scale")),
    "logits + 1": Changed(change=answering(lambda x: x + 1), cause=_words("offset")),
    "logits of the other sign": Changed(change=answering(lambda x: -x), cause=_words("scale")),
    "one-hot output": Changed(change=answering(one_hot), cause=_words("one-hot")),
    "logits cut off at 10": Changed(
        change=answering(lambda x: x.clamp(-10, 10)), cause=_words("cut off")
    ),
    "logits rounded to fp16": Changed(
        change=answering(lambda x: x.half().float()), cause=_words("float16 output")
    ),
    "logits rounded to whole numbers": Changed(
        change=answering(torch.round), cause=_words("output in steps")
    ),
    "negative logits set to 0": Changed(change=answering(F.relu), cause=_words("cut off")),
    "class 7 + 0.5": Changed(change=answering(on(7, 0.5)), cause=_words("one class")),
    "classes 3,5 swapped": Changed(change=answering(exchanged), cause=_words("classes permuted")),
    "classes shifted": Changed(
        change=answering(lambda x: x.roll(1, 1)), cause=_words("classes permuted")
    ),
    "classes in reverse order": Changed(
        change=answering(lambda x: x.flip(1)), cause=_words("classes permuted")
    ),
    "answer of i given to i+1": Changed(
        change=answering(of_the_image_before), cause=_words("answers shifted")
    ),
    "minus mean over the batch (10 %)": Changed(
        change=answering(lambda x: x - 0.1 * x.mean(0, keepdim=True)),
        cause=_words("depends on the batch"),
    ),
    "first image of each batch wrong": Changed(
        change=answering(lambda x: torch.cat([x[:1] * 0.9, x[1:]])),
        cause=_words("one batch position"),
    ),
}

# A comparison of graphs names these too, and says where they differ.
_OF_GRAPHS = {
    name: replace(each, cause=each.cause | {"graph changed"})
    for name, each in {**_LAYER_ORDER, **_INPUT, **_OUTPUT}.items()
}
FAULTS: dict[str, Changed] = {**_WEIGHTS, **_OF_GRAPHS}
