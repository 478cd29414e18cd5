"""Environment variables that change the arithmetic of kernels.

Out: the environment of every process that computes, and the variables that a kept result depends
on. Some variables let a library reduce float32 products silently; these are pinned. Others choose
among kernels that add in another order; these belong to the user, but a result depends on them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"

PINNED_ENVIRONMENT: dict[str, str] = {
    # oneDNN, in torch and OpenVINO, reads both names, the first one first. With BF16, it computes
    # float32 in bfloat16 on a CPU that supports it (oneDNN's src/common/fpmath_mode.cpp).
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
    # cuBLAS, cuDNN and TensorRT; it overrides the settings of programs.
    TF32_OVERRIDE: "0",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",  # torch on CUDA
    "HIPBLASLT_ALLOW_TF32": "0",  # torch on ROCm
    # cuBLAS of CUDA 13 composes float32 from bfloat16 products.
    "CUBLAS_EMULATE_SINGLE_PRECISION": "0",
    "CUBLAS_EMULATE_DOUBLE_PRECISION": "0",
    # Code compiled by PyTorch's Inductor: no reassociation, no approximate functions.
    "TORCHINDUCTOR_USE_FAST_MATH": "0",
    "TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG": "0",
    "TORCHINDUCTOR_CPP_ENABLE_FLOATING_POINT_CONTRACT_FLAG": "off",
}

REMOVED_FROM_ENVIRONMENT: tuple[str, ...] = (
    "MKL_BLAS_COMPUTE_MODE",  # oneMKL: float32 products from bfloat16 or TF32
    "MKL_VML_MODE",  # oneMKL: half of the digits of exp and tanh
    "ORT_MLAS_QKGEMM_S8_APPROX_VNNI",  # ONNX Runtime: approximate int8 products
    "CUBLAS_EMULATION_STRATEGY",
    "CUBLAS_FIXEDPOINT_EMULATION_MANTISSA_BIT_COUNT",
)

_CHOOSES_KERNELS = (
    *("ATEN_CPU_CAPABILITY", "TORCH_MKLDNN_MATMUL_MIN_DIM", "TORCH_LINEAR_FLATTEN_3D"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_NUM_STRIPES"),
    *("OPENBLAS_CORETYPE", "BLIS_ARCH_TYPE", "GLIBC_TUNABLES", "LD_PRELOAD"),
)


def pinned(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of `environment` in which no variable reduces float32 arithmetic."""
    kept = {
        name: value for name, value in environment.items() if name not in REMOVED_FROM_ENVIRONMENT
    }
    return {**kept, **PINNED_ENVIRONMENT}


def pin() -> None:
    """Apply `pinned` to the environment of this process. Libraries that have already read it do not
    read it again."""
    for name in REMOVED_FROM_ENVIRONMENT:
        os.environ.pop(name, None)
    os.environ.update(PINNED_ENVIRONMENT)


def kernel_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables in `environment` (default: this process's) that choose among kernels.
    Logits differ between them by float32 rounding."""
    given = os.environ if environment is None else environment
    return {name: given[name] for name in _CHOOSES_KERNELS if name in given}
