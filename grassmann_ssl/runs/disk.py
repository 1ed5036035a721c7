"""Files that are on the disk whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file beside `path`, which takes its place when it is on the disk; what was at `path` stays if writing fails."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        flush(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    flush(path.parent)
