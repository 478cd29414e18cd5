"""CUDA's libraries as NVIDIA's Python packages bring them, for runtimes that do not look there.

torch depends on these packages and finds them by itself. Out: the libraries, loaded into this
process, so that the dynamic loader takes them for whatever needs them later; and how many devices
the driver shows, asked without torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Those that others need come first.
_LIBRARIES = ("cudart", "nvrtc", "nvJitLink", "cublasLt", "cublas", "curand", "cufft", "cudnn")

_DRIVER = "libcuda.so.1"


def library_folders() -> list[Path]:
    """The `lib` folders of NVIDIA's packages on this interpreter's path; the packages share the
    namespace `nvidia`, which may be spread over several places."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else spec.submodule_search_locations or []
    return [folder for place in places for folder in sorted(Path(place).glob("*/lib"))]


def preload_cuda_libraries(folders: Iterable[Path] | None = None) -> list[str]:
    """Load CUDA's libraries from `folders`, by default those of NVIDIA's packages.

    Returns the names of the files that were loaded. What is missing or does not load is left out:
    it may be in the loader's own path, and what needs it says so otherwise.
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
    """What the dynamic loader says against a library, None where it loads.

    Of a library that is missing, it names the file: `libcublas.so.13: cannot open ...`.
    """
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def count_cuda_devices() -> int:
    """Devices that the driver shows to this process; 0 where there is no driver.

    It heeds `CUDA_VISIBLE_DEVICES`, unlike `nvidia-smi`.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
