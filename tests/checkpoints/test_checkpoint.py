"""Checkpoints: checked data, never code that runs."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import CHECKPOINT, PATIENCE_S, Cli
from safetensors.torch import load_file, save, save_file
from torch import nn

from toolkit.checkpoints.import_weights import import_weights
from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.checkpoints.storage import load_model, read_checkpoint, save_checkpoint
from toolkit.errors import CheckpointError, Crashed, OutputError
from toolkit.files import sha256_of
from toolkit.schema import InputSpec, ModelSpec, Settings
from toolkit.sessions.candidates import Subject, checkpoint_candidate
from toolkit.sessions.remote import RemoteSession
from toolkit.trust_store.factories import REFERENCE_FACTORY

SPEC = InputSpec(shape=(1, 28, 28), mean=(0.1307,), std=(0.3081,))
REFERENCE = ModelSpec(factory=REFERENCE_FACTORY)


class RunsCode:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def put_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Replace the weights, and record their checksum as if they had been trained that way."""
    save_file(state, folder / "weights.safetensors")
    record = json.loads((folder / "checkpoint.json").read_text())
    record["sha256"] = sha256_of(folder / "weights.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(record))


def test_reference_checkpoint_is_complete_and_reaches_its_accuracy() -> None:
    model, record = load_model(CHECKPOINT)
    assert sum(value.numel() for value in model.parameters()) == 1_199_882
    assert not model.training
    assert record.training is not None
    assert record.training.accuracy >= 0.988
    assert (record.input.mean, record.input.std) == ((0.1307,), (0.3081,))
    assert len(record.training.epochs) == 3


def test_model_card_has_the_recorded_accuracy() -> None:
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
    with pytest.raises(CheckpointError, match="incomplete safetensors file"):
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
        ({"input": {"shape": [], "mean": [0.1], "std": [0.3]}}, "shape"),
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


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_record_that_is_not_json_is_refused(own_checkpoint: Path, content: str) -> None:
    (own_checkpoint / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match="not a checkpoint record"):
        read_checkpoint(own_checkpoint)


def test_a_checkpoint_cannot_name_code_to_run(own_checkpoint: Path, tmp_path: Path) -> None:
    record = json.loads((own_checkpoint / "checkpoint.json").read_text())
    trap = tmp_path / "trap"
    record["model"] = {"factory": "os:mkdir", "arguments": {"path": str(trap)}}
    (own_checkpoint / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"os:mkdir.*not trusted"):
        load_model(own_checkpoint)
    with pytest.raises(CheckpointError, match="not trusted"):
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
    with pytest.raises(CheckpointError, match="incomplete safetensors file"):
        load_model(own_checkpoint)
    assert not marker.exists()


def test_pickled_model_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(ReferenceCNN(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\)"):
        import_weights(
            tmp_path / "model.pt",
            out=tmp_path / "out",
            model=REFERENCE,
            input_spec=SPEC,
            classes=10,
        )


def tiny_model() -> nn.Module:
    """The factory of the fuzzed files."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def damaged(content: bytes, random: Random) -> bytes:
    """Flip one bit, set one byte, or truncate."""
    data, place = bytearray(content), random.randrange(len(content))
    change = random.choice(["flip", "set", "cut"])
    if change == "cut":
        return bytes(data[:place])
    data[place] = (
        data[place] ^ 1 << random.randrange(8) if change == "flip" else random.randrange(256)
    )
    return bytes(data)


@pytest.mark.parametrize("layout", ["legacy", "zip", "safetensors"])
def test_damaged_file_never_gives_an_internal_error(tmp_path: Path, layout: str) -> None:
    """torch's reader raises various exceptions for damaged bytes, from AssertionError to
    struct.error."""
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pt")
    if layout == "safetensors":
        save_file(tiny_model().state_dict(), path)
    else:
        zipped = layout == "zip"
        torch.save(tiny_model().state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole, random = path.read_bytes(), Random(0)
    refused = 0
    for _ in range(200):
        path.write_bytes(damaged(whole, random))
        try:
            import_weights(
                path,
                out=tmp_path / "out",
                model=ModelSpec(factory="test_checkpoint:tiny_model"),
                input_spec=InputSpec(shape=(1, 2, 2), mean=(0.5,), std=(0.5,)),
                classes=3,
                force=True,
            )
        except CheckpointError:
            refused += 1
    assert 50 < refused < 200  # weights have no checksum of their own in these files


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_unreadable_weights_file_gives_one_clear_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.symlink_to("/proc/self/mem")
    if not path.is_file():
        pytest.skip("needs a file that opens and cannot be read")
    with pytest.raises(CheckpointError, match=r"cannot read .*: Input/output error"):
        import_weights(path, out=tmp_path / "out", model=REFERENCE, input_spec=SPEC, classes=10)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_import_creates_a_checkpoint_from_a_state_dict(tmp_path: Path, suffix: str) -> None:
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
    huge = InputSpec(shape=(1, 28, 10**30), mean=(0.1,), std=(0.3,))
    for spec, classes, says in (
        (wide, 10, "--input-shape"),
        (huge, 10, "--input-shape"),
        (SPEC, 7, "--classes"),
    ):
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


def test_half_replaced_checkpoint_is_refused_with_advice(
    own_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights have their new name but the record does not: killed between the two renames."""
    model, record = load_model(own_checkpoint)
    with torch.no_grad():
        model.get_parameter("fc2.bias")[0] += 1
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target == own_checkpoint / "checkpoint.json":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(own_checkpoint, model, record)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"replaced without the other: .* --force"):
        load_model(own_checkpoint)
    saved = save_checkpoint(own_checkpoint, model, record)
    assert read_checkpoint(own_checkpoint).id == saved.id


def change_weights(folder: Path) -> None:
    state = load_file(folder / "weights.safetensors")
    put_weights(folder, {**state, "fc2.bias": state["fc2.bias"] + 1})


def change_spec(folder: Path) -> None:
    record = json.loads((folder / "checkpoint.json").read_text())
    record["input"]["mean"] = [0.5]
    (folder / "checkpoint.json").write_text(json.dumps(record))


@pytest.mark.parametrize("change", [change_weights, change_spec])
def test_checkpoint_replaced_during_the_run_is_not_used(
    own_checkpoint: Path, change: Callable[[Path], None]
) -> None:
    subject = Subject(
        folder=own_checkpoint,
        checkpoint=read_checkpoint(own_checkpoint),
        artifacts=(),
        model=None,
    )
    candidate = checkpoint_candidate(subject, "eager", Settings(threads=1))
    change(own_checkpoint)
    with (
        RemoteSession(candidate, batch_size=1, timeout_s=PATIENCE_S) as session,
        pytest.raises(
            Crashed, match=r"ArtifactError: .* was replaced while this command ran: start again"
        ),
    ):
        session.load()


@pytest.mark.parametrize(
    "factory",
    [
        "no.such.module:f",
        "toolkit.checkpoints.model:nothing",
        "toolkit.checkpoints.model",
        "builtins:dict",
    ],
)
def test_invalid_factory_is_refused(tmp_path: Path, factory: str) -> None:
    torch.save(ReferenceCNN().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"cannot build|is no file|Module"):
        import_weights(
            tmp_path / "weights.pt",
            out=tmp_path / "out",
            model=ModelSpec(factory=factory),
            input_spec=SPEC,
            classes=10,
        )


class Picky(nn.Linear):
    """A user's model that accepts no image."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert input.ndim == 2
        return super().forward(input)


def picky_model() -> nn.Module:
    return Picky(4, 3)


def failing_factory() -> nn.Module:
    raise KeyError("no such variant")


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("test_checkpoint:picky_model", r"does not run .*: AssertionError: .*--input-shape"),
        ("test_checkpoint:failing_factory", r"cannot build .*: KeyError: 'no such variant'"),
        ("broken:model", r"cannot build .*: SyntaxError: "),
    ],
)
def test_any_exception_of_user_code_gives_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text("def model(:")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(picky_model().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=says):
        import_weights(
            tmp_path / "weights.pt",
            out=tmp_path / "out",
            model=ModelSpec(factory=factory),
            input_spec=InputSpec(shape=(1, 2, 2), mean=(0.5,), std=(0.5,)),
            classes=3,
        )
