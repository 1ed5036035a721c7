"""The colour pictures of the npm package emoji-datasource-google, unpacked: their classes, and which of them are alike."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from grassmann_ssl.data.array_files import reading
from grassmann_ssl.data.images import Images
from grassmann_ssl.data.pictures import Listing, Progress, readers

LIST, PICTURES = "emoji.json", Path("img", "google", "64")
PACKAGE = f"the unpacked npm package emoji-datasource-google, with {LIST} and {PICTURES}, is needed"
CODES, FILE = re.compile(r"[0-9A-F]+(-[0-9A-F]+)*"), re.compile(r"[0-9a-f]+(-[0-9a-f]+)*\.png")
# Code points that change the tone of a skin, a hair, a gender or the side that a person faces, and those that join others.
VARIED = {
    "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF", "1F9B0", "1F9B1", "1F9B2", "1F9B3", "2640", "2642", "27A1", "FE0F", "200D",
}  # fmt: skip
ALIKE = {
    "1F468": "1F9D1", "1F469": "1F9D1",  # man, woman: person
    "1F466": "1F9D2", "1F467": "1F9D2",  # boy, girl: child
    "1F474": "1F9D3", "1F475": "1F9D3",  # old man, old woman: old person
    "1F46B": "1F9D1-1F91D-1F9D1", "1F46C": "1F9D1-1F91D-1F9D1", "1F46D": "1F9D1-1F91D-1F9D1",  # two who hold hands
    "1F48F": "1F9D1-2764-1F48B-1F9D1", "1F491": "1F9D1-2764-1F9D1",  # a kiss, a couple
}  # fmt: skip


def emoji(folder: str | Path, size: int | None = None, progress: Progress | None = None) -> Images:
    """The 64 x 64 pictures of an unpacked package (n, 3, h, w), on white; the classes are the categories of emoji.json, sorted.

    `groups` tells which are alike: of one emoji in other tones of skin, hair, genders or facing the other way (`kind_of`), or of the same
    pixels. With `size`, pictures are resized to it, as those of `image_folder`.
    Raises ValueError where emoji.json or a picture is missing, broken, or not of that form.
    """
    folder = Path(folder)
    entries = _entries(folder / LIST)
    passed = Counter({"without a picture of Google": sum(not entry["has_img_google"] for entry in entries)})
    shown = [entry for entry in entries if entry["has_img_google"]]
    classes = tuple(sorted({entry["category"] for entry in shown}))
    files = [str(folder / PICTURES / entry["image"]) for entry in shown]
    missing = [path for path in files if not Path(path).is_file()]
    if missing or not files:
        raise ValueError(
            f"{folder} lacks {len(missing)} of {len(files)} pictures{f', such as {missing[0]}' if missing else ''}: {PACKAGE}"
        )
    labels = [classes.index(entry["category"]) for entry in shown]
    listing = Listing(folder, classes, list(zip(files, labels, strict=True)), +passed, white=True)
    images = readers([listing], size, progress)[0]()
    groups = _groups([kind_of(entry["unified"]) for entry in shown], images)
    alike = f"{int(groups.max()) + 1:,} groups of pictures that are alike"
    return replace(images, groups=groups, notes=(alike, *images.notes))


def kind_of(unified: str) -> str:
    """What an emoji shows, by its code points: without tone of skin, hair, gender and side; only those, where there are no others."""
    kept = [ALIKE.get(point, point) for point in unified.split("-") if point not in VARIED]
    return "-".join(kept) or unified


def _entries(path: Path) -> list[dict[str, Any]]:
    """One for every picture: an emoji, and each of its tones of skin, which have its category."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {LIST}: {PACKAGE}")
    with reading(path):
        listed = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(listed, list):
        raise ValueError(f"{path} must hold a list of emoji, got {type(listed).__name__}")
    entries = [one for number, entry in enumerate(listed) for one in _toned(path, number, entry)]
    twice = [image for image, count in Counter(entry["image"] for entry in entries).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has the picture {twice[0]} twice")
    return entries


def _toned(path: Path, number: int, entry: Any) -> Iterator[dict[str, Any]]:
    tones = entry.get("skin_variations", {}) if isinstance(entry, dict) else {}
    if not isinstance(tones, dict):
        raise ValueError(f"{path}: skin_variations of emoji {number} must be a table, got {type(tones).__name__}")
    for one in (entry, *tones.values()):
        found = one | {"category": entry.get("category")} if isinstance(one, dict) else {}
        if not (
            isinstance(found.get("category"), str)
            and found["category"]
            and isinstance(found.get("has_img_google"), bool)
            and CODES.fullmatch(str(found.get("unified")))
            and FILE.fullmatch(str(found.get("image")))
        ):
            raise ValueError(
                f"{path}: emoji {number} must have category, unified, image and has_img_google, such as 'Flags', '1F3C1', "
                "'1f3c1.png' and true"
            )
        yield found


def _groups(kinds: list[str], images: Images) -> torch.Tensor:
    """The number of its group for every picture (n,): joined by one kind or by equal pixels, directly or through others."""
    joined: dict[object, int] = {}
    n = len(kinds)
    first = [
        (joined.setdefault(kind, k), joined.setdefault(images.images[k].numpy().tobytes(), k))
        for k, kind in enumerate(kinds)
    ]
    rows, other = np.repeat(np.arange(n), 2), np.array(first).ravel()
    _, groups = connected_components(coo_array((np.ones(2 * n), (rows, other)), shape=(n, n)), directed=False)
    return torch.from_numpy(groups.astype(np.int64))
