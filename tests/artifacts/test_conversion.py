"""Converters run in separate processes: a crash becomes a row, and no files are left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKPOINT, PATIENCE_S

from toolkit.artifacts.conversion import export_apart
from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS, Format, Written
from toolkit.checkpoints.storage import read_checkpoint
from toolkit.errors import Crashed, FailedRun, TimedOut, Unsupported

pytestmark = pytest.mark.usefixtures("no_child_is_left")
NO_IMAGES = np.empty((0, 1, 28, 28), np.float32)

CONVERTER = """
import os, signal, sys, tempfile, time
from pathlib import Path
from toolkit.artifacts.formats import Written

def export(request):
    print("converter at work")
    {body}
"""
Converter = Callable[[str], Format]


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """Create a format whose converter follows the given orders; the child finds its module through
    `sitecustomize`."""

    def make(body: str) -> Format:
        (tmp_path / "odd_format.py").write_text(CONVERTER.format(body=body))
        (tmp_path / "sitecustomize.py").write_text(
            "import toolkit.artifacts.formats as table\n"
            "from dataclasses import replace\n"
            "table.FORMATS['odd'] = replace(table.FORMATS['torchscript'], name='odd', "
            "module='odd_format', usual=False)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        row = replace(FORMATS["torchscript"], name="odd", module="odd_format", usual=False)
        monkeypatch.setitem(FORMATS, "odd", row)
        return row

    return make


def run(row: Format, path: Path, *, timeout_s: float = PATIENCE_S) -> Written:
    with export_apart(
        row,
        precision="fp32",
        checkpoint=CHECKPOINT,
        checkpoint_id=read_checkpoint(CHECKPOINT).id,
        model=None,
        input=read_checkpoint(CHECKPOINT).input,
        path=path,
        calibration=NO_IMAGES,
        isas=None,
        timeout_s=timeout_s,
    ) as conversion:
        return conversion.written()


def test_child_writes_the_file_and_returns_its_record(converter: Converter, tmp_path: Path) -> None:
    row = converter(
        "request.path.write_text(f'{request.precision} {len(request.example)}'); "
        "return Written(opset=7, batch_sizes=(100, 1), isas=('vnni',))"
    )
    written = run(row, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "fp32 2"
    assert (written.opset, written.batch_sizes, written.isas) == (7, (100, 1), ("vnni",))


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", Crashed, "its converter ended: SIGSEGV"),
        ("os._exit(3)", Crashed, "its converter ended: exit code 3"),
        ("os._exit(0)", Crashed, "its converter ended: exit code 0"),
        ("raise ValueError('no such operator')", Crashed, "ValueError: no such operator"),
        ("raise MemoryError('too large')", FailedRun, "too large"),
        ("time.sleep(3600)", TimedOut, "within 8 s"),
    ],
)
def test_outcome_of_the_converter_is_reported(
    converter: Converter, tmp_path: Path, body: str, kind: type[FailedRun], reason: str
) -> None:
    with pytest.raises(kind, match=reason) as caught:
        run(converter(body), tmp_path / "out", timeout_s=8.0 if "sleep" in body else PATIENCE_S)
    if kind is Crashed:
        assert "converter at work" in caught.value.stderr_tail


def test_files_in_home_and_temporary_folder_are_deleted(
    converter: Converter, tmp_path: Path
) -> None:
    row = converter(
        "folder = tempfile.mkdtemp(); home = Path.home() / 'left'; home.write_text('x'); "
        "request.path.write_text(folder + '\\n' + str(home)); return Written()"
    )
    run(row, tmp_path / "out")
    folder, home = (tmp_path / "out").read_text().splitlines()
    assert not os.path.exists(folder)  # noqa: PTH110
    assert not os.path.exists(home)  # noqa: PTH110
    assert Path.home() not in Path(home).parents


def test_a_format_that_crashes_does_not_stop_the_others(
    converter: Converter, tmp_path: Path
) -> None:
    converter("os.kill(os.getpid(), signal.SIGABRT)")
    done = export(CHECKPOINT, out=tmp_path / "exports", formats=["odd", "torchscript"])
    assert done.written == ("mnist-cnn.torchscript",)
    (failed,) = done.failures
    assert (failed.format, failed.precision) == ("odd", "fp32")
    assert "SIGABRT" in failed.failure.reason
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == [
        *("manifest.json", "mnist-cnn.torchscript", "mnist-cnn.torchscript.md"),
    ]


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        ("ValueError('Adaptive pooling is only supported when the size is known')", Unsupported),
        ("RuntimeError('Unsupported operator: aten::foo')", Unsupported),
        ("NotImplementedError('foo')", Unsupported),
        ("RuntimeError('Lowering not found: aten.foo')", Unsupported),
        ("ValueError('Operator aten.foo is not in Core ATen opset')", Unsupported),
        ("ValueError('2 is not 3')", Crashed),
        ("TypeError(\"unsupported operand type(s) for +: 'int' and 'str'\")", Crashed),
    ],
)
def test_converter_that_refuses_the_model_is_not_called_crashed(
    converter: Converter, tmp_path: Path, raised: str, kind: type[FailedRun]
) -> None:
    with pytest.raises(kind, match="format odd cannot export this model") as caught:
        run(converter(f"raise {raised}"), tmp_path / "file")
    assert "converter at work" in caught.value.stderr_tail
