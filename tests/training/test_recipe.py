"""Recipes: options come from the right source, and the learning rate follows its schedule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from toolkit.errors import OutputError, SettingError, UnknownNameError
from toolkit.training.recipe import RECIPES, choose_options, learning_rate

MACHINE = {"device": "cpu", "threads": 2, "processes": 1}
NOTHING = dict.fromkeys(["recipe", "epochs", "batch_size", "lr", "seed", "augment", "limit"])


def test_default_options_come_from_recipe_or_machine() -> None:
    fast = choose_options(NOTHING, MACHINE, None)
    assert (fast.recipe, fast.epochs, fast.seed, fast.threads) == (
        *("fast", RECIPES["fast"].epochs),
        *(1, 2),
    )
    plain = choose_options({**NOTHING, "recipe": "plain", "lr": 0.1}, MACHINE, None)
    assert (plain.epochs, plain.batch_size, plain.lr) == (3, 100, 0.1)
    with pytest.raises(UnknownNameError, match="'slow'; known: fast, plain"):
        choose_options({**NOTHING, "recipe": "slow"}, MACHINE, None)


def test_an_interrupted_training_keeps_its_options_and_refuses_others() -> None:
    before = choose_options({**NOTHING, "seed": 7, "epochs": 1.5}, MACHINE, None)
    elsewhere = {**MACHINE, "threads": 64}
    assert choose_options(NOTHING, elsewhere, before.record()) == before
    assert choose_options({**NOTHING, "seed": 7}, elsewhere, before.record()) == before
    with pytest.raises(OutputError, match=r"--lr 0.1 \(it had 0.003\), --seed 8 \(it had 7\)"):
        choose_options({**NOTHING, "lr": 0.1, "seed": 8}, MACHINE, before.record())
    limited = choose_options({**NOTHING, "limit": 50}, MACHINE, None)
    assert choose_options(NOTHING, MACHINE, limited.record()) == limited
    with pytest.raises(OutputError, match=r"--limit 50 \(it had 0\)"):
        choose_options({**NOTHING, "limit": 50}, MACHINE, before.record())


def test_unknown_options_of_an_earlier_training_are_not_guessed() -> None:
    record = choose_options(NOTHING, MACHINE, None).record()
    del record["recipe"], record["processes"]
    with pytest.raises(OutputError, match="trained without --nproc-per-node, --recipe; choose"):
        choose_options(NOTHING, MACHINE, record)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", 0), ("epochs", float("nan")), ("batch_size", 0), ("lr", -1)),
        *(("lr", float("inf")), ("seed", -1)),
    ],
)
def test_values_out_of_range_name_their_flag(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"--{name.replace('_', '-')} {value}: expected"):
        choose_options({**NOTHING, name: value}, MACHINE, None)


def test_uneven_batch_size_error_suggests_an_even_one() -> None:
    with pytest.raises(SettingError, match=r"3 processes cannot share it evenly; try .* 102"):
        choose_options(NOTHING, {**MACHINE, "processes": 3}, None)


@given(steps=some.integers(1, 5000), lr=some.floats(1e-6, 10))
def test_one_cycle_rises_to_its_peak_and_falls_to_nearly_nothing(steps: int, lr: float) -> None:
    options = replace(choose_options(NOTHING, MACHINE, None), lr=lr)
    rates = [learning_rate(step, steps, options) for step in range(steps)]
    assert all(0 < rate <= lr for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if steps >= 100:
        assert max(rates) == pytest.approx(lr, rel=0.05)
        assert rates[-1] < 0.02 * lr
        assert 0.15 < peak / steps < 0.25


def test_plain_recipe_has_a_constant_learning_rate() -> None:
    options: Any = choose_options({**NOTHING, "recipe": "plain"}, MACHINE, None)
    assert {learning_rate(step, 900, options) for step in range(900)} == {0.001}
