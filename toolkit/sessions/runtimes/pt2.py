"""torch.export's `.pt2`. The archive format can contain pickles; such an archive is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import ArtifactError
from toolkit.schema import Settings
from toolkit.sessions.runtimes import Session, Source

if TYPE_CHECKING:
    import torch
    from torch.fx import Graph

# Entries that torch.export.load passes to pickle (torch/export/pt2_archive/constants.py). Weights
# and sample inputs go through torch.load, which every worker restricts to tensors with
# TORCH_FORCE_WEIGHTS_ONLY_LOAD (toolkit.sessions.remote).
_PICKLED = ("custom_obj_", "opaque_obj_")


def load(source: Source, settings: Settings) -> Session:
    """Load a `.pt2` file.

    Raises:
        ArtifactError: Not an archive, or it contains pickled objects.
    """
    import torch

    from toolkit.sessions.runtimes._torch import TorchSession, prepare_torch

    device = prepare_torch(settings)
    _refuse_pickles(source.path)
    program = torch.export.load(source.path)
    if device.type == "cuda":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return TorchSession(
        "pt2",
        program.module(),
        program.state_dict.values(),
        device,
        narrowest=_narrowest(program.graph),
    )


def _narrowest(graph: Graph) -> torch.dtype | None:
    """Return float16 or bfloat16 if an operator produces it, else None."""
    import torch

    values = (node.meta.get("val") for node in graph.nodes)
    found = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    return next((each for each in (torch.float16, torch.bfloat16) if each in found), None)


def _refuse_pickles(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"{path}: not a .pt2 archive ({error}); export it again") from error
    pickled = [  # in any part of the name: torch takes all after the folder, with slashes
        name for name in names if any(part.startswith(_PICKLED) for part in Path(name).parts)
    ]
    if pickled:
        raise ArtifactError(
            f"{path}: refused: {pickled[0]} is a pickled object, which can run code; "
            "export a model of tensors and operators only"
        )
