"""The augmentations of published methods, by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from grassmann_ssl.data.augment import Augmentation
from grassmann_ssl.registry import Registry

PRESETS: Registry[Callable[[int], tuple[Augmentation, Augmentation]]] = Registry("preset")
# Crop, flip, and the probability of the jitter.
_shared = partial(Augmentation, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, jitter=0.8)


def preset(name: str, size: int) -> tuple[Augmentation, Augmentation]:
    """The augmentations of view 1 and view 2, square views of side `size`, by name.

    simclr: crop 8-100% of the area, ratio 3/4-4/3; flip 0.5; jitter (0.8, 0.8, 0.8, 0.2) with probability 0.8; grey 0.2; blur
        0.5, sigma 0.1-2. For size <= 32 jitter (0.4, 0.4, 0.4, 0.1), half the strength, and no blur, as the source has on CIFAR-10.
        Both views alike. Source: Chen et al. 2020, arXiv 2002.05709, App. A and B.9.
    byol: crop and flip as simclr; jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8; grey 0.2; blur 1.0 in view 1 and 0.1 in view 2,
        sigma 0.1-2; solarise 0 and 0.2. Source: Grill et al. 2020, arXiv 2006.07733, Table 6.
    stl: crop 20-100%, ratio 3/4-4/3; flip 0.5; jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8; grey 0.1. Both views alike.
        Source: Ermolov et al. 2021, arXiv 2007.06346, sec. 4 (their STL-10 settings).
    digits: crop 60-100% of ratio 0.9-1.1 (a shift), rotation up to 10 degrees, noise 0.05; no flip, since a mirrored digit is
        none, and no colours. Both views alike. For grey images of few pixels; of no source.
    The blur reaches max(1, size // 20) pixels, a kernel of a tenth of the side (23 pixels for 224) as in the sources. Deviations from the
    sources: those of `random_boxes`, bilinear resizing in place of bicubic, brightness as a factor, one border rule for the blur.
    Raises ValueError where the name is unknown (lists the known ones) or the size is below 1.
    """
    return PRESETS[name](size)


def _radius(size: int) -> int:
    return max(1, size // 20)


def _simclr(size: int) -> tuple[Augmentation, Augmentation]:
    small = size <= 32
    s = 0.5 if small else 1.0
    both = _shared(size, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s, grey=0.2)
    both = both if small else replace(both, blur=0.5, radius=_radius(size))
    return both, both


def _byol(size: int) -> tuple[Augmentation, Augmentation]:
    first = _shared(
        size, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grey=0.2, blur=1.0, radius=_radius(size)
    )
    return first, replace(first, blur=0.1, solarise=0.2)


def _stl(size: int) -> tuple[Augmentation, Augmentation]:
    both = _shared(size, scale=(0.2, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.1)
    return both, both


def _digits(size: int) -> tuple[Augmentation, Augmentation]:
    both = Augmentation(size, scale=(0.6, 1.0), ratio=(0.9, 1.1), rotation=10.0, noise=0.05)
    return both, both


PRESETS.add("simclr", _simclr)
PRESETS.add("byol", _byol)
PRESETS.add("stl", _stl)
PRESETS.add("digits", _digits)
