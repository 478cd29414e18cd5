"""Export a trained PyTorch classifier, verify the exported files, and benchmark them.

The functions match the commands of the command line and are typed:

    import toolkit

    toolkit.train(out="models/mine")
    toolkit.export("models/mine", out="exports")
    toolkit.verify("exports").exit_code
    toolkit.bench("exports").measurements
    toolkit.compare(toolkit.read_results("old.json"), new).regressions
    toolkit.gate(toolkit.read_results("old"), toolkit.read_results("new")).exit_code
    toolkit.tune("exports").recommended
    toolkit.run(quick=True).folder
    toolkit.doctor().warnings

Paths are text or `Path`. Results show themselves as tables: `print(results)`, `results.to_frame()`
for pandas, and by themselves in a notebook. Errors are `ToolkitError`, with the words of the
command line. `help(toolkit.export)` describes each argument.

Modules are imported on first use, so `import toolkit` is fast.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is slow to import, and a signal would find no handler so long
if TYPE_CHECKING:
    from typing import Any

    from toolkit.artifacts.calibration import CalibrationSettings
    from toolkit.artifacts.export import export
    from toolkit.artifacts.trust import trust
    from toolkit.checkpoints.bundled import reference_checkpoint
    from toolkit.checkpoints.import_weights import import_weights
    from toolkit.checkpoints.storage import save_checkpoint
    from toolkit.comparison.compare import compare
    from toolkit.comparison.gate import gate
    from toolkit.errors import Interrupted, ToolkitError, ToolkitWarning
    from toolkit.machine.doctor import doctor
    from toolkit.measurement.bench import bench
    from toolkit.measurement.loadgen import loadgen
    from toolkit.measurement.plan import Plan
    from toolkit.parity.gates import GateSettings
    from toolkit.parity.verify import verify
    from toolkit.results import read_results, read_tuning
    from toolkit.run_pipeline import run
    from toolkit.schema import Constraints, InputSpec, ModelSpec
    from toolkit.settings import SessionOptions
    from toolkit.training.train import train
    from toolkit.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "CalibrationSettings",
    "Constraints",
    "GateSettings",
    "InputSpec",
    "Interrupted",
    "ModelSpec",
    "Plan",
    "SessionOptions",
    "ToolkitError",
    "ToolkitWarning",
    "bench",
    "compare",
    "doctor",
    "export",
    "gate",
    "import_weights",
    "loadgen",
    "read_results",
    "read_tuning",
    "reference_checkpoint",
    "run",
    "save_checkpoint",
    "train",
    "trust",
    "tune",
    "verify",
]

_HOMES = {
    "CalibrationSettings": "toolkit.artifacts.calibration",
    "Constraints": "toolkit.schema",
    "GateSettings": "toolkit.parity.gates",
    "InputSpec": "toolkit.schema",
    "Interrupted": "toolkit.errors",
    "ModelSpec": "toolkit.schema",
    "Plan": "toolkit.measurement.plan",
    "SessionOptions": "toolkit.settings",
    "ToolkitError": "toolkit.errors",
    "ToolkitWarning": "toolkit.errors",
    "bench": "toolkit.measurement.bench",
    "compare": "toolkit.comparison.compare",
    "doctor": "toolkit.machine.doctor",
    "export": "toolkit.artifacts.export",
    "gate": "toolkit.comparison.gate",
    "import_weights": "toolkit.checkpoints.import_weights",
    "loadgen": "toolkit.measurement.loadgen",
    "read_results": "toolkit.results",
    "read_tuning": "toolkit.results",
    "reference_checkpoint": "toolkit.checkpoints.bundled",
    "run": "toolkit.run_pipeline",
    "save_checkpoint": "toolkit.checkpoints.storage",
    "train": "toolkit.training.train",
    "trust": "toolkit.artifacts.trust",
    "tune": "toolkit.tuning.tune",
    "verify": "toolkit.parity.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    import importlib

    from toolkit.machine.system import check_system

    check_system()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "annotations"})
