"""The C++ compiler that torch's inductor calls: what needs one asks for it here first."""

from __future__ import annotations

from toolkit.errors import Unsupported


def require_compiler() -> None:
    """Return where inductor finds a C++ compiler.

    Raises:
        Unsupported: there is none; says how to get one.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError) as error:  # RuntimeError: of an unusable one
        raise Unsupported(
            "torch's inductor needs a C++ compiler and finds none; install g++ (Debian and Ubuntu: "
            "apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or name "
            "one in the environment variable CXX"
        ) from error
