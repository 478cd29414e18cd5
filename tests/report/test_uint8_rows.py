"""Rows of artifacts with uint8 input are told apart from the others everywhere."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from samples import MEASURED, PASSED, results_of

from toolkit.report.columns import summarise
from toolkit.report.csv import render_csv
from toolkit.report.labels import distinct, facts_of, kind_of
from toolkit.report.parity import row_name
from toolkit.report.table import render_table
from toolkit.schema import Settings

BYTES = replace(
    PASSED, embeds_preprocessing=True, artifact_sha256="b" * 64, file="mnist-cnn.uint8-input.onnx"
)


def test_kind_says_what_the_input_is() -> None:
    assert kind_of("int8", uint8=False) == "int8"
    assert kind_of("int8", uint8=True) == "int8, uint8 input"


def test_names_tell_the_two_kinds_apart() -> None:
    facts = [
        facts_of("onnxruntime", "fp32", "onnx", 100, Settings(threads=1), uint8=uint8)
        for uint8 in (False, True)
    ]
    assert distinct(facts) == ["onnxruntime fp32", "onnxruntime fp32, uint8 input"]


def test_table_has_a_row_for_each_kind_without_the_file() -> None:
    rows = summarise(results_of(PASSED, BYTES))
    assert [(row.precision, row.uint8, row.file) for row in rows] == [
        ("fp32", False, None),
        ("fp32", True, None),
    ]
    assert "fp32, uint8 input" in render_table(results_of(PASSED, BYTES))


def test_measurement_joins_the_verdict_of_its_own_kind() -> None:
    fast = replace(
        MEASURED,
        name="onnxruntime fp32, uint8 input",
        embeds_preprocessing=True,
        artifact_sha256="b" * 64,
    )
    (row,) = [each for each in summarise(results_of(PASSED, BYTES, fast)) if each.measurement]
    assert row.parity is BYTES


def test_csv_has_the_input_in_its_own_column() -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(results_of(PASSED, BYTES)))))
    assert [(row["precision"], row["input"]) for row in rows] == [
        ("fp32", "float32"),
        ("fp32", "uint8"),
    ]


def test_row_that_could_not_be_exported_says_which_input() -> None:
    assert row_name(replace(BYTES, file=None)) == "onnxruntime fp32 onnx, uint8 input"
    assert row_name(BYTES) == "onnxruntime fp32 mnist-cnn.uint8-input.onnx"
