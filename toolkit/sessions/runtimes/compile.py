"""`torch.compile`: the checkpoint itself, compiled by Inductor in the worker at the first calls.

The compiled kernels go to torch's cache folder, which is in the temporary folder of the system
unless TORCHINDUCTOR_CACHE_DIR names another one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from toolkit.errors import Unsupported
from toolkit.machine.compiler import require_compiler
from toolkit.schema import Attestation, Settings
from toolkit.sessions.runtimes import Session, Source

if TYPE_CHECKING:
    from toolkit.sessions.runtimes._torch import TorchSession


def load(source: Source, settings: Settings) -> Session:
    """Load the checkpoint folder `source.path`; the first call of a batch size may compile.

    Raises:
        Unsupported: No C++ compiler is found.
    """
    import torch
    from torch._dynamo import config as dynamo_config
    from torch._inductor import config as inductor_config

    from toolkit.checkpoints.storage import load_same_model
    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    require_compiler()
    if device.type == "cuda":
        _keep_triton_out_of_the_home_folder()
    inductor_config.compile_threads = 1  # in this process: no pool of processes that outlives it
    # Otherwise it continues uncompiled, with a warning.
    dynamo_config.fail_on_recompile_limit_hit = True
    model = load_same_model(source.path, source.artifact.checkpoint_id, trusted=source.model)
    model = model.to(device)
    # One compiled version for one image, and one or two for more: torch uses other convolutions
    # from 16 on.
    compiled = torch.compile(model, dynamic=True)
    return CompiledSession(TorchSession("compile", compiled, model.parameters(), device))


def _keep_triton_out_of_the_home_folder() -> None:
    """Tell Triton where to keep compiled code. Inductor tells it only after the first compilation;
    until then, Triton writes to the home folder."""
    from torch._inductor.runtime.cache_dir_utils import triton_cache_dir

    os.environ.setdefault("TRITON_CACHE_DIR", triton_cache_dir(0))


class CompiledSession:
    """A `TorchSession` that was compiled and does not silently run in eager mode."""

    def __init__(self, session: TorchSession) -> None:
        self._session = session
        self.run = session.run

    @property
    def attestation(self) -> Attestation:
        """Read back from torch and the parameters; ask after the first call.

        Raises:
            Unsupported: torch compiled nothing.
        """
        from torch._dynamo.utils import counters

        if not counters["stats"]["unique_graphs"]:
            raise Unsupported("torch.compile found nothing to compile in this model; use eager")
        return self._session.attestation
