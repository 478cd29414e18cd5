"""Small classifiers of many kinds, trained for a second on seeded images, and their beds.

They represent users' own models, and have only their interface in common: `[N,3,16,16]` → logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.schema import ModelSpec

from .beds import Bed, own_bed

SIDE = 16
TEST_IMAGES = 300
_TRAIN_IMAGES = 200
_STEPS = 40


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        total: Tensor = x + self.inner(x)
        return total


class Attention(nn.Module):
    """Self-attention with one head over `[N,T,D]`; `scale` and `axis` can be changed to plant
    faults."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.scale = width**-0.5
        self.axis = -1

    def forward(self, x: Tensor) -> Tensor:
        """`[N,T,D]` → `[N,T,D]`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        given: Tensor = self.out((q @ k.transpose(1, 2) * self.scale).softmax(self.axis) @ v)
        return given


class Patches(nn.Module):
    """Images → `[N,16,D]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """`[N,3,16,16]` → `[N,16,D]`."""
        patches: Tensor = self.patch(x).flatten(2).transpose(1, 2)
        return patches


class Mean(nn.Module):
    """The mean over one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Without the axis."""
        return x.mean(self.axis)


class Standardised(nn.Module):
    """Each image with mean 0 and standard deviation 1."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N,C,H,W]` → the same shape."""
        flat = x.flatten(1)
        return ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)).view_as(x)


class InPlace(nn.Module):
    """Changes its own argument."""

    def forward(self, x: Tensor) -> Tensor:
        """The same tensor."""
        return x.sub_(0.1).div_(0.8)


class Upsampled(nn.Module):
    """Twice as large, bilinear; `corners` can be changed to plant faults."""

    corners = False

    def forward(self, x: Tensor) -> Tensor:
        """`[N,C,H,W]` → `[N,C,2H,2W]`."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.corners)


def _body(kind: str) -> list[nn.Module]:
    """Return the layers up to the head, which give `[N,64]`."""
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    stem = [nn.Conv2d(3, 16, 3, 2, padding=1), nn.ReLU()]
    wide = [nn.Conv2d(16, 64, 3, 2, padding=1), nn.ReLU()]
    plain = [*stem, *wide, *pooled]
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    bodies: dict[str, list[nn.Module]] = {
        "plain": plain,
        "batchnorm": [
            nn.Conv2d(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 64, 3, 2, bias=False), nn.BatchNorm2d(64), nn.ReLU(), *pooled,
        ],
        "residual": [
            *stem, Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())),
            *wide, *pooled,
        ],
        "depthwise": [*stem, depthwise, nn.Conv2d(16, 64, 1), nn.ReLU(), *pooled],
        "attention": [
            Patches(64), Residual(nn.Sequential(nn.LayerNorm(64), Attention(64))),
            Residual(nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU())), Mean(1),
        ],
        "mlp": [nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 64), nn.ReLU()],
        "hardswish": [
            nn.Conv2d(3, 16, 3, 2), nn.Hardswish(), nn.Conv2d(16, 64, 3, 2), nn.SiLU(), *pooled
        ],
        "groupnorm": [*stem, nn.GroupNorm(4, 16), *wide, *pooled],
        "avgpool": [*stem, nn.AvgPool2d(3, 2, padding=1), nn.Conv2d(16, 64, 1), nn.ReLU(), *pooled],
        "upsampled": [*stem, Upsampled(), nn.Conv2d(16, 64, 3, 2), nn.ReLU(), *pooled],
        "standardised": [Standardised(), *plain],
        "in place": [InPlace(), *plain],
    }  # fmt: skip
    return bodies[kind]


class Net(nn.Module):
    """A body of some kind and a linear head, whose logits may be scaled, moved and masked.

    Scale, offset and mask apply in eval mode only, so that the training is the same.
    """

    def __init__(
        self,
        kind: str = "plain",
        classes: int = 10,
        scale: float = 1.0,
        offset: float = 0.0,
        masked: str = "",
        tie: float = -1.0,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(*_body(kind))
        self.head = nn.Linear(64, classes)
        self.scale, self.offset, self.tie = scale, offset, tie
        self.masked = float(masked or 0)
        last = torch.zeros(classes, dtype=torch.bool)
        last[-2:] = True
        self.last: Tensor
        self.register_buffer("last", last)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[N,3,16,16]` → logits `[N,K]`."""
        logits: Tensor = self.head(self.body(x))
        if self.training:
            return logits
        if self.tie >= 0:  # the last class repeats the first one, except for this difference
            logits = torch.cat([logits[:, :-1], logits[:, :1] + self.tie], 1)
        if self.scale != 1:
            logits = logits * self.scale
        if self.offset:
            logits = logits + self.offset
        return logits.masked_fill(self.last, self.masked) if self.masked else logits


class Constant(Net):
    """Predicts class 0 for every image."""

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[N,3,16,16]` → logits `[N,K]`."""
        logits = super().forward(x)
        return logits if self.training else logits + 1000 * F.one_hot(torch.tensor(0), 10)


class Narrow(nn.Module):
    """Few channels, averaged over many positions: the mean of a blank image is a sum of equal
    terms."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 `[N,3,H,W]` → logits `[N,K]`."""
        logits: Tensor = self.head(F.relu(self.conv(x)).mean((2, 3)))
        return logits


class AlwaysDropout(Net):
    """Dropout that eval mode does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        """Random logits."""
        logits: Tensor = self.head(F.dropout(self.body(x), 0.4, training=True))
        return logits


class BatchStatistics(Net):
    """Normalises by the statistics of the current batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits that depend on the batch."""
        features = self.body(x)
        logits: Tensor = self.head(F.batch_norm(features, None, None, training=True))
        return logits


class MinusMean(Net):
    """Each image without the mean of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits that depend on the batch."""
        return super().forward(x - 0.3 * x.mean(0, keepdim=True))


class Noisy(Net):
    """Adds a little noise to the logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Random logits."""
        logits = super().forward(x)
        return logits + 0.01 * torch.randn_like(logits)


class Ordered(Net):
    """Each image gets a part of the previous one."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits that depend on the order."""
        logits = super().forward(x)
        return logits + 0.05 * logits.roll(1, 0)


class NotFinite(Net):
    """Divides by zero on dark images."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits with NaN."""
        logits = super().forward(x)
        if self.training:
            return logits
        return logits / (x.flatten(1).mean(1, keepdim=True) > 0.0).float()


def images(count: int, classes: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return seeded images `[N,3,16,16]` of some classes, and labels; some are hard."""
    random = np.random.default_rng(seed)
    patterns = np.random.default_rng(7).integers(0, 256, (classes, 3, SIDE, SIDE))
    labels = np.arange(count) % classes
    random.shuffle(labels)
    noise = random.integers(0, 256, (count, 3, SIDE, SIDE))
    return (0.25 * patterns[labels] + 0.75 * noise).astype(np.uint8), labels


def fit(model: nn.Module, classes: int, seed: int) -> nn.Module:
    """Train briefly, so that predictions are meaningful."""
    pixels, labels = images(_TRAIN_IMAGES, classes, 1)
    x, y = (torch.from_numpy(pixels).float() / 255 - 0.5) / 0.25, torch.from_numpy(labels)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(_STEPS):
        rows = torch.randperm(len(x), generator=generator)[:64]
        optimiser.zero_grad()
        F.cross_entropy(model(x[rows].clone()), y[rows]).backward()
        optimiser.step()
    return model.eval()


def net_bed(
    name: str,
    factory: str = "Net",
    *,
    seed: int = 0,
    classes: int = 10,
    dark: bool = False,
    enlarged: int = 1,
    **arguments: int | float | str | bool,
) -> Callable[[Path], Bed]:
    """Return a bed of one of the factories here; `dark` makes two test images all black, or
    nearly. An untrained model gets images that are `enlarged`."""

    def make(folder: Path) -> Bed:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        given = {"classes": classes, **arguments}
        labelled = min(classes, 100)
        try:
            model = globals()[factory](**given).eval()
            if enlarged == 1:
                fit(model, labelled, seed)
        finally:
            torch.set_num_threads(threads)
        test, labels = images(TEST_IMAGES, labelled, 2)
        if dark:
            test[0], test[1] = 0, 0
            test[1, 0, 3, 3] = 1
        return own_bed(
            name,
            folder,
            model,
            ModelSpec(factory=f"{__name__}:{factory}", arguments=given),
            images=(test.repeat(enlarged, 2).repeat(enlarged, 3), labels),
            train=images(_TRAIN_IMAGES, labelled, 1),
            classes=classes,
        )

    return make


KINDS = (
    *("plain", "batchnorm", "residual", "depthwise", "attention", "mlp", "hardswish"),
    *("groupnorm", "avgpool", "upsampled"),
)
SEEDS = range(1, 7)
CLASSES = (2, 3, 100, 1000)
SCALES = (1e-30, 1e-20, 1e-10, 1e-3, 1e3, 1e10, 1e20, 1e30)
OFFSETS = (1e3, 1e5, -1e5)
DROWNED = "logits drowned by an offset of 1e7"
TIES = (0.0, 1e-7, 1e-6, 1e-4)
NO_REFERENCES = {
    "dropout with training=True": "AlwaysDropout",
    "statistics of the batch": "BatchStatistics",
    "minus the mean of the batch": "MinusMean",
    "noise on the logits": "Noisy",
    "some of the image before": "Ordered",
    "NaN on dark images": "NotFinite",
}


@cache
def own_beds() -> dict[str, Callable[[Path], Bed]]:
    """Return all beds except those of the reference checkpoint."""
    beds = {kind: net_bed(kind, kind=kind) for kind in KINDS}
    beds |= {f"seed {each}": net_bed(f"seed {each}", seed=each) for each in SEEDS}
    beds |= {f"{each} classes": net_bed(f"{each} classes", classes=each) for each in CLASSES}
    beds |= {f"scale {each:g}": net_bed(f"scale {each:g}", scale=each) for each in SCALES}
    beds |= {f"offset {each:g}": net_bed(f"offset {each:g}", offset=each) for each in OFFSETS}
    beds |= {f"tie {each:g}": net_bed(f"tie {each:g}", tie=each) for each in TIES}
    least = float(torch.finfo(torch.float32).min)
    beds["masked -inf"] = net_bed("masked -inf", masked="-inf")
    beds["masked least"] = net_bed("masked least", masked=str(least))
    beds["constant"] = net_bed("constant", "Constant")
    beds["standardised"] = net_bed("standardised", kind="standardised", dark=True)
    beds["in place"] = net_bed("in place", kind="in place")
    beds["narrow"] = net_bed("narrow", "Narrow", classes=2, enlarged=2)
    beds["wide mean"] = net_bed("wide mean", "Narrow", classes=2, enlarged=8)
    beds[DROWNED] = net_bed("offset 1e7", offset=1e7)
    beds |= {name: net_bed(name, factory) for name, factory in NO_REFERENCES.items()}
    return beds
