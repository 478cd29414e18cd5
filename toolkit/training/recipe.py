"""Recipes, and the options of one training; pure functions.

In: the user's options, and those of an interrupted training. Out: `TrainingOptions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from toolkit.errors import OutputError, SettingError, UnknownNameError
from toolkit.schema import Device
from toolkit.settings import check_batch_size, check_positive, check_seed

Options = dict[str, int | float | str | bool]
_MOST_EPOCHS = 100_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. The model is the same in all recipes.

    Attributes:
        epochs: Passes over the training set; with a fraction, the last pass ends early.
        batch_size: Images per step.
        lr: Adam's learning rate; with `one_cycle`, its peak.
        one_cycle: The learning rate rises, then falls to zero; otherwise it is constant.
        one_by_one: Images are decoded, converted and normalised one at a time, as in a typical
            script; otherwise in batches, on the device.
        workers: With `one_by_one`, worker processes prepare the images in pinned memory, one per
            core, as is usually advised; otherwise the training process does.
        label_smoothing: Share of each label that is spread over all classes in the loss.
        hardest_last: An epoch that ends early uses the images with the largest loss.
        tuned: Optimise memory format, precision, optimizer and dropout masks for speed; on CUDA,
            record a graph.
    """

    epochs: float
    batch_size: int
    lr: float
    one_cycle: bool
    one_by_one: bool
    workers: bool
    label_smoothing: float
    hardest_last: bool
    tuned: bool


_PLAIN = Recipe(
    epochs=3,
    batch_size=100,
    lr=0.001,
    one_cycle=False,
    one_by_one=True,
    workers=False,
    label_smoothing=0.0,
    hardest_last=False,
    tuned=False,
)
RECIPES: Mapping[str, Recipe] = {
    "fast": Recipe(
        epochs=1.4,
        batch_size=100,
        lr=0.003,
        one_cycle=True,
        one_by_one=False,
        workers=False,
        label_smoothing=0.05,
        hardest_last=True,
        tuned=True,
    ),
    "plain": _PLAIN,
    "plain-workers": replace(_PLAIN, workers=True),
}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Everything that determines the weights, except the data and the machine.

    `limit` is the number of images to train on; 0 means all. `processes` train together.
    """

    recipe: str
    epochs: float
    batch_size: int
    lr: float
    seed: int
    augment: bool
    device: Device
    threads: int
    processes: int
    limit: int

    def __post_init__(self) -> None:
        check_positive("--epochs", self.epochs, most=_MOST_EPOCHS)
        check_batch_size(self.batch_size)
        check_positive("--lr", self.lr, most=math.inf)
        check_seed(self.seed)
        if self.batch_size % self.processes:
            fitting = math.ceil(self.batch_size / self.processes) * self.processes
            raise SettingError(
                f"--batch-size {self.batch_size}: {self.processes} processes cannot share it "
                f"evenly; try --batch-size {fitting}"
            )

    def record(self) -> Options:
        """Return the options for the record of a checkpoint; a limit only if there is one."""
        return {name: value for name, value in asdict(self).items() if name != "limit" or value}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UnknownNameError: There is none; the message lists the known ones.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, list(RECIPES))
    return RECIPES[name]


def choose_options(
    given: Mapping[str, Any], machine: Mapping[str, Any], before: Options | None
) -> TrainingOptions:
    """Return each option as given (None: not given), or else as in the earlier training, or else
    the default of the recipe or the machine.

    Raises:
        SettingError: A value is out of range.
        OutputError: The earlier training had another value than the given one, or its options are
            unknown.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if before is None:
        name = asked.get("recipe", "fast")
        recipe = find_recipe(name)
        own = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "lr": recipe.lr}
        rest = {"recipe": name, "seed": 1, "augment": False, "limit": 0}
        return TrainingOptions(**{**own, **rest, **machine, **asked})
    unknown = {each.name for each in fields(TrainingOptions)} - {"limit", *before}
    if unknown:
        raise OutputError(
            "--resume: the checkpoint was trained without "
            f"{', '.join(map(_flag, sorted(unknown)))}; choose another folder with --out, or "
            "replace it with --force instead of --resume"
        )
    other = [
        f"{_flag(name)} {value} (it had {before.get(name, 0)})"
        for name, value in asked.items()
        if value != before.get(name, 0)
    ]
    if other:
        raise OutputError(
            "--resume continues with the original options of the training, but you gave "
            f"{', '.join(other)}; leave them out, or start again with --force instead of "
            "--resume"
        )
    return TrainingOptions(**{"limit": 0, **before})  # type: ignore[arg-type]


def learning_rate(step: int, steps: int, options: TrainingOptions) -> float:
    """Return the learning rate of step `step`, from 0, of `steps`.

    One-cycle: linearly from a tenth of the peak to the peak within the first fifth, then linearly
    down to almost zero. Source: Smith and Topin 2019, https://arxiv.org/abs/1708.07120
    """
    if not find_recipe(options.recipe).one_cycle:
        return options.lr
    rising = max(1.0, 0.2 * steps)
    rise = 0.1 + 0.9 * step / rising
    fall = (steps - step) / max(1.0, steps - rising)
    return options.lr * min(rise, fall, 1.0)


def _flag(name: str) -> str:
    return "--nproc-per-node" if name == "processes" else "--" + name.replace("_", "-")
