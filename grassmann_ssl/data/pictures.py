"""Folders of pictures, read with Pillow: which files there are, what is passed over, and their pixels."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data import picture_cache, stored
from grassmann_ssl.data.images import Images
from grassmann_ssl.data.picture_cache import Entry, Shape
from grassmann_ssl.data.room import check_memory, in_words
from grassmann_ssl.data.stored import Pixels, held
from grassmann_ssl.registry import nearest
from grassmann_ssl.streams import say

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Progress = Callable[[int], Callable[..., object]]
TEST = ("test", "val", "valid", "validation")  # the first of them that is there is the test part
# Pillow opens these with other programs, or only their headers.
UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
ORIENTATION = 0x0112  # of EXIF; from 5 on width and height are exchanged


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder: classes, or () where they lie in it directly; files, each with its class or None; what was passed over.

    Where `white`, what is transparent is seen on white; else transparency is left out.
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[tuple[str, int | None]]  # there may be millions, and a Path takes more memory
    passed: Counter[str]
    white: bool = False


@dataclass(frozen=True)
class Header:
    """What the headers of pictures say: width and height of the first, whether all are grey, and how many have several frames."""

    shape: tuple[int, int]
    grey: bool
    moving: int


def image_folder(folder: str | Path, size: int | None = None) -> Images:
    """Pictures in one sub-folder per class, or in a folder without sub-folders, then without labels; read with Pillow.

    The classes are the names of the sub-folders in sorted order; pictures may lie deeper in them, and links are followed. Files of formats
    that Pillow reads are pictures; all others, and names that start with a dot, are passed over and counted in `notes`. All are grey
    (n, 1, h, w) where every picture is, else red, green, blue (n, 3, h, w). EXIF orientation is applied, transparency is not; of several
    frames the first is read. With `size`, the shorter side is resized to it (bilinear with antialiasing) and the centre square is kept;
    without it all pictures must have one size. Every header is read before the first pixel is.
    Raises ValueError where the folder is missing or has no pictures, a class has none, sizes differ (names two files and their sizes),
    a picture cannot be read or has more than 8 bits a channel, or there is no room for them; ImportError where Pillow is missing.
    Pictures that take more than 1 GiB decoded are decoded once, into a file of the cache folder ($XDG_CACHE_HOME/grassmann_ssl, by default
    ~/.cache/grassmann_ssl), where they stay and are found again as long as no picture has another size or date.
    """
    return readers([_listing(Path(folder))], size, None)[0]()


def picture_parts(
    folder: Path, size: int | None, progress: Progress | None = None
) -> tuple[Callable[[], Images], Callable[[], Images] | None]:
    """Readers of the training and the test part: `image_folder` of folder/train and folder/test or val, or of the folder as a whole.

    Both parts have the classes of the training part, and are grey only together. Raises ValueError as `image_folder`, and for a class
    that only the test part has.
    """
    if not (folder / "train").is_dir():
        return readers([_listing(folder)], size, progress)[0], None
    found = [name for name in TEST if (folder / name).is_dir()]
    train = _listing(folder / "train")
    for name in found[1:]:
        train.passed[f"folder {name} beside {found[0]}"] += 1
    if not found:
        return readers([train], size, progress)[0], None
    read_train, read_test = readers([train, _same_classes(_listing(folder / found[0]), train)], size, progress)
    return read_train, read_test


def readers(listings: list[Listing], size: int | None, progress: Progress | None) -> list[Callable[[], Images]]:
    """Readers of the parts of a set: from memory where all of it is small, else from the cache."""
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    counts = [len(listing.files) for listing in listings]
    tick = progress(2 * sum(counts)) if progress else _silent
    key = _key(listings, size)
    entry = picture_cache.find(key, counts)
    if entry is None:
        headers = [_headers(listing, size, tick) for listing in listings]
        grey = all(header.grey for header in headers)
        shapes = [_shape(listing, header, grey, size) for listing, header in zip(listings, headers, strict=True)]
        parts = [_pixels(listing, shape, size, tick) for listing, shape in zip(listings, shapes, strict=True)]
        entry = Entry(key, tuple(shapes), tuple(header.moving for header in headers))
        needed = sum(map(math.prod, shapes))
        what = f"{listings[0].folder}: {sum(counts):,} pictures of {' x '.join(map(str, shapes[0][1:]))}"
        if needed <= stored.HELD:
            check_memory(what, needed)
            return [
                partial(_images, listing, partial(_in_memory, shape, pixels), header.moving)
                for listing, shape, pixels, header in zip(listings, shapes, parts, headers, strict=True)
            ]
        if progress:
            say(f"decoding {sum(counts):,} pictures, once, into {entry.folder} ({in_words(needed)})")
        picture_cache.make(entry, parts, what)
    return [
        partial(_images, listing, partial(_from_cache, entry, k), entry.moving[k], f"decoded in {entry.folder}")
        for k, listing in enumerate(listings)
    ]


def _silent(label: str) -> None:
    pass


def _in_memory(shape: Shape, pixels: Iterator[np.ndarray]) -> Tensor:
    images = np.empty(shape, np.uint8)
    for target, picture in zip(images, pixels, strict=True):
        target[...] = picture
    return torch.from_numpy(images)


def _from_cache(entry: Entry, number: int) -> Pixels:
    return held(entry.part(number))


def _key(listings: list[Listing], size: int | None) -> str:
    """Of all that decides the decoded pictures: which files, their sizes and dates, `size`, and the version of Pillow."""
    found = hashlib.blake2b(repr((_pillow().__version__, size)).encode(), digest_size=16)
    for listing in listings:
        found.update(repr((len(listing.files), listing.classes, listing.white)).encode())
        for path, label in listing.files:
            status = os.stat(path)
            found.update(os.fsencode(os.path.abspath(path)))
            found.update(repr((label, status.st_size, status.st_mtime_ns)).encode())
    return found.hexdigest()


def _shape(listing: Listing, header: Header, grey: bool, size: int | None) -> Shape:
    width, height = header.shape if size is None else (size, size)
    return len(listing.files), 1 if grey else 3, height, width


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs Pillow: pip install pillow") from error
    return Image


def _listing(folder: Path) -> Listing:
    image = _pillow()
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a folder: one of pictures, or with a sub-folder of pictures per class, is needed"
        )
    image.init()
    known = {ending for ending, kind in image.registered_extensions().items() if kind in set(image.OPEN) - UNREADABLE}
    passed: Counter[str] = Counter()
    loose: list[str] = []
    classes: list[tuple[Path, list[str]]] = []
    files: list[tuple[str, int | None]] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            passed["hidden"] += 1
        elif entry.is_dir():
            inside = _pictures(entry, known, passed)
            classes.append((entry, inside))
        else:
            loose += map(str, _pictures_of([entry], known, passed))
    if not any(inside for _, inside in classes):
        if not loose:
            raise ValueError(
                f"{folder} has no pictures{_shown(passed, ': passed over ')}: files that Pillow reads are needed"
            )
        passed.update({"empty folder": len(classes)} if classes else {})
        return Listing(folder, (), [(path, None) for path in loose], passed)
    for label, (entry, inside) in enumerate(classes):
        if not inside:
            raise ValueError(f"{entry} has no pictures: files that Pillow reads, such as .png or .jpg, are needed")
        files += [(path, label) for path in inside]
    if loose:
        passed["picture beside the folders of classes"] += len(loose)
    return Listing(folder, tuple(entry.name for entry, _ in classes), files, passed)


def _pictures(folder: Path, known: set[str], passed: Counter[str]) -> list[str]:
    """All pictures below a folder, sorted; links to folders are followed, each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden = [name for name in folders if name.startswith(".")]
        passed.update({"hidden": len(hidden)} if hidden else {})
        folders[:] = sorted(set(folders) - set(hidden))
        found += _pictures_of((Path(where, name) for name in names), known, passed)
    return [str(path) for path in sorted(found)]


def _pictures_of(paths: Iterator[Path] | list[Path], known: set[str], passed: Counter[str]) -> list[Path]:
    found = []
    for path in paths:
        if path.name.startswith("."):
            passed["hidden"] += 1
        elif path.suffix.lower() not in known:
            passed[path.suffix.lower() or "without ending"] += 1
        elif not path.is_file():
            passed["broken link"] += 1
        else:
            found.append(path)
    return found


def _same_classes(test: Listing, train: Listing) -> Listing:
    """The listing of a test part with the labels of the training part."""
    unknown = [name for name in test.classes if name not in train.classes]
    if unknown:
        raise ValueError(
            f"{test.folder} has the class {unknown[0]!r}, which {train.folder} has not: it has {', '.join(train.classes) or 'none'}"
            f"{nearest(unknown[0], train.classes)}"
        )
    if bool(test.classes) != bool(train.classes):
        raise ValueError(
            f"{train.folder} has a folder for each class, and {test.folder} has not: both need them, or none"
        )
    labels = [train.classes.index(name) for name in test.classes]
    files = [(path, None if label is None else labels[label]) for path, label in test.files]
    return Listing(test.folder, train.classes, files, test.passed)


def _failures() -> tuple[type[Exception], ...]:
    return OSError, SyntaxError, ValueError, _pillow().DecompressionBombError


def _headers(listing: Listing, size: int | None, tick: Callable[[str], object]) -> Header:
    image, failures = _pillow(), _failures()
    first: tuple[int, int] | None = None
    grey, moving = True, 0
    for path, _ in listing.files:
        try:
            with image.open(path) as picture:
                shape, mode, pieces = picture.size, picture.mode, str(picture.tile)
                frames = getattr(picture, "is_animated", False)
                if picture.getexif().get(ORIENTATION, 1) >= 5:
                    shape = shape[::-1]
        except failures as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
        # Pillow takes RGB of 16 bits for RGB, and tells only by the raw mode that it decodes.
        if mode.startswith(("I", "F")) or ";16" in pieces:
            raise ValueError(f"{path} has more than 8 bits a channel (mode {mode!r}), but 8 are needed")
        if first is None:
            first = shape
        elif size is None and shape != first:
            raise ValueError(
                f"pictures must have one size unless `size` is given: {listing.files[0][0]} has {first[0]} x {first[1]} pixels, "
                f"{path} has {shape[0]} x {shape[1]}"
            )
        grey &= mode in ("1", "L")
        moving += frames
        tick("headers of pictures")
    assert first is not None
    return Header(first, grey, moving)


def _pixels(listing: Listing, shape: Shape, size: int | None, tick: Callable[[str], object]) -> Iterator[np.ndarray]:
    """The pictures (c, h, w), one after the other."""
    from PIL import ImageOps

    image, failures = _pillow(), _failures()
    _, channels, height, width = shape
    for path, _ in listing.files:
        try:
            with image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                # Pillow warns where a palette with transparency is turned into red, green, blue directly.
                opaque = upright.convert("RGBA") if listing.white or "transparency" in upright.info else upright
                if listing.white:
                    opaque = image.alpha_composite(image.new("RGBA", opaque.size, "white"), opaque)
                pixels = opaque.convert("L" if channels == 1 else "RGB")
        except failures as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
        if size is not None:
            pixels = _centre(pixels, size)
        yield np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)
        tick("pictures")


def _images(listing: Listing, read: Callable[[], Pixels], moving: int, note: str = "") -> Images:
    labels = torch.tensor([label for _, label in listing.files]) if listing.classes else None
    notes = [text for text in (_shown(listing.passed, f"passed over in {listing.folder.name}: "),) if text]
    if moving:
        notes.append(f"of several frames the first is read: {moving} in {listing.folder.name}")
    if note:
        notes.append(note)
    return Images(read(), labels, listing.classes, tuple(notes))


def _shown(passed: Counter[str], before: str) -> str:
    return before + ", ".join(f"{count} {reason}" for reason, count in sorted(passed.items())) if passed else ""


def _centre(picture: Picture, size: int) -> Picture:
    """The centre square of a Pillow image whose shorter side is resized to `size`."""
    resampling = _pillow().Resampling.BILINEAR
    shorter = min(picture.size)
    width, height = (max(size, round(side * size / shorter)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), resampling)
    return resized.crop((left, top, left + size, top + size))
