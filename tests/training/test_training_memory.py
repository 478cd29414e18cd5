"""Out of memory: the error names a batch size that fits."""

from __future__ import annotations

import weakref

import pytest
import torch

from toolkit.errors import SettingError
from toolkit.training.memory import explained


class Held:
    """The intermediate results of a step."""


@pytest.mark.parametrize(
    ("room", "advice"),
    [
        (300, "with 1000 images; --batch-size 250 fits"),
        (1, "--batch-size 1 fits"),
        (0, "not even a single image fits"),
    ],
)
def test_smaller_batch_sizes_are_tried_by_halving(room: int, advice: str) -> None:
    def step(images: int) -> None:
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    with pytest.raises(SettingError, match=advice), explained(1000, step):
        step(1000)


def test_failed_step_frees_its_memory_before_retries() -> None:
    held: list[weakref.ref[Held]] = []

    def step(images: int) -> None:
        assert all(each() is None for each in held), "the step before still holds its memory"
        activations = Held()
        held.append(weakref.ref(activations))
        if images > 200:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    with pytest.raises(SettingError, match="--batch-size 125 fits"), explained(1000, step):
        step(1000)
    assert len(held) == 4


def test_no_smaller_batch_is_tried_with_several_processes() -> None:
    with pytest.raises(SettingError, match="try a smaller --batch-size"), explained(8, None):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")


def test_success_and_other_errors_pass_through() -> None:
    with explained(10, lambda images: pytest.fail("must not try")):
        pass
    with pytest.raises(ValueError, match="else"), explained(10, print):
        raise ValueError("something else")
