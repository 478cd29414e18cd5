"""AOTInductor: the model compiled to native code by PyTorch's Inductor, with a dynamic batch.

The package runs on processors that have the instruction sets of the compiling processor; its
metadata names them.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from pathlib import Path

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._torch_files import forget_stack_traces, rewrite_archive
from toolkit.artifacts.formats._tracing import export_program
from toolkit.machine.compiler import require_compiler
from toolkit.machine.environment import instruction_sets
from toolkit.places import blank_places

# torch.export keeps the batch dynamic. Inductor asks torch which convolution to use and narrows the
# batch to the side of 16 that the example is on (torch 2.14: `s < 16 [guard added]`).
_TRACED_BATCH = 32
LIBRARY = (".so", ".dylib")


def export(request: Request) -> Written:
    """Compile the model.

    Raises:
        Unsupported: No C++ compiler is found, or torch.export cannot take the model.
    """
    import torch
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    require_compiler()
    images = request.example.repeat(_TRACED_BATCH // len(request.example), 1, 1, 1)
    package = io.BytesIO()  # with a full disk, torch's own file writer ends in a C++ abort
    with warnings.catch_warnings(), torch.no_grad(), fresh_cache():
        warnings.simplefilter("ignore")
        cache = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        program = export_program(request.model, images)
        forget_stack_traces(program)
        aoti_compile_and_package(
            program, package_path=package, inductor_configs=_configuration(request)
        )

    # Compiled headers are in another folder, whose name contains the user's.
    folders = [cache, *Path(tempfile.gettempdir()).glob("torchinductor_*")]

    def without_paths(name: str, content: bytes) -> bytes:
        if sys.platform == "darwin" and name.endswith(LIBRARY):
            return content  # it is signed, and macOS does not load it once it has changed
        return blank_places(content, also=folders)

    request.path.write_bytes(rewrite_archive(package, without_paths))
    return Written()


def _configuration(request: Request) -> dict[str, object]:
    return {
        "compile_threads": 1,  # no pool of processes that outlives the export
        # Otherwise the code contains the number of threads of the exporting process.
        "cpp.dynamic_threads": True,
        # Inductor's range, 16 and more, does not apply to the model: 1 and more are right.
        "aot_inductor.check_lowerbound": False,
        "aot_inductor.metadata": {
            "instruction_sets": ",".join(instruction_sets()),
            **request.metadata,
        },
    }
