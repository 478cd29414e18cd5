"""CUDA libraries from NVIDIA's Python packages, for runtimes that do not search there.

torch depends on these packages and finds the libraries by itself. Out: the libraries, loaded into
this process, so that the dynamic loader uses them for all code that needs them later; and the
number of CUDA devices, without importing torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Libraries that others need come first.
_LIBRARIES = ("cudart", "nvrtc", "nvJitLink", "cublasLt", "cublas", "curand", "cufft", "cudnn")

_DRIVER = "libcuda.so.1"


def library_folders() -> list[Path]:
    """Return the `lib` folders of NVIDIA's packages on the import path. The packages share the
    namespace `nvidia`, which may have several locations."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else spec.submodule_search_locations or []
    return [folder for place in places for folder in sorted(Path(place).glob("*/lib"))]


def preload_cuda_libraries(folders: Iterable[Path] | None = None) -> list[str]:
    """Load CUDA's libraries from `folders`, by default those of NVIDIA's packages, and return the
    names of the loaded files.

    Libraries that are missing or cannot be loaded are skipped: they may be in the loader's own
    path, and otherwise the code that needs them reports the problem.
    """
    places = library_folders() if folders is None else list(folders)
    loaded = []
    for name in _LIBRARIES:
        for path in (each for folder in places for each in sorted(folder.glob(f"lib{name}.so.*"))):
            with suppress(OSError):
                ctypes.CDLL(str(path))
                loaded.append(path.name)
    return loaded


def loading_error(library: Path) -> str | None:
    """Return the dynamic loader's error for a library; None if it can be loaded.

    For a missing library, the error names the file: `libcublas.so.13: cannot open ...`.
    """
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def count_cuda_devices() -> int:
    """Return the number of devices that this process can see; 0 without a driver.

    Unlike `nvidia-smi`, this respects `CUDA_VISIBLE_DEVICES`.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
