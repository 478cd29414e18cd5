"""Memory that does not suffice: the error names what would do."""

from __future__ import annotations

import pytest
import torch

from toolkit.errors import SettingError
from toolkit.training.memory import explained


@pytest.mark.parametrize(
    ("room", "processes", "advice"),
    [
        *((300, 1, "with 1000 images; --batch-size 250 fits"),),
        *((300, 2, "with 2000 images; --batch-size 500 fits"),),
        *((1, 1, "--batch-size 1 fits"), (0, 1, "not even a single one fits")),
    ],
)
def test_half_a_quarter_and_so_on_are_tried(room: int, processes: int, advice: str) -> None:
    def step(images: int) -> None:
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    with pytest.raises(SettingError, match=advice), explained(1000, step, processes=processes):
        step(1000)


def test_enough_memory_and_other_errors_pass() -> None:
    with explained(10, lambda images: pytest.fail("must not try")):
        pass
    with pytest.raises(ValueError, match="else"), explained(10, print):
        raise ValueError("something else")
