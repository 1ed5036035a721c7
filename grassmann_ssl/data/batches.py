"""Images for training encoders: loading, the train/test split, and the views of every batch."""

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data.augment import Augmentation, as_floating, keyed_generator
from grassmann_ssl.data.files import parts
from grassmann_ssl.data.images import BUNDLED, Images, bundled
from grassmann_ssl.data.pictures import Progress
from grassmann_ssl.data.presets import preset
from grassmann_ssl.data.stored import Pixels, StoredImages, subset
from grassmann_ssl.distributed import Process
from grassmann_ssl.registry import nearest
from grassmann_ssl.shown import Shown

TESTED = 1 / 3  # held-out share of data without a test part
PHOTOS, PHOTO_SIZE = 2400, 32
HASHED = 4096  # images that are on the host at once
ORDER = 2  # the key of the order of the images, among those of views
SMALL = (0.05, 0.4)  # shares of the area that small crops show
AUTO, ELSEWHERE = "auto", "simclr"  # the name for the preset that suits the data, and that preset for files


@dataclass(frozen=True, repr=False)
class Split(Shown):
    """Train and test images (n, c, h, w) uint8 and their labels, on the device; labels may be None. `notes`: what to know of them.

    Images that stay in their file are read from there, and what is read goes to the device.
    """

    train: Pixels
    train_labels: Tensor | None
    test: Pixels
    test_labels: Tensor | None
    notes: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Split":
        """The same on another device."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        moved: dict[str, Any] = {name: t.to(device) for name, t in values.items() if isinstance(t, Pixels)}
        return replace(self, **moved)

    @cached_property
    def fingerprint(self) -> str:
        """Of all images and labels: equal for equal data alone. Of images that stay in their file, of what tells that it is the same."""
        found = hashlib.blake2b(digest_size=8)
        for values in (self.train, self.train_labels, self.test, self.test_labels):
            if values is None:
                continue
            found.update(f"{values.dtype} {tuple(values.shape)}".encode())
            if isinstance(values, StoredImages):
                found.update(values.fingerprint.encode())
                continue
            for start in range(0, len(values), HASHED):
                found.update(values[start : start + HASHED].numpy(force=True).tobytes())
        return found.hexdigest()

    @property
    def described(self) -> str:
        """How many images there are of which shape, and the notes."""
        shapes = [" x ".join(map(str, images.shape[1:])) for images in (self.train, self.test)]
        test = "" if shapes[0] == shapes[1] else f" ({shapes[1]})"
        counts = f"{len(self.train):,} to train on ({shapes[0]}), {len(self.test):,} to test on{test}"
        return "; ".join((counts, *self.notes))


def load_split(data: str, generator: torch.Generator, progress: Progress | None = None, **options: Any) -> Split:
    """Images by name: digits or photos (bundled with scikit-learn), or FORMAT:PATH of files in their standard format, with its options.

    Without a test part a random third of the images is held out, in whole groups where images have `groups`. Raises ValueError for unknown
    or unreadable data, and for parts that do not fit: other channels, labels of one part alone, classes that only the test part has, or
    fewer than three images, or two groups, to hold some out.
    """
    name, _, path = data.partition(":")
    if name in BUNDLED:
        given = {
            **({"path": path} if path else {}),
            **{key: value for key, value in options.items() if value is not None},
        }
        if given:
            taken, value = next(iter(given.items()))
            raise ValueError(f"{name} is bundled and takes no {taken}, got {value!r}")
        sizes = (PHOTOS, PHOTO_SIZE, generator) if BUNDLED[name].drawn else ()
        return _drawn(bundled(name, *sizes), generator)
    if not path:
        known = f"give {', '.join(BUNDLED)}, or FORMAT:PATH such as cifar10:FOLDER{nearest(name, BUNDLED)}"
        raise ValueError(f"unknown data {data!r}: {known}")
    try:
        read_train, read_test = parts(name, path, progress, **options)
        train = read_train()
        test = read_test() if read_test is not None else None
    except OSError as error:
        raise ValueError(f"{data} cannot be read: {error.strerror or error}") from None
    if test is None:
        return _drawn(train, generator)
    _check_parts(train, test)
    return Split(train.images, train.labels, test.images, test.labels, train.notes + test.notes)


def _check_parts(train: Images, test: Images) -> None:
    channels = [images.images.shape[1] for images in (train, test)]
    if channels[0] != channels[1]:
        raise ValueError(f"the test part has {channels[1]} channels, and the training part {channels[0]}")
    if (train.labels is None) != (test.labels is None):
        has, lacks = ("test", "training") if train.labels is None else ("training", "test")
        raise ValueError(f"the {has} part has labels, and the {lacks} part has not")
    unknown = test.classes[len(train.classes) :]
    if unknown:
        raise ValueError(f"the test part has the class {unknown[0]!r}, which the training part has not")


def _drawn(images: Images, generator: torch.Generator) -> Split:
    n = len(images.images)
    if n < 3:
        raise ValueError(f"a third of the images is held out as the test part: at least 3 are needed, got {n}")
    test, train = _held_out(n, images.groups, generator)

    def labels(rows: Tensor) -> Tensor | None:
        return None if images.labels is None else images.labels[rows]

    whole = "" if images.groups is None else " in whole groups"
    notes = (f"these a random third{whole}, since there is no test part", *images.notes)
    return Split(subset(images.images, train), labels(train), subset(images.images, test), labels(test), notes)


def _held_out(n: int, groups: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The rows of a random third and of the rest, each in random order; of groups as many as make no more than a third, at least one."""
    order, most = torch.randperm(n, generator=generator), int(n * TESTED)
    if groups is None:
        return order[:most], order[most:]
    counts = torch.bincount(groups)
    if len(counts) < 2:
        raise ValueError("whole groups of images are held out as the test part: at least 2 are needed, got 1")
    turn = torch.randperm(len(counts), generator=generator)
    held = torch.zeros(len(counts), dtype=torch.bool)
    held[turn[: max(1, int((counts[turn].cumsum(0) <= most).sum()))]] = True
    tested = held[groups[order]]
    return order[tested], order[~tested]


def augmentations(name: str, data: str, size: int, crops: int = 0) -> tuple[Augmentation, ...]:
    """The augmentations of the two views of a preset, and of small crops; `auto` is digits for the bundled digits and simclr elsewhere.

    A small crop has half the side and 5 to 40 % of the area, and is else as the first view. Source: Caron et al. 2021, arXiv 2104.14294, of
    sides 96 and 224. Raises as `preset`.
    """
    suited = BUNDLED[data].augmentation if data in BUNDLED else ELSEWHERE
    first, second = preset(suited if name == AUTO else name, size)
    if not crops:
        return first, second
    side = max(1, size // 2)
    small = replace(first, size=side, scale=SMALL, radius=min(first.radius, max(1, side // 20)))
    return first, second, *[small] * crops


class Views:
    """The views of any batch, from the seed and the number of the step alone: `views(step, part)`.

    The images are permuted anew in every epoch; the last incomplete batch of an epoch is dropped. Random parameters are drawn for the
    whole batch on every process, so that the views of a step do not depend on the number of processes. Raises ValueError for a batch
    larger than the data or not divisible by the processes. Images that stay in their file are read one batch ahead.
    """

    def __init__(
        self,
        images: Pixels,
        augmentations: tuple[Augmentation, ...],
        batch: int,
        seed: int,
        process: Process,
        parts: int = 1,
    ) -> None:
        if batch > len(images):
            raise ValueError(f"batch must be at most the {len(images)} images to train on, got {batch}")
        self.images, self.augmentations, self.batch, self.seed, self.parts = images, augmentations, batch, seed, parts
        self.rows, self.device = process.rows(batch), process.device
        self._epoch = -1

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        index = step * self.parts + part
        images = as_floating(self.images[self.chosen(index)[self.rows]])
        if isinstance(self.images, StoredImages):
            self.images.ahead(self.chosen(index + 1)[self.rows])
        return tuple(self._view(images, index, view) for view in range(len(self.augmentations)))

    def chosen(self, index: int) -> Tensor:
        """Which images make the batch of this index: every epoch in an order of its own, less the last images that fill no batch."""
        per_epoch = len(self.images) // self.batch
        epoch, place = divmod(index, per_epoch)
        if epoch != self._epoch:
            generator = keyed_generator(seed=self.seed, step=epoch, rank=0, view=ORDER, device="cpu")
            order = torch.randperm(len(self.images), generator=generator)
            self._order = order.to(self.images.device) if isinstance(self.images, Tensor) else order
            self._epoch = epoch
        return self._order[place * self.batch : (place + 1) * self.batch]

    def _view(self, images: Tensor, index: int, view: int) -> Tensor:
        augmentation = self.augmentations[view]
        key = view if view < ORDER else view + 1
        generator = keyed_generator(seed=self.seed, step=index, rank=0, view=key, device=self.device)
        _, channels, height, width = images.shape
        draw = augmentation.draw(self.batch, channels, height, width, generator)
        return augmentation.apply(images, draw.rows(self.rows))
