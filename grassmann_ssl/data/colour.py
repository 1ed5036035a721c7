"""Colour augmentations of a batch with parameters per image: colour jitter, greyscale, solarisation."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# ITU-R BT.601 luma with the rounding of the field.
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
CONTRAST, SATURATION, HUE = 1, 2, 3


def luma(images: Float[Tensor, " n c h w"]) -> Float[Tensor, " n 1 h w"]:
    """The grey image 0.2989 r + 0.587 g + 0.114 b; the image itself where c = 1.   Shapes (n, c, h, w) -> (n, 1, h, w).

    The weights sum to 0.9999, as in the source, so that white becomes 0.9999. Source: Grill et al. 2020, arXiv 2006.07733, App. B.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = (weight * images[:, k : k + 1] for k, weight in enumerate(GREY_WEIGHTS))
    return red + green + blue


def greyscale(images: Float[Tensor, " n c h w"], chosen: Bool[Tensor, " n"]) -> Float[Tensor, " n c h w"]:
    """The grey image in all channels where `chosen`, else the image. The identity where c = 1."""
    return images if images.shape[1] == 1 else torch.where(_each(chosen), luma(images), images)


def solarise(images: Float[Tensor, " n c h w"], chosen: Bool[Tensor, " n"]) -> Float[Tensor, " n c h w"]:
    """x where x < 1/2, else 1 - x, where `chosen`; else the image. Source: Grill et al. 2020, arXiv 2006.07733, App. B."""
    return torch.where(_each(chosen) & (images >= 0.5), 1 - images, images)


def shift_hue(images: Float[Tensor, " n c h w"], shift: Float[Tensor, " n"]) -> Float[Tensor, " n c h w"]:
    """The hue h of hue, saturation, value turned to h + shift mod 1, with saturation and value kept.

    With V = max(r, g, b), C = V - min(r, g, b) and H = 6 (h + shift) mod 6, the new channels are V - C (1 - clamp(q, 0, 1)), where
    q = |H - 3| - 1 for red, 2 - |H - 2| for green, 2 - |H - 4| for blue. Shapes (n, c, h, w), (n,) -> (n, c, h, w). The identity
    where c = 1 and on grey pixels. Source: Smith 1978, "Color gamut transform pairs", the hexcone model, with q in place of its cases.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    is_red, is_green = value == red, value == green
    difference = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    within = difference / torch.where(chroma > 0, chroma, 1)
    turned = torch.where(is_red, within, torch.where(is_green, within + 2, within + 4)) + 6 * shift[:, None, None]
    turned = turned - 6 * (turned / 6).floor()
    share = torch.stack([(turned - 3).abs() - 1, 2 - (turned - 2).abs(), 2 - (turned - 4).abs()], 1).clamp_(0, 1)
    return (value - chroma)[:, None] + chroma[:, None] * share


def jitter(
    images: Float[Tensor, " n c h w"],
    *,
    factors: Float[Tensor, " n 3"],
    hue: Float[Tensor, " n"],
    order: Int[Tensor, " n 4"],
    chosen: Bool[Tensor, " n"],
) -> Float[Tensor, " n c h w"]:
    """Brightness, contrast, saturation and hue changed in an order drawn per image, where `chosen`; else the image.

    order[i] is a permutation of 0 (brightness), 1 (contrast), 2 (saturation), 3 (hue), first to last. With factor f = factors[i, k],
        brightness  clamp(f x, 0, 1)              contrast  clamp(f x + (1 - f) mean(luma(x)), 0, 1)
        saturation  clamp(f x + (1 - f) luma(x), 0, 1)         hue  `shift_hue` by hue[i].
    Saturation and hue are the identity where c = 1. The conventions are those of torchvision's ColorJitter on tensors, whose order is
    drawn once per call where here each image has its own.
    """
    # Three blends before the hue and three after it, those of the other side with factor 1, instead of all four operations
    # in each of the four places: the hue is the most expensive.
    place = order.argsort(1)
    blends = place[:, :HUE].argsort(1)
    before_hue = place[:, HUE]
    changed = images
    for side in range(2):
        for slot in range(3):
            kind = blends[:, slot]
            here = (slot < before_hue) if side == 0 else (slot >= before_hue)
            factor = torch.where(here, factors.gather(1, kind[:, None])[:, 0], 1)
            changed = _blend(changed, kind, factor)
        if side == 0:
            changed = shift_hue(changed, hue)
    return torch.where(_each(chosen), changed, images)


def _blend(
    images: Float[Tensor, " n c h w"], kind: Int[Tensor, " n"], factor: Float[Tensor, " n"]
) -> Float[Tensor, " n c h w"]:
    """clamp(f x + (1 - f) y, 0, 1) with y = 0, mean luma or luma, by `kind`."""
    grey = luma(images)
    if images.shape[1] == 1:
        # A grey image is its own luma.
        factor = torch.where(kind == SATURATION, 1, factor)
    rest = 1 - factor
    constant = torch.where(kind == CONTRAST, rest * grey.mean((1, 2, 3)), 0)
    blended = images * _each(factor) + _each(constant)
    return blended.addcmul_(_each(torch.where(kind == SATURATION, rest, 0)), grey).clamp_(0, 1)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
