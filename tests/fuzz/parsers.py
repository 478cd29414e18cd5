"""Our parsers by name; each is a target of the fuzzer."""

from __future__ import annotations

from .pixels import (
    ArchiveTarget,
    BmpTarget,
    CifarTarget,
    GifTarget,
    IdxInGzipTarget,
    IdxTarget,
    ImageTarget,
    JpegTarget,
    NpyTarget,
    PackedArchiveTarget,
    PackedIdxTarget,
    TableTarget,
    TiffTarget,
    WebpTarget,
)
from .records import CheckpointTarget, ManifestTarget, ResultsTarget, TuningTarget
from .targets import Target
from .tensors import (
    KeptReferenceTarget,
    OldStateDictTarget,
    OnnxTarget,
    StateDictTarget,
    TrainingStateTarget,
    WeightsHeaderTarget,
    WeightsTarget,
)

TARGETS: dict[str, type[Target]] = {
    "manifest": ManifestTarget,
    "checkpoint record": CheckpointTarget,
    "safetensors": WeightsTarget,
    "safetensors header": WeightsHeaderTarget,
    "state_dict": StateDictTarget,
    "old state_dict": OldStateDictTarget,
    "IDX": IdxTarget,
    "IDX, packed": PackedIdxTarget,
    "IDX in gzip": IdxInGzipTarget,
    "npz": ArchiveTarget,
    "npz, packed": PackedArchiveTarget,
    "npy": NpyTarget,
    "CSV": TableTarget,
    "CIFAR batch": CifarTarget,
    "results": ResultsTarget,
    "tuning": TuningTarget,
    "PNG": ImageTarget,
    "JPEG": JpegTarget,
    "TIFF": TiffTarget,
    "GIF": GifTarget,
    "WebP": WebpTarget,
    "BMP": BmpTarget,
    "ONNX parser": OnnxTarget,
    "kept reference": KeptReferenceTarget,
    "training state": TrainingStateTarget,
}
