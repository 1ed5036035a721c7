"""Images for training encoders: loading, the train/test split, and the two views of every batch."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data.augment import Augmentation, Draw, as_floating, keyed_generator
from grassmann_ssl.data.files import load
from grassmann_ssl.data.images import BUNDLED, Images, bundled
from grassmann_ssl.data.presets import preset
from grassmann_ssl.distributed import Process
from grassmann_ssl.registry import nearest

TESTED = 1 / 3  # held-out share of data without a test part
PHOTOS, PHOTO_SIZE = 2400, 32
AUTO, ELSEWHERE = "auto", "simclr"  # the name for the preset that suits the data, and that preset for files


@dataclass(frozen=True)
class Split:
    """Train and test images (n, c, h, w) uint8 and their labels, on the device; labels may be None."""

    train: Tensor
    train_labels: Tensor | None
    test: Tensor
    test_labels: Tensor | None

    def to(self, device: torch.device) -> "Split":
        """The same on another device."""
        moved: dict[str, Any] = {
            f.name: None if (t := getattr(self, f.name)) is None else t.to(device) for f in fields(self)
        }
        return replace(self, **moved)


def load_split(data: str, generator: torch.Generator) -> Split:
    """Images by name: digits or photos (bundled with scikit-learn), or FORMAT:PATH of files in their standard format.

    Without a test part a random third of the images is held out. Raises ValueError for unknown or unreadable data.
    """
    name, _, path = data.partition(":")
    if name in BUNDLED:
        if path:
            raise ValueError(f"{name} is bundled and takes no path, got {path!r}")
        sizes = (PHOTOS, PHOTO_SIZE, generator) if BUNDLED[name].drawn else ()
        return _drawn(bundled(name, *sizes), generator)
    if not path:
        known = f"give {', '.join(BUNDLED)}, or FORMAT:PATH such as cifar10:FOLDER{nearest(name, BUNDLED)}"
        raise ValueError(f"unknown data {data!r}: {known}")
    train = load(name, path, train=True)
    try:
        test = load(name, path, train=False)
    except ValueError:
        return _drawn(train, generator)
    return Split(train.images, train.labels, test.images, test.labels)


def _drawn(images: Images, generator: torch.Generator) -> Split:
    n = len(images.images)
    order = torch.randperm(n, generator=generator)
    test, train = order[: int(n * TESTED)], order[int(n * TESTED) :]

    def labels(rows: Tensor) -> Tensor | None:
        return None if images.labels is None else images.labels[rows]

    return Split(images.images[train], labels(train), images.images[test], labels(test))


def augmentations(name: str, data: str, size: int) -> tuple[Augmentation, Augmentation]:
    """The two augmentations of a preset; `auto` is digits for the bundled digits and simclr elsewhere. Raises as `preset`."""
    suited = BUNDLED[data].augmentation if data in BUNDLED else ELSEWHERE
    return preset(suited if name == AUTO else name, size)


class Views:
    """The views of any batch, from the seed and the number of the step alone: `views(step, part)`.

    The images are permuted anew in every epoch; the last incomplete batch of an epoch is dropped. Random parameters are drawn for the
    whole batch on every process, so that the views of a step do not depend on the number of processes. Raises ValueError for a batch
    larger than the data or not divisible by the processes.
    """

    def __init__(
        self,
        images: Tensor,
        pair: tuple[Augmentation, Augmentation],
        batch: int,
        seed: int,
        process: Process,
        parts: int = 1,
    ) -> None:
        if batch > len(images):
            raise ValueError(f"batch must be at most the {len(images)} images to train on, got {batch}")
        self.images, self.pair, self.batch, self.seed, self.parts = images, pair, batch, seed, parts
        self.rows, self.device = process.rows(batch), process.device
        self._epoch = -1

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        index = step * self.parts + part
        images = as_floating(self.images[self.chosen(index)[self.rows]])
        first, second = (self._view(images, index, view) for view in (0, 1))
        return first, second

    def chosen(self, index: int) -> Tensor:
        """Which images make the batch of this index: every epoch in an order of its own, less the last images that fill no batch."""
        per_epoch = len(self.images) // self.batch
        epoch, place = divmod(index, per_epoch)
        if epoch != self._epoch:
            generator = keyed_generator(seed=self.seed, step=epoch, rank=0, view=2, device="cpu")
            self._order = torch.randperm(len(self.images), generator=generator).to(self.images.device)
            self._epoch = epoch
        return self._order[place * self.batch : (place + 1) * self.batch]

    def _view(self, images: Tensor, index: int, view: int) -> Tensor:
        augmentation = self.pair[view]
        generator = keyed_generator(seed=self.seed, step=index, rank=0, view=view, device=self.device)
        _, channels, height, width = images.shape
        draw = augmentation.draw(self.batch, channels, height, width, generator)
        return augmentation.apply(images, _rows(draw, self.rows))


def _rows(draw: Draw, rows: slice) -> Draw:
    """The numbers of some of the views."""
    named = {field.name: getattr(draw, field.name) for field in fields(draw)}
    return replace(draw, **{name: value[rows] for name, value in named.items() if value is not None})
