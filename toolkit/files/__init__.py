"""Files on disk: safe reads, atomic writes, locks on output folders, temporary folders."""

from toolkit.files.reading import (
    RECORD_BYTES,
    RESULTS_BYTES,
    files_in,
    memory_bytes,
    open_regular,
    read_json,
    read_regular,
    read_tail,
    refuse_large,
    sha256_of,
    sha256_of_open,
    size_of,
)
from toolkit.files.writing import (
    as_output_error,
    check_writable,
    make_folder,
    publish,
    remove_file,
    scratch_folder,
    write_atomically,
    write_json,
)

__all__ = [
    "RECORD_BYTES",
    "RESULTS_BYTES",
    "as_output_error",
    "check_writable",
    "files_in",
    "make_folder",
    "memory_bytes",
    "open_regular",
    "publish",
    "read_json",
    "read_regular",
    "read_tail",
    "refuse_large",
    "remove_file",
    "scratch_folder",
    "sha256_of",
    "sha256_of_open",
    "size_of",
    "write_atomically",
    "write_json",
]
