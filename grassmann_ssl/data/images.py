"""A labelled set of images, and the two sets bundled with scikit-learn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from grassmann_ssl.data.stored import StoredImages
from grassmann_ssl.registry import Registry
from grassmann_ssl.shown import Shown


@dataclass(frozen=True, repr=False)
class Images(Shown):
    """Images as bytes, with one class per image or none: labels[i] is the index into `classes` of the class of images[i].

    images (n, c, h, w) uint8 with c = 1 (grey) or 3 (red, green, blue), in memory or in their file; labels (n,) int64 or None; classes is
    () without labels. `groups` (n,) int64, where given, counted from 0: images of one group are alike, and no split may part them.
    `notes` say what reading them passed over or changed.
    Raises ValueError where the images are empty or not of that shape and type, where the number of labels or groups is not n, or where a
    label is outside 0..len(classes) - 1 (names the first such image).
    """

    images: UInt8[Tensor, " n c h w"] | StoredImages
    labels: Int64[Tensor, " n"] | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    groups: Int64[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, got {self.images.dtype}")
        if len(shape) != 4 or not math.prod(shape) or shape[1] not in (1, 3):
            raise ValueError(f"images must be a non-empty (n, c, h, w) array with c = 1 or 3, got {shape}")
        if self.groups is not None and (self.groups.dtype != torch.int64 or self.groups.shape != shape[:1]):
            raise ValueError(
                f"groups must be int64 of shape ({shape[0]},), got {self.groups.dtype} {tuple(self.groups.shape)}"
            )
        if self.labels is None:
            if self.classes:
                raise ValueError(f"classes must be empty where there are no labels, got {len(self.classes)} names")
            return
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({shape[0]},), got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        bad = (self.labels < 0) | (self.labels >= len(self.classes))
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"labels must be in 0..{len(self.classes) - 1}, got {int(self.labels[first])} for image {first}"
            )


@dataclass(frozen=True)
class Bundled:
    """A named set of images that comes with scikit-learn.

    make          (n, size, generator) -> images where it is `drawn`, () -> images where it is one fixed set
    augmentation  the preset of views that suits it
    """

    name: str
    make: Callable[..., Images]
    drawn: bool
    augmentation: str


BUNDLED: Registry[Bundled] = Registry("bundled images")


def bundled(
    name: str, n: int | None = None, size: int | None = None, generator: torch.Generator | None = None
) -> Images:
    """Images bundled with scikit-learn: nothing is downloaded.

    `digits`: all 1797 scanned digits, (1797, 1, 8, 8), the values 0..16 scaled to 0..255 and rounded; labels 0..9.
    `photos`: n colour patches (n, 3, size, size) at uniform places of china.jpg and flower.jpg (427 x 640 pixels), the first n // 2
    of china; the label is the index of the photo.
    Raises ValueError where the name is unknown (lists the known ones), where `digits` is given a setting, or where `photos` lacks
    one, n is below 2 or size outside 1..427.
    """
    source = BUNDLED[name]
    given = (n, size, generator)
    if not source.drawn:
        if given != (None, None, None):
            raise ValueError(f"{name} takes no n, size or generator: it is one fixed set of images")
        return source.make()
    if None in given:
        raise ValueError(f"{name} needs n, size and generator, got {n}, {size} and {generator}")
    return source.make(*given)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.as_tensor(data.images * (255 / 16)).round().to(torch.uint8)
    return Images(images[:, None], torch.as_tensor(data.target).long(), tuple(str(digit) for digit in range(10)))


def _photos(n: int, size: int, generator: torch.Generator) -> Images:
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    height, width = photos[0].shape[:2]
    if n < 2:
        raise ValueError(f"n must be at least 2 (one patch of each photo), got {n}")
    if not 1 <= size <= height:
        raise ValueError(f"size must be in 1..{height}, got {size}")
    labels = (torch.arange(n) >= n // 2).long()
    top = torch.randint(0, height - size + 1, (n,), generator=generator)
    left = torch.randint(0, width - size + 1, (n,), generator=generator)
    offset = torch.arange(size)
    stacked = torch.stack([torch.tensor(photo) for photo in photos])
    rows, columns = (top[:, None] + offset)[:, :, None], (left[:, None] + offset)[:, None, :]
    patches = stacked[labels[:, None, None], rows, columns]
    return Images(patches.permute(0, 3, 1, 2).contiguous(), labels, ("china", "flower"))


BUNDLED.add("digits", Bundled("digits", _digits, drawn=False, augmentation="digits"))
BUNDLED.add("photos", Bundled("photos", _photos, drawn=True, augmentation="simclr"))
