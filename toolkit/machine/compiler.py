"""The C++ compiler that PyTorch's Inductor calls: check that there is one."""

from __future__ import annotations

from toolkit.errors import Unsupported


def require_compiler() -> None:
    """Check that Inductor finds a C++ compiler.

    Raises:
        Unsupported: There is none; the message says how to get one.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError) as error:  # RuntimeError: the compiler cannot be used
        raise Unsupported(
            "PyTorch's Inductor needs a C++ compiler and found none; install g++ (Debian and "
            "Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select "
            "--install), or name a compiler in the environment variable CXX"
        ) from error
