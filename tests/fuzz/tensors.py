"""Targets that hold tensors: weights, training states, kept references, ONNX files."""

from __future__ import annotations

import hashlib
import io
import json
import struct

import numpy as np

from toolkit.errors import ToolkitError
from toolkit.files import sha256_of
from toolkit.schema import InputSpec, ModelSpec
from toolkit.trust_store.factories import REFERENCE_FACTORY

from .changes import damaged_json
from .model import SHAPE, write_checkpoint, write_data
from .targets import Target


class WeightsTarget(Target):
    """`weights.safetensors`, whose checksum is recorded."""

    def prepare(self) -> bytes:
        write_checkpoint(self.folder)
        return (self.folder / "weights.safetensors").read_bytes()

    def read(self, content: bytes) -> None:
        from toolkit.checkpoints.storage import load_model

        (self.folder / "weights.safetensors").write_bytes(content)
        record = json.loads((self.folder / "checkpoint.json").read_bytes())
        record["sha256"] = sha256_of(self.folder / "weights.safetensors")
        (self.folder / "checkpoint.json").write_text(json.dumps(record))
        load_model(self.folder)


class WeightsHeaderTarget(WeightsTarget):
    """The JSON in the header of `weights.safetensors`."""

    def prepare(self) -> bytes:
        whole = super().prepare()
        (size,) = struct.unpack_from("<Q", whole)
        self._data = whole[8 + size :]
        return whole[8 : 8 + size]

    def read(self, content: bytes) -> None:
        super().read(struct.pack("<Q", len(content)) + content + self._data)

    damaged = staticmethod(damaged_json)


class StateDictTarget(Target):
    """A file of `torch.save`, as import reads it."""

    zipped = True

    def prepare(self) -> bytes:
        import torch

        from toolkit.checkpoints.storage import load_model

        write_checkpoint(self.folder)
        state = load_model(self.folder)[0].state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=self.zipped)
        return buffer.getvalue()

    def read(self, content: bytes) -> None:
        from toolkit.checkpoints.import_weights import import_weights

        (self.folder / "weights.pt").write_bytes(content)
        import_weights(
            self.folder / "weights.pt",
            out=self.folder / "out",
            model=ModelSpec(
                factory=REFERENCE_FACTORY, arguments={"height": SHAPE[1], "width": SHAPE[2]}
            ),
            input_spec=InputSpec(shape=SHAPE, mean=(0.5,), std=(0.5,)),
            classes=10,
            force=True,
        )


class OldStateDictTarget(StateDictTarget):
    """The same before torch 1.6."""

    zipped = False


class OnnxTarget(Target):
    """The parser that looks for other files in an ONNX file; it may raise ValueError."""

    def prepare(self) -> bytes:
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            [
                helper.make_node("Constant", [], ["c"], value_float=1.0),
                helper.make_node("Gemm", ["input", "w"], ["logits"]),
            ],
            "graph",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
            [helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.ones(8, np.float32))],
        )
        content: bytes = helper.make_model(graph).SerializeToString()
        return content

    def read(self, content: bytes) -> None:
        from toolkit.artifacts.parsers.onnx import read_onnx

        (self.folder / "m.onnx").write_bytes(content)
        try:
            read_onnx(self.folder / "m.onnx")
        except ValueError as error:
            raise ToolkitError(str(error)) from error


class KeptReferenceTarget(Target):
    """A kept reference in the cache: damaged ones are not used."""

    def prepare(self) -> bytes:
        from toolkit.data import load_dataset
        from toolkit.parity.kept_references import keep_references
        from toolkit.parity.reference import Reference, References

        write_data(self.folder, 20)
        self._dataset = load_dataset("test", self.folder)
        random = np.random.default_rng(0)
        self._special = np.asarray(self._dataset.images[:4])

        def reference(count: int) -> Reference:
            return Reference(
                logits=random.standard_normal((count, 10)),
                labels=np.zeros(count, np.int64),
                floors=np.full(count, 1e-6),
            )

        self._kept = References(
            data=reference(20),
            special=reference(4),
            special_images=self._special,
            special_rows=np.arange(4),
        )
        keep_references(self.folder / "kept.npz", self._kept)
        return (self.folder / "kept.npz").read_bytes()

    def read(self, content: bytes) -> None:
        from toolkit.parity.kept_references import read_references

        (self.folder / "kept.npz").write_bytes(content)
        found = read_references(self.folder / "kept.npz", self._dataset, self._special)
        if found is None:
            raise ToolkitError("not used")
        np.testing.assert_array_equal(found.data.logits, self._kept.data.logits)
        np.testing.assert_array_equal(found.data.floors, self._kept.data.floors)


class TrainingStateTarget(Target):
    """The state of an interrupted training, under the checksum of its bytes."""

    def prepare(self) -> bytes:
        import torch

        from toolkit.training.state import Position, State, write_state

        position = Position(options={"lr": 0.1}, data={"a": "b"}, step=3, epochs=(), wall_s=1.0)
        tensors = {"model.weight": torch.ones(4), "optimizer.0.step": torch.ones(1)}
        write_state(self.folder, State(position=position, tensors=tensors))
        (path,) = self.folder.glob("step-*")
        content = path.read_bytes()
        path.unlink()
        return content

    def read(self, content: bytes) -> None:
        from toolkit.training.state import read_state

        for old in self.folder.glob("step-*"):
            old.unlink()
        checksum = hashlib.sha256(content).hexdigest()
        (self.folder / f"step-000000003.{checksum}.safetensors").write_bytes(content)
        read_state(self.folder)
