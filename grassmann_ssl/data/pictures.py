"""Folders of pictures, read with Pillow: which files there are, what is passed over, and their pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from grassmann_ssl.data.images import Images
from grassmann_ssl.registry import nearest

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

TEST = ("test", "val", "valid", "validation")  # the first of them that is there is the test part
# Pillow opens these with other programs, or only their headers.
UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
ORIENTATION = 0x0112  # of EXIF; from 5 on width and height are exchanged


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder: classes, or () where they lie in it directly; files, each with its class or None; what was passed over."""

    folder: Path
    classes: tuple[str, ...]
    files: list[tuple[Path, int | None]]
    passed: Counter[str]


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
    a picture cannot be read or has more than 8 bits a channel; ImportError where Pillow is missing.
    """
    listing = _listing(Path(folder))
    return _read(listing, _headers(listing, size), size)


def picture_parts(folder: Path, size: int | None) -> tuple[Callable[[], Images], Callable[[], Images] | None]:
    """Readers of the training and the test part: `image_folder` of folder/train and folder/test or val, or of the folder as a whole.

    Both parts have the classes of the training part, and are grey only together. Raises ValueError as `image_folder`, and for a class
    that only the test part has.
    """
    if not (folder / "train").is_dir():
        return lambda: image_folder(folder, size), None
    found = [name for name in TEST if (folder / name).is_dir()]
    train = _listing(folder / "train")
    for name in found[1:]:
        train.passed[f"folder {name} beside {found[0]}"] += 1
    header = _headers(train, size)
    if not found:
        return lambda: _read(train, header, size), None
    test = _same_classes(_listing(folder / found[0]), train)
    other = _headers(test, size)
    grey = header.grey and other.grey
    return (
        lambda: _read(train, Header(header.shape, grey, header.moving), size),
        lambda: _read(test, Header(other.shape, grey, other.moving), size),
    )


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
    loose: list[Path] = []
    classes: list[tuple[Path, list[Path]]] = []
    files: list[tuple[Path, int | None]] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            passed["hidden"] += 1
        elif entry.is_dir():
            inside = _pictures(entry, known, passed)
            classes.append((entry, inside))
        else:
            loose += _pictures_of([entry], known, passed)
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


def _pictures(folder: Path, known: set[str], passed: Counter[str]) -> list[Path]:
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
    return sorted(found)


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


def _headers(listing: Listing, size: int | None) -> Header:
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
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
    assert first is not None
    return Header(first, grey, moving)


def _read(listing: Listing, header: Header, size: int | None) -> Images:
    from PIL import ImageOps

    image, failures = _pillow(), _failures()
    width, height = (size, size) if size is not None else header.shape
    images = np.empty((len(listing.files), height, width, 1 if header.grey else 3), np.uint8)
    for target, (path, _) in zip(images, listing.files, strict=True):
        try:
            with image.open(path) as picture:
                upright = ImageOps.exif_transpose(picture)
                # Pillow warns where a palette with transparency is turned into red, green, blue directly.
                opaque = upright.convert("RGBA") if "transparency" in upright.info else upright
                pixels = opaque.convert("L" if header.grey else "RGB")
        except failures as error:
            raise ValueError(f"{path} cannot be read as a picture: {error}") from error
        if size is not None:
            pixels = _centre(pixels, size)
        target[...] = np.asarray(pixels).reshape(target.shape)
    labels = torch.tensor([label for _, label in listing.files]) if listing.classes else None
    notes = [text for text in (_shown(listing.passed, f"passed over in {listing.folder.name}: "),) if text]
    if header.moving:
        notes.append(f"of several frames the first is read: {header.moving} in {listing.folder.name}")
    return Images(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, listing.classes, tuple(notes))


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
