"""Preprocessing as a part of the exported graph: uint8 images in, logits out.

In: a checkpoint's model and its input spec. Out: the module that exporters write, with an example
of its input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.checkpoints.model import example_input, exportable
from toolkit.errors import SettingError
from toolkit.schema import Checkpoint, InputSpec

PIXEL_CONSTANTS = ("pixel_mean", "pixel_std")
"""The names of mean and std in the module, and in artifacts that keep names."""


class WithPreprocessing(nn.Module):
    """A model behind the scaling, the colour order and the normalisation of its input spec.

    The operations and their order are those of `toolkit.data.preprocessing.normalise`, so in eager
    PyTorch on a CPU, the model gets the same bits. Images are RGB, whatever the model expects.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        per_channel = (-1, *(1,) * (len(spec.shape) - 1))
        self.model = model
        self.swaps_colours = spec.colours == "BGR"
        for name, values in zip(PIXEL_CONSTANTS, (spec.mean, spec.std), strict=True):
            constant = torch.tensor(values, dtype=torch.float32).reshape(per_channel)
            self.register_buffer(name, constant)

    def forward(self, input: Tensor) -> Tensor:
        """Uint8 `[N,C,H,W]`, resized and cropped, in RGB → logits `[N,K]`."""
        pixels = input.to(torch.float32) / 255
        if self.swaps_colours:  # every converter knows these operators, unlike flip
            pixels = torch.cat([pixels[:, 2:3], pixels[:, 1:2], pixels[:, 0:1]], 1)
        logits: Tensor = self.model((pixels - self.pixel_mean) / self.pixel_std)
        return logits


def exported_model(model: nn.Module, spec: InputSpec, *, embed: bool) -> tuple[nn.Module, Tensor]:
    """Return the model for exporters, in eval mode, and an example batch of two.

    With `embed`, its input is uint8 and the preprocessing of `spec` is part of it. A model that
    changes its input in place then changes a value inside the graph.
    """
    if not embed:
        example = example_input(spec.shape, batch_size=2)
        return exportable(model, example), example
    return WithPreprocessing(model, spec).eval(), example_images(spec.shape, batch_size=2)


def example_images(shape: tuple[int, ...], *, batch_size: int) -> Tensor:
    """Return uint8 `[N,C,H,W]` noise from a fixed seed, for tracing."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch_size, *shape), dtype=torch.uint8, generator=generator)


def refuse_float_samples(record: Checkpoint) -> None:
    """Raise SettingError if the samples of the checkpoint's model are not images of bytes."""
    if record.input.dtype != "uint8":
        raise SettingError(
            f"--embed-preprocessing: the samples of checkpoint {record.name} are "
            f"{record.input.dtype}, which nothing scales, expected uint8 images; remove "
            "--embed-preprocessing"
        )
