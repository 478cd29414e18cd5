"""Records survive JSON unchanged, refuse wrong values by name, and give the exit code."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import unset

from toolkit import schema
from toolkit.schema import (
    RESULTS_SCHEMA_VERSION,
    TRAITS,
    CheckpointRecord,
    DatasetRecord,
    Environment,
    Gates,
    InputSpec,
    Manifest,
    Measurement,
    ModelSpec,
    ParityReport,
    Precision,
    Results,
    Settings,
    Status,
    from_json,
    to_json,
)

RECORDS = [
    item
    for _, item in inspect.getmembers(schema, inspect.isclass)
    if dataclasses.is_dataclass(item)
]
WRONG: dict[type, list[Any]] = {
    int: ["1", 1.5, 1.0, True, None, [1]],
    float: ["1.5", True, None, [1.5]],
    str: [1, True, None, ["text"], {}],
    bool: [0, 1, "true", None],
}
unhurried = settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type; floats are finite, because JSON has no others."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{name: values(hint) for name, hint in hints.items()})
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    found: st.SearchStrategy[Any] = st.from_type(kind)
    return found


def as_read(record: Any) -> dict[str, Any]:
    """A record's JSON as read from a file."""
    data: dict[str, Any] = json.loads(json.dumps(to_json(record), allow_nan=False))
    return data


def required(kind: Any) -> list[str]:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return [f.name for f in fields if f.default is missing and f.default_factory is missing]


def plain_fields(kind: Any) -> dict[str, type]:
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if hint in WRONG}


def test_every_record_is_frozen_and_by_keyword() -> None:
    assert len(RECORDS) >= 16
    for kind in RECORDS:
        assert getattr(kind, "__dataclass_params__").frozen, kind  # noqa: B009
        assert all(field.kw_only for field in dataclasses.fields(kind)), kind


@pytest.mark.parametrize("kind", RECORDS)
@unhurried
@given(data=st.data())
def test_record_survives_a_json_round_trip(kind: Any, data: st.DataObject) -> None:
    record = data.draw(values(kind))
    assert from_json(kind, as_read(record)) == record


def test_record_read_from_json_is_written_completely_in_field_order() -> None:
    read = from_json(Settings, {"device": "cuda", "threads": 1})
    assert list(to_json(read).items()) == list(to_json(Settings(threads=1, device="cuda")).items())
    assert list(to_json(read)) == [field.name for field in dataclasses.fields(Settings)]


def test_every_precision_has_traits() -> None:
    assert set(TRAITS) == set(typing.get_args(Precision))


@pytest.mark.parametrize("kind", RECORDS)
@unhurried
@given(data=st.data())
def test_unknown_keys_are_ignored(kind: Any, data: st.DataObject) -> None:
    record = data.draw(values(kind))
    newer = {**as_read(record), "of_a_later_version": {"any": ["thing"]}}
    assert from_json(kind, newer) == record


@pytest.mark.parametrize("kind", [kind for kind in RECORDS if required(kind)])
@unhurried
@given(data=st.data())
def test_a_missing_key_is_named_unless_it_has_a_default(kind: Any, data: st.DataObject) -> None:
    record = data.draw(values(kind))
    name = data.draw(st.sampled_from(required(kind)))
    content = as_read(record)
    del content[name]
    with pytest.raises(ValueError, match=f"missing required field `{name}`$"):
        from_json(kind, content)
    least = {name: value for name, value in as_read(record).items() if name in required(kind)}
    defaults = from_json(kind, least)
    assert all(getattr(defaults, name) == getattr(record, name) for name in required(kind))


@pytest.mark.parametrize("kind", [kind for kind in RECORDS if plain_fields(kind)])
@unhurried
@given(data=st.data())
def test_a_value_of_the_wrong_type_is_named(kind: Any, data: st.DataObject) -> None:
    """Plain fields of each record; a bool is not a number, and a number is not a bool."""
    name, wanted = data.draw(st.sampled_from(sorted(plain_fields(kind).items())))
    content = as_read(data.draw(values(kind)))
    content[name] = data.draw(st.sampled_from(WRONG[wanted]))
    with pytest.raises(ValueError, match=rf"Expected `{wanted.__name__}`, got .* at `\$\.{name}`$"):
        from_json(kind, content)


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        (
            InputSpec,
            {"shape": [1, 28, 28], "mean": [0], "std": [1], "crop": [28]},
            r"length 2, got 1 - at `\$\.crop`",
        ),
        (InputSpec, {"shape": [1, 28, "28"], "mean": [0], "std": [1]}, r"\$\.shape\[2\]"),
        (InputSpec, {"shape": [1, 28, 28], "mean": [0, True], "std": [1]}, r"\$\.mean\[1\]"),
        (InputSpec, {"shape": [1, 28, 28], "mean": 0.5, "std": [1]}, r"\$\.mean"),
        (Settings, {"threads": 1, "device": "tpu"}, r"'tpu' - at `\$\.device`"),
        (Settings, {"threads": 1, "device": None}, r"\$\.device"),
        (Gates, {"max_flips": True, "max_accuracy_drop": None}, r"\$\.max_flips"),
        (Gates, {"max_flips": None, "max_accuracy_drop": "0"}, r"\$\.max_accuracy_drop"),
        (ModelSpec, {"factory": "a:b", "arguments": []}, r"\$\.arguments"),
        (DatasetRecord, {"name": "", "split": "", "images": 1, "sha256": {"a": 1}}, r"\$\.sha256"),
    ],
)
def test_nested_values_are_checked_and_named(kind: Any, content: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        from_json(kind, content)


@pytest.mark.parametrize("content", [None, 5, "text", [], [1]])
def test_json_that_is_not_an_object_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="Expected `object`, got"):
        from_json(Manifest, content)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_arguments_of_a_model_are_plain_values(value: Any) -> None:
    with pytest.raises(ValueError, match="arguments"):
        from_json(ModelSpec, {"factory": "a:b", "arguments": {"x": value}})


def test_whole_numbers_become_floats_except_in_arguments() -> None:
    spec = from_json(InputSpec, {"shape": [1, 28, 28], "mean": [0], "std": [1]})
    assert [type(value) for value in (*spec.mean, *spec.std)] == [float, float]
    arguments = {"flag": True, "count": 1, "share": 1.0, "name": "1"}
    model = from_json(ModelSpec, {"factory": "a:b", "arguments": arguments})
    assert {name: type(value) for name, value in model.arguments.items()} == {
        "flag": bool,
        "count": int,
        "share": float,
        "name": str,
    }


PARITY = ParityReport(
    **{**unset(*typing.get_type_hints(ParityReport)), "flipped": (), "stderr_tail": ""}
)
MEASUREMENT = Measurement(
    **{
        **unset(*typing.get_type_hints(Measurement)),
        "latency_s": (),
        "passes": (),
        "stderr_tail": "",
    }
)


def exit_code(parity: list[Status], measured: list[Status], *, allow: bool = False) -> int:
    environment = Environment(**unset(*typing.get_type_hints(Environment)))
    return Results(
        schema_version=RESULTS_SCHEMA_VERSION,
        environment=environment,
        dataset=DatasetRecord(name="mnist", split="test", images=1, sha256={}),
        checkpoint=CheckpointRecord(name="", path="", sha256="", accuracy=None, training=None),
        parity=tuple(
            dataclasses.replace(PARITY, status=status, gates=Gates(allow_undecided=allow))
            for status in parity
        ),
        measurements=tuple(dataclasses.replace(MEASUREMENT, status=status) for status in measured),
    ).exit_code


NOT_RUN: tuple[Status, ...] = (
    "crashed",
    "timed_out",
    "out_of_memory",
    "not_installed",
    "unsupported",
    "too_short",
)


@pytest.mark.parametrize(
    ("parity", "measured", "code"),
    [
        (["passed", "passed"], [], 0),
        ([], ["measured"], 0),
        (["passed"], ["measured", "measured"], 0),
        (["failed"], [], 1),
        (["undecided", "passed"], [], 1),
        (["passed", "failed", "passed"], ["measured"], 1),
        (["passed"], ["failed"], 1),
        *[([status, "passed"], [], 3) for status in NOT_RUN],
        *[(["passed"], ["measured", status], 3) for status in NOT_RUN],
        *[([status, "failed"], [status], 1) for status in NOT_RUN],
        *[(["failed"], [status], 1) for status in NOT_RUN],
        *[([status], ["failed"], 1) for status in NOT_RUN],
    ],
)
def test_exit_code(parity: list[Status], measured: list[Status], code: int) -> None:
    """0 all passed, 1 a verdict failed, 3 something could not be run; a failed verdict takes
    precedence."""
    assert exit_code(parity, measured) == code


def test_undecided_rows_pass_only_if_allowed() -> None:
    assert exit_code(["undecided"], []) == 1
    assert exit_code(["undecided"], [], allow=True) == 0
    assert exit_code(["undecided", "failed"], [], allow=True) == 1


def test_every_status_has_an_exit_code() -> None:
    assert {*NOT_RUN, "passed", "failed", "undecided", "measured"} == set(typing.get_args(Status))
