"""Images that stay in their file: what is asked for is read from it, and what will be asked for next is read ahead."""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

HELD = 2**30  # bytes of images that are read into memory; larger sets stay in their file
CPU = torch.device("cpu")
Shape = tuple[int, ...]


class OpenFile:
    """A file that is open as long as anyone holds this."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.number)

    def read_into(self, buffer: np.ndarray, offset: int) -> None:
        left = buffer.data.cast("B")
        while left:
            count = os.preadv(self.number, [left], offset)
            if not count:
                raise ValueError(f"{self.path} was cut short while it was in use")
            left, offset = left[count:], offset + count

    def ahead(self, offset: int, count: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.number, offset, count, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images (n, c, h, w) uint8 in a file, indexed as a tensor of them: `images[rows]` reads these, as a tensor on `device`.

    The file holds records of one shape, `stored`, from byte `offset` on; their axes `axes` are channels, height and width. Image i is
    record rows[i]. Reads are of whole records, neighbours together, and take no memory beyond what they return; a file that is replaced
    is read as it was when it was opened. Raises ValueError where it is cut short meanwhile, and OSError where it cannot be read.
    """

    file: OpenFile
    offset: int
    stored: Shape
    axes: Shape
    rows: Tensor
    identity: str
    device: torch.device = CPU
    dtype: ClassVar[torch.dtype] = torch.uint8

    @classmethod
    def of(
        cls, path: Path, count: int, offset: int, stored: Shape, axes: Shape = (0, 1, 2), identity: str = ""
    ) -> StoredImages:
        """The first `count` records of a file. `identity` tells its content from any other, by default its size and its date."""
        file = OpenFile(path)
        status = os.fstat(file.number)
        known = identity or f"{status.st_size} bytes of {status.st_mtime_ns}"
        return cls(file, offset, stored, axes, torch.arange(count), known)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        return (some[0] for some in chunks(self, 1))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *(self.stored[axis] for axis in self.axes)))

    @property
    def fingerprint(self) -> str:
        """What is told of the content without reading it: the identity of the file, where in it images are, and which."""
        rows = hashlib.blake2b(self.rows.numpy().tobytes(), digest_size=8).hexdigest()
        return f"{self.identity}, {self.stored} {self.axes} from {self.offset}, {rows}"

    def to(self, device: torch.device) -> StoredImages:
        """The same; what is read goes to another device."""
        return replace(self, device=device)

    def part(self, rows: slice | Tensor) -> StoredImages:
        """Some of the images, which stay in the file."""
        return replace(self, rows=self.rows[rows])

    def __getitem__(self, key: int | slice | Tensor) -> Tensor:
        rows = self.rows[key]
        if not rows.ndim:
            return replace(self, rows=rows[None])[:][0]
        found = torch.empty((len(rows), *self.stored), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        content = found.numpy()
        for place, first, count in self._runs(rows):
            self.file.read_into(content[place : place + count], self.offset + first * self._record)
        ordered = found.permute(0, *(1 + axis for axis in self.axes)).contiguous()
        return ordered.to(self.device, non_blocking=True)

    def ahead(self, rows: slice | Tensor) -> None:
        """Ask the system to read these images in the background, for a `[rows]` that follows."""
        for _, first, count in self._runs(self.rows[rows]):
            self.file.ahead(self.offset + first * self._record, count * self._record)

    @cached_property
    def _record(self) -> int:
        return math.prod(self.stored)

    @staticmethod
    def _runs(rows: Tensor) -> Iterator[tuple[int, int, int]]:
        """Records that follow each other in the file: the place of the first among `rows`, its number, and how many."""
        numbers = rows.numpy()
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
        ends = [*starts[1:], len(numbers)][: len(starts)]
        for start, end in zip(starts, ends, strict=True):
            yield int(start), int(numbers[start]), int(end - start)


Pixels = Tensor | StoredImages


def held(images: StoredImages) -> Pixels:
    """In memory where they are few: up to `HELD` bytes."""
    return images[:] if math.prod(images.shape) <= HELD else images


def subset(images: Pixels, rows: slice | Tensor) -> Pixels:
    """Some of the images, in memory or in the file as all are."""
    return images.part(rows) if isinstance(images, StoredImages) else images[rows]


def chunks(images: Pixels, size: int) -> Iterator[Tensor]:
    """The images in their order, `size` at a time; those of a file are read ahead."""
    for start in range(0, len(images), size):
        if isinstance(images, StoredImages):
            images.ahead(slice(start + size, start + 2 * size))
        yield images[start : start + size]
