"""Decoded pictures in the cache folder of the user: made once, whole or not at all, and found again by what they were made from."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from grassmann_ssl.data.room import cache_folder, check_disk
from grassmann_ssl.data.stored import StoredImages

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Entry:
    """Parts of a set of pictures: their shapes (n, c, h, w), and how many pictures of each have several frames.

    In the folder `key`: part 0, 1, ... as K.npy, uint8, and this as about.json.
    """

    key: str
    shapes: tuple[Shape, ...]
    moving: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return cache_folder() / self.key

    def part(self, number: int) -> StoredImages:
        """The images of a part."""
        path = self.folder / f"{number}.npy"
        n, *record = self.shapes[number]
        return StoredImages.of(
            path, n, len(npy_header(self.shapes[number])), tuple(record), identity=f"{self.key} {number}"
        )


def find(key: str, counts: Sequence[int]) -> Entry | None:
    """The entry of this key with as many images in its parts; None where it is not there or not whole."""
    try:
        about = json.loads((cache_folder() / key / "about.json").read_text(encoding="utf-8"))
        entry = Entry(about["key"], tuple(tuple(shape) for shape in about["shapes"]), tuple(about["moving"]))
        whole = [_is_whole(entry.folder / f"{k}.npy", shape) for k, shape in enumerate(entry.shapes)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = (
        entry.key == key and [shape[0] for shape in entry.shapes] == list(counts) and len(entry.moving) == len(counts)
    )
    return entry if same and all(whole) else None


def make(entry: Entry, parts: Sequence[Iterable[np.ndarray]], what: str) -> None:
    """Write an entry, the images (c, h, w) of each part in their order. What is at its place and not whole is replaced.

    Others who make the same wait, and find it made. Raises ValueError, in one line that begins with `what`, before the first image where
    the disk has too little room, and where the cache folder cannot be written.
    """
    needed = sum(map(math.prod, entry.shapes))
    try:
        entry.folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(entry):
            if find(entry.key, [shape[0] for shape in entry.shapes]) is not None:
                return
            scratch = entry.folder.with_suffix(".part")
            for stale in (entry.folder, scratch):
                shutil.rmtree(stale, ignore_errors=True)
            check_disk(what, needed, entry.folder.parent)
            try:
                scratch.mkdir()
                for k, (shape, images) in enumerate(zip(entry.shapes, parts, strict=True)):
                    _write(scratch / f"{k}.npy", shape, images)
                (scratch / "about.json").write_text(json.dumps(asdict(entry)), encoding="utf-8")
                os.replace(scratch, entry.folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"{what}: {cache_folder()} cannot be written: {reason}; XDG_CACHE_HOME names another"
        ) from None


@contextmanager
def _alone(entry: Entry) -> Iterator[None]:
    """One process at a time; the system ends the lock of a process that died."""
    with entry.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, shape: Shape, images: Iterable[np.ndarray]) -> None:
    header = npy_header(shape)
    with path.open("wb") as file:
        # Room is taken before the first picture is decoded.
        os.posix_fallocate(file.fileno(), 0, len(header) + math.prod(shape))
        file.write(header)
        for image in images:
            file.write(image.tobytes())
        file.flush()
        os.fsync(file.fileno())


def npy_header(shape: Shape) -> bytes:
    """Of an .npy of format 1.0: magic, the length of what follows, and a dictionary, padded to a multiple of 64 bytes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text + " " * (-(10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()


def _is_whole(path: Path, shape: Shape) -> bool:
    header = npy_header(shape)
    size = len(header) + math.prod(shape)
    with path.open("rb") as file:
        return file.read(len(header)) == header and path.stat().st_size == size
