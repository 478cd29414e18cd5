"""Checkpoints: data that is checked, never code that runs."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from conftest import CHECKPOINT, Cli
from safetensors.torch import load_file, save, save_file

from toolkit.checkpoint import import_weights, load_model, read_checkpoint, save_checkpoint
from toolkit.errors import CheckpointError, OutputError
from toolkit.files import sha256_of
from toolkit.model import REFERENCE_FACTORY, ReferenceCNN, parameter_count
from toolkit.schema import InputSpec, ModelSpec

SPEC = InputSpec(shape=(1, 28, 28), mean=(0.1307,), std=(0.3081,))
REFERENCE = ModelSpec(factory=REFERENCE_FACTORY)


class RunsCode:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def put_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Replace the weights, and record their checksum as if they had been trained so."""
    save_file(state, folder / "weights.safetensors")
    record = json.loads((folder / "checkpoint.json").read_text())
    record["sha256"] = sha256_of(folder / "weights.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(record))


def test_reference_checkpoint_is_whole_and_as_good_as_it_says() -> None:
    model, record = load_model(CHECKPOINT)
    assert parameter_count(model) == 1_199_882
    assert not model.training
    assert record.training is not None
    assert record.training.accuracy >= 0.988
    assert (record.input.mean, record.input.std) == ((0.1307,), (0.3081,))
    assert len(record.training.epochs) == 3


def test_model_card_tells_the_recorded_accuracy() -> None:
    record = read_checkpoint(CHECKPOINT)
    assert record.training is not None
    card = (CHECKPOINT / "README.md").read_text()
    assert f"{100 * record.training.accuracy:.2f} %" in card


def test_save_and_load_give_the_same_weights(tmp_path: Path) -> None:
    model, record = load_model(CHECKPOINT)
    saved = save_checkpoint(tmp_path / "copy", model, record)
    assert saved.sha256 == record.sha256
    again, _ = load_model(tmp_path / "copy")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize("keep", [0, 8, 100_000])
def test_truncated_weights_are_refused(own_checkpoint: Path, keep: int) -> None:
    path = own_checkpoint / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: sha256 .* records"):
        load_model(own_checkpoint)


def test_truncated_weights_with_a_matching_record_are_refused(own_checkpoint: Path) -> None:
    path = own_checkpoint / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    record = json.loads((own_checkpoint / "checkpoint.json").read_text())
    record["sha256"] = sha256_of(path)
    (own_checkpoint / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(own_checkpoint)


def test_missing_weight_is_named(own_checkpoint: Path) -> None:
    state = load_file(own_checkpoint / "weights.safetensors")
    del state["fc2.bias"]
    put_weights(own_checkpoint, state)
    with pytest.raises(CheckpointError, match=r"fc2\.bias is missing"):
        load_model(own_checkpoint)


def test_wrongly_shaped_weight_is_named_with_both_shapes(own_checkpoint: Path) -> None:
    state = load_file(own_checkpoint / "weights.safetensors")
    state["fc2.bias"] = torch.zeros(7)
    put_weights(own_checkpoint, state)
    with pytest.raises(CheckpointError, match=r"fc2\.bias has shape \[7\], expected \[10\]"):
        load_model(own_checkpoint)


def test_unexpected_weight_is_named(own_checkpoint: Path) -> None:
    state = load_file(own_checkpoint / "weights.safetensors")
    put_weights(own_checkpoint, {**state, "extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="extra is not in the model"):
        load_model(own_checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(own_checkpoint: Path, value: float) -> None:
    state = load_file(own_checkpoint / "weights.safetensors")
    state["conv1.weight"][0, 0, 0, 0] = value
    put_weights(own_checkpoint, state)
    with pytest.raises(CheckpointError, match=r"conv1\.weight holds 1 NaN or infinite"):
        load_model(own_checkpoint)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": "ten"}, "classes"),
        ({"input": {"shape": [1, 28], "mean": [0.1], "std": [0.3]}}, "shape"),
        ({"input": {"shape": [1, 28, 28], "mean": [0.1, 0.2], "std": [0.3]}}, "mean"),
        ({"input": {"shape": [1, 28, 28], "mean": [0.1], "std": [0]}}, "std"),
    ],
)
def test_damaged_record_names_the_field(
    own_checkpoint: Path, change: dict[str, object], says: str
) -> None:
    path = own_checkpoint / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(own_checkpoint)


def test_record_that_is_not_json_is_refused(own_checkpoint: Path) -> None:
    (own_checkpoint / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a checkpoint record"):
        read_checkpoint(own_checkpoint)


def test_a_checkpoint_cannot_name_code_to_run(own_checkpoint: Path, tmp_path: Path) -> None:
    record = json.loads((own_checkpoint / "checkpoint.json").read_text())
    trap = tmp_path / "trap"
    record["model"] = {"factory": "os:mkdir", "arguments": {"path": str(trap)}}
    (own_checkpoint / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="if you trust that code, add --model os:mkdir"):
        load_model(own_checkpoint)
    with pytest.raises(CheckpointError, match="not part of"):
        load_model(own_checkpoint, trusted="another.module:factory")
    assert not trap.exists()


def test_pickle_that_would_run_code_does_not_run(tmp_path: Path, cli: Cli) -> None:
    marker = tmp_path / "ran"
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(RunsCode(marker)))
    zipped = tmp_path / "zipped.pt"
    torch.save({"weight": RunsCode(marker)}, zipped)
    for path in (evil, zipped):
        result = cli(
            *("import", path, "--model", REFERENCE_FACTORY, "--input-shape", "1,28,28"),
            *("--classes", 10, "--mean", 0.1307, "--std", 0.3081, "--out", tmp_path / "out"),
        )
        assert result.exit_code == 2, result.output
        assert "refused" in result.stderr
        assert "torch.save(model.state_dict()" in result.stderr
        assert cli("export", path).exit_code == 2
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_pickle_in_place_of_weights_does_not_run(own_checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = own_checkpoint / "weights.safetensors"
    path.write_bytes(pickle.dumps(RunsCode(marker)))
    record = json.loads((own_checkpoint / "checkpoint.json").read_text())
    record["sha256"] = sha256_of(path)
    (own_checkpoint / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(own_checkpoint)
    assert not marker.exists()


def test_whole_model_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(ReferenceCNN(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\)"):
        import_weights(
            tmp_path / "model.pt",
            out=tmp_path / "out",
            model=REFERENCE,
            input_spec=SPEC,
            classes=10,
        )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_import_makes_a_checkpoint_of_a_state_dict(tmp_path: Path, suffix: str) -> None:
    model = ReferenceCNN()
    path = tmp_path / f"weights{suffix}"
    state = OrderedDict(model.state_dict())
    if suffix == ".pt":
        torch.save(state, path)
    else:
        path.write_bytes(save(state))
    import_weights(path, out=tmp_path / "out", model=REFERENCE, input_spec=SPEC, classes=10)
    loaded, record = load_model(tmp_path / "out")
    assert (record.name, record.classes, record.training) == ("out", 10, None)
    assert torch.equal(loaded.state_dict()["fc1.weight"], model.state_dict()["fc1.weight"])


def test_import_tries_the_model_before_it_writes(tmp_path: Path) -> None:
    torch.save(ReferenceCNN().state_dict(), tmp_path / "weights.pt")
    wide = InputSpec(shape=(1, 32, 32), mean=(0.1,), std=(0.3,))
    for spec, classes, says in ((wide, 10, "--input-shape"), (SPEC, 7, "--classes")):
        with pytest.raises(CheckpointError, match=says):
            import_weights(
                tmp_path / "weights.pt",
                out=tmp_path / "out",
                model=REFERENCE,
                input_spec=spec,
                classes=classes,
            )
    assert not (tmp_path / "out").exists()


def test_existing_checkpoint_is_not_replaced_unless_forced(
    own_checkpoint: Path, tmp_path: Path
) -> None:
    before = (own_checkpoint / "weights.safetensors").read_bytes()
    torch.save(ReferenceCNN().state_dict(), tmp_path / "weights.pt")
    arguments = {"model": REFERENCE, "input_spec": SPEC, "classes": 10}
    with pytest.raises(OutputError, match="--force"):
        import_weights(tmp_path / "weights.pt", out=own_checkpoint, **arguments)  # type: ignore[arg-type]
    assert (own_checkpoint / "weights.safetensors").read_bytes() == before
    import_weights(tmp_path / "weights.pt", out=own_checkpoint, force=True, **arguments)  # type: ignore[arg-type]
    assert (own_checkpoint / "weights.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    "factory", ["no.such.module:f", "toolkit.model:nothing", "toolkit.model", "builtins:dict"]
)
def test_factory_that_is_none_is_refused(tmp_path: Path, factory: str) -> None:
    torch.save(ReferenceCNN().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"cannot build|expected a torch\.nn\.Module"):
        import_weights(
            tmp_path / "weights.pt",
            out=tmp_path / "out",
            model=ModelSpec(factory=factory),
            input_spec=SPEC,
            classes=10,
        )
