"""Targets that are records in JSON: manifest, checkpoint, results, tuning."""

from __future__ import annotations

import json
from typing import Any

from toolkit.files import sha256_of
from toolkit.schema import Settings, to_json

from .model import SHAPE, write_checkpoint
from .targets import JsonTarget

_CHECKPOINT = "checkpoint"


class ManifestTarget(JsonTarget):
    """`manifest.json` of a folder with a file and a folder."""

    def prepare(self) -> bytes:
        from toolkit.schema import MANIFEST_SCHEMA_VERSION, Artifact, Manifest

        write_checkpoint(self.folder / _CHECKPOINT)
        (self.folder / "m.ncnn").mkdir()
        (self.folder / "m.ncnn" / "model.param").write_bytes(b"7767517\n")
        (self.folder / "m.onnx").write_bytes(bytes.fromhex("0808 3a00"))
        from toolkit.checkpoints.storage import read_checkpoint
        from toolkit.files import size_of

        record = read_checkpoint(self.folder / _CHECKPOINT)
        artifacts = tuple(
            Artifact(
                format=path.suffix[1:],
                precision="fp32",
                path=path.name,
                size_bytes=size_of(path),
                sha256=sha256_of(path),
                checkpoint_sha256=record.id.weights_sha256,
                spec_sha256=record.id.spec_sha256,
                input_shape=SHAPE,
                classes=record.classes,
            )
            for path in (self.folder / "m.onnx", self.folder / "m.ncnn")
        )
        manifest = Manifest(
            schema_version=MANIFEST_SCHEMA_VERSION,
            checkpoint=_CHECKPOINT,
            checkpoint_sha256=record.id.weights_sha256,
            spec_sha256=record.id.spec_sha256,
            artifacts=artifacts,
        )
        return json.dumps(to_json(manifest)).encode()

    def read(self, content: bytes) -> None:
        from toolkit.sessions.candidates import find_candidates, find_subject

        (self.folder / "manifest.json").write_bytes(content)
        subject = find_subject([self.folder], checkpoint=None, model=None)
        find_candidates(subject, [], Settings(threads=1))


class CheckpointTarget(JsonTarget):
    """`checkpoint.json`."""

    def prepare(self) -> bytes:
        write_checkpoint(self.folder)
        return (self.folder / "checkpoint.json").read_bytes()

    def read(self, content: bytes) -> None:
        from toolkit.checkpoints.storage import load_model

        (self.folder / "checkpoint.json").write_bytes(content)
        load_model(self.folder)


class ResultsTarget(JsonTarget):
    """`results.json`: read, compared with itself, and shown in every form."""

    def prepare(self) -> bytes:
        from samples import ALL

        (self.folder / "healthy.json").write_text(json.dumps(to_json(ALL)))
        return (self.folder / "healthy.json").read_bytes()

    def read(self, content: bytes) -> None:
        from toolkit.comparison.compare import compare
        from toolkit.report.comparison import render_comparison
        from toolkit.report.csv import render_csv
        from toolkit.report.markdown import render_markdown
        from toolkit.report.table import render_table
        from toolkit.results import read_results

        (self.folder / "results.json").write_bytes(content)
        found = read_results(self.folder)
        for render in (render_table, render_markdown, render_csv):
            render(found)
        for old in (found, read_results(self.folder / "healthy.json")):
            render_comparison(compare(old, found, anyway=True))


class TuningTarget(JsonTarget):
    """`tuning.json`: read, shown, and used as `bench --settings` does."""

    def prepare(self) -> bytes:
        return json.dumps(to_json(_tuning())).encode()

    def read(self, content: bytes) -> None:
        from toolkit.report.tuning import render_tuning
        from toolkit.results import read_tuning

        (self.folder / "tuning.json").write_bytes(content)
        found = read_tuning(self.folder / "tuning.json")
        render_tuning(found)
        assert found.chosen is not None


def _tuning() -> Any:
    from samples import MEASURED, QUIET

    from toolkit.schema import TUNING_SCHEMA_VERSION, DatasetRecord, Tuning
    from toolkit.schema.tuning import Configuration, Constraints, Trial

    configuration = Configuration(
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        artifact_path="m.onnx",
        artifact_sha256="a" * 64,
        batch_size=100,
        settings=Settings(threads=2),
    )
    trial = Trial(
        name="onnxruntime fp32",
        configuration=configuration,
        stage=4,
        images_per_s=MEASURED.images_per_s,
        to_baseline=MEASURED.to_baseline,
        latency_s=0.008,
        size_bytes=4_800_000,
        accuracy=0.99,
        flips=0,
        status="passed",
        reason=None,
        pareto=True,
    )
    return Tuning(
        schema_version=TUNING_SCHEMA_VERSION,
        environment=QUIET,
        dataset=DatasetRecord(name="mnist", split="test", images=10_000, sha256={}),
        checkpoint_sha256="c" * 64,
        constraints=Constraints(),
        wall_s=10.0,
        trials=(trial,),
        baseline=trial.name,
        recommended=trial.name,
        why="it is the fastest",
        confidence="it is the only one",
    )
