"""Files that are on the disk whole or not at all."""

import os
import shutil
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
    """A scratch file, which takes the place of `path` when it is on the disk; what was at `path` stays if writing fails.

    It is in a hidden folder beside `path`: who writes it may have scratch files of its own, and a kill leaves that folder and nothing else.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        scratch.mkdir(exist_ok=True)
        yield scratch / path.name
        flush(scratch / path.name)
        os.replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    flush(path.parent)
