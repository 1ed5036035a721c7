"""Geometric augmentations of a batch with parameters per image: crop, rotation, flip and resize in one resampling; blur."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

ATTEMPTS = 10


def random_boxes(
    n: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Float[Tensor, " n 4"]:
    """Boxes (top, left, height, width) in pixels: area uniform, ratio width / height log-uniform, place uniform.

    Area = a height width with a ~ U(scale), ratio = exp(U(log ratio[0], log ratio[1])); of ten such shapes the first that
    fits in the image is taken, at a uniform place inside. Where none fits: the whole image, shortened about its centre on the one
    side that brings its ratio into the range. Deviation from torchvision's RandomResizedCrop: sides and places are not rounded to
    whole pixels.
    """
    device = generator.device
    uniform = torch.rand(2 * ATTEMPTS + 2, n, device=device, generator=generator)
    area, log_ratio, place = torch.split(uniform, [ATTEMPTS, ATTEMPTS, 2])
    areas = (scale[0] + (scale[1] - scale[0]) * area) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = (low + (high - low) * log_ratio).exp()
    heights, widths = (areas / ratios).sqrt(), (areas * ratios).sqrt()
    fits = (heights <= height) & (widths <= width)
    first = fits.int().argmax(0, keepdim=True)
    whole = min(max(width / height, ratio[0]), ratio[1])
    fallback = (min(height, width / whole), min(width, height * whole))
    none = ~fits.any(0)
    h, w = (
        torch.where(none, side, sides.gather(0, first)[0])
        for side, sides in zip(fallback, (heights, widths), strict=True)
    )
    place = torch.where(none, 0.5, place)
    return torch.stack([place[0] * (height - h), place[1] * (width - w), h, w], 1)


def resample(
    images: Float[Tensor, " n c h w"],
    size: int,
    *,
    boxes: Float[Tensor, " n 4"],
    angles: Float[Tensor, " n"],
    flips: Bool[Tensor, " n"],
) -> Float[Tensor, " n c size size"]:
    """The box of each image, rotated about its centre by an angle, mirrored where `flips`, resized to size x size.

    Output pixel (i, j) is the bilinear interpolation of the image at centre + R(angle) (v, u), in pixels, where v = ((i + 1/2)
    / size - 1/2) height of the box and u = +-((j + 1/2) / size - 1/2) width (minus where flipped), with R(angle) (v, u) =
    (v cos + u sin, u cos - v sin), angle in radians; outside the image the nearest pixel of its border is taken.
    No antialiasing. Where a box is at most size x size pixels (always when the images have the size of the views) none is due, and without
    an angle this is Pillow's resize(box=...), to which antialiasing then adds nothing; torchvision cuts the box out first and so differs
    within half a pixel of its edge. A box s > 1 times larger than the view is sampled at every s-th pixel, and detail finer
    than s pixels aliases: resize such images beforehand (`image_folder` with `size`).
    """
    height, width = images.shape[-2:]
    place = ((torch.arange(size, dtype=images.dtype, device=images.device) + 0.5) / size - 0.5)[None]
    top, left, box_height, box_width = boxes.T[..., None]
    across = torch.where(flips, -1, 1)[:, None] * box_width
    v, u = (place * box_height)[:, :, None], (place * across)[:, None, :]
    cos, sin = torch.cos(angles)[:, None, None], torch.sin(angles)[:, None, None]
    rows = (top + box_height / 2)[..., None] + v * cos + u * sin
    columns = (left + box_width / 2)[..., None] + u * cos - v * sin
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def blur(images: Float[Tensor, " n c h w"], sigmas: Float[Tensor, " n"], radius: int) -> Float[Tensor, " n c h w"]:
    """Gaussian blur of each image by its own standard deviation in pixels; 0 leaves the image as it is.

    Weights proportional to exp(-k^2 / 2 sigma^2) for k = -radius..radius, summing to one, along both sides; the image is mirrored at its
    border pixels (which are not repeated). Needs radius < h, w. Shapes (n, c, h, w), (n,) -> (n, c, h, w).
    """
    k = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    # With sigma near 0 all weights but the middle one vanish: k / sigma stays finite by the clamp, which is far below any blur seen.
    logits = -0.5 * (k / sigmas[:, None].clamp(min=1e-3)).square()
    weights = torch.softmax(logits, 1).T[..., None, None, None]
    h, w = images.shape[-2:]
    # Sums of shifted images, not a convolution: those run in bfloat16 under autocast and in TF32 by default.
    padded = F.pad(images, (radius, radius, 0, 0), mode="reflect")
    smooth = weights[0] * padded[..., :w]
    for j in range(1, 2 * radius + 1):
        smooth.addcmul_(weights[j].expand_as(smooth), padded[..., j : j + w])
    padded = F.pad(smooth, (0, 0, radius, radius), mode="reflect")
    smooth = weights[0] * padded[..., :h, :]
    for j in range(1, 2 * radius + 1):
        smooth.addcmul_(weights[j].expand_as(smooth), padded[..., j : j + h, :])
    return torch.where((sigmas > 0)[:, None, None, None], smooth, images)
