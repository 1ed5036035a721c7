"""Views of images by random shift, small rotation and noise, and the triplets (x, x+, x-) made of them."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.shown import Shown


@dataclass(frozen=True)
class View:
    """A random view of an image: rotate, shift, add noise.

    view(img)(u) = img(R(angle) u + shift) + noise * N(0, 1), with bilinear interpolation and zeros outside the image;
    angle ~ U(-max_rotation, max_rotation) in degrees, shift ~ U(-max_shift, max_shift)^2 in pixels, drawn per image.
    Raises ValueError where a setting is negative or not finite.
    """

    max_shift: float = 1.0
    max_rotation: float = 5.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_shift", "max_rotation", "noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value}")

    def __call__(self, images: Float[Tensor, " n h w"], generator: torch.Generator) -> Float[Tensor, " n h w"]:
        n, h, w = images.shape
        dtype = images.dtype
        angle = (2 * torch.rand(n, dtype=dtype, generator=generator) - 1) * math.radians(self.max_rotation)
        shift = (2 * torch.rand(n, 2, dtype=dtype, generator=generator) - 1) * self.max_shift
        noise = torch.randn(n, h, w, dtype=dtype, generator=generator) * self.noise
        cos, sin = torch.cos(angle), torch.sin(angle)
        # Normalised coordinates run from -1 to 1 over the width and the height: the rotation is scaled to stay rigid.
        rows = [cos, -sin * h / w, 2 * shift[:, 0] / w, sin * w / h, cos, 2 * shift[:, 1] / h]
        grid = F.affine_grid(torch.stack(rows, -1).reshape(n, 2, 3), [n, 1, h, w], align_corners=False)
        return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0] + noise


@dataclass(frozen=True, repr=False)
class Triplets(Shown):
    """x, a second view x+ of the same sample, and a view x- of another sample: three (n, m) arrays, one row a sample.

    Raises ValueError naming the array that is empty, not finite or of another shape than x.
    """

    x: Float[Tensor, " n m"]
    x_positive: Float[Tensor, " n m"]
    x_negative: Float[Tensor, " n m"]

    def __post_init__(self) -> None:
        for name in ("x", "x_positive", "x_negative"):
            array = getattr(self, name)
            if array.ndim != 2 or array.shape != self.x.shape or not array.numel():
                raise ValueError(
                    f"{name} must be a non-empty (n, m) array like x {tuple(self.x.shape)}, got {tuple(array.shape)}"
                )
            if not torch.isfinite(array).all():
                bad = int((~torch.isfinite(array)).sum())
                raise ValueError(f"{name} must be finite, but {bad} of its {array.numel()} entries are not")

    def affine(self, shift: Tensor, scale: float) -> "Triplets":
        """(x - shift) * scale for all three arrays."""
        return Triplets(*((a - shift) * scale for a in (self.x, self.x_positive, self.x_negative)))


def make_triplets(images: Float[Tensor, " n h w"], view: View, generator: torch.Generator, copies: int = 1) -> Triplets:
    """Triplets of flattened views: each image seen `copies` times, x- being a view of a different image.

    x = view(img_i), x+ = view(img_i), x- = view(img_j) with j != i uniform. Returns (copies * n, h * w) arrays.
    Raises ValueError where `images` is not a finite (n >= 2, h, w) array.
    """
    if images.ndim != 3 or images.shape[0] < 2:
        raise ValueError(f"images must have shape (n >= 2, h, w), got {tuple(images.shape)}")
    images = images.repeat(copies, 1, 1)
    total, n = len(images), len(images) // copies
    # A rotation of the index by 1..n-1 never lands on the same image.
    other = (torch.arange(total) + torch.randint(1, n, (total,), generator=generator)) % n
    return Triplets(*(view(source, generator).flatten(1) for source in (images, images, images[other])))
