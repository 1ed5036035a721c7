"""Data sources: scikit-learn's digits and photographs, and synthetic pairs with a known spectrum."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.data.views import Triplets, View, make_triplets
from grassmann_ssl.registry import Registry

SOURCES: Registry[Callable[[View, torch.Generator, Sequence[float], int], Triplets]] = Registry("data set")
"""(view, generator, spectrum, n) -> triplets as they are, before `triplets` centres and scales them"""


def digits() -> Float[Tensor, "1797 8 8"]:
    """scikit-learn's 1797 scanned digits, 8 x 8 pixels in [0, 1] (UCI optical recognition of handwritten digits)."""
    from sklearn.datasets import load_digits

    return torch.as_tensor(load_digits().images / 16, dtype=torch.float64)


def photos(n: int, generator: torch.Generator, size: int = 8) -> Float[Tensor, " n size size"]:
    """Random grey patches of scikit-learn's two photographs (china.jpg, flower.jpg), half from each.

    Every patch has its mean removed and its contrast normalised, x / sqrt(var x + 0.01) with pixels in [0, 1]: without
    that the brightness of the patch is one mode that dwarfs all others.
    """
    from sklearn.datasets import load_sample_images

    patches = []
    for photo, count in zip(load_sample_images().images, (n - n // 2, n // 2), strict=True):
        grey = torch.tensor(photo, dtype=torch.float64).mean(-1) / 255
        rows, columns = (torch.randint(0, side - size + 1, (count,), generator=generator) for side in grey.shape)
        offset = torch.arange(size)
        patches.append(grey[(rows[:, None] + offset)[:, :, None], (columns[:, None] + offset)[:, None, :]])
    stacked = torch.cat(patches)
    centred = stacked - stacked.mean((1, 2), keepdim=True)
    return centred / (centred.square().mean((1, 2), keepdim=True) + 0.01).sqrt()


def gaussian_pairs(spectrum: Sequence[float], noise: float, n: int, generator: torch.Generator) -> Triplets:
    """Gaussian triplets whose cross-moment has a given spectrum.

    x = b + noise * e, x+ = b + noise * e+, x- = b- + noise * e-, with b, b- ~ N(0, diag(spectrum)) and e ~ N(0, I);
    in the population Gamma = diag(spectrum) and Sigma = Gamma + noise^2 I. Shapes (n, len(spectrum)).
    Raises ValueError where the spectrum is empty, not finite or has negative entries.
    """
    values = torch.as_tensor(spectrum, dtype=torch.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"spectrum must be a non-empty list of numbers, got {spectrum!r}")
    if not (torch.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"spectrum must be finite and not negative, got {values.tolist()}")
    standard = torch.randn(5, n, len(values), dtype=torch.float64, generator=generator)
    signal, other = standard[:2] * values.sqrt()
    e, e_positive, e_negative = standard[2:] * noise
    return Triplets(signal + e, signal + e_positive, other + e_negative)


def extent_bias_pairs(large: int, small: int, noise: float, n: int, generator: torch.Generator) -> Triplets:
    """Triplets of two binary features that differ in how many coordinates show them.

    x = [b_l 1_large, b_s 1_small] + noise * e, with b_l, b_s = +-1 shared by x and x+, and new noise in each view; in the population
    Gamma has the eigenvalues `large` and `small` and zeros, Sigma = Gamma + noise^2 I. Shapes (n, large + small).
    Raises ValueError where an extent is below 1.
    """
    if large < 1 or small < 1:
        raise ValueError(f"large and small must be at least 1, got {large} and {small}")
    signs = 2.0 * torch.randint(0, 2, (2, n, 2), generator=generator).double() - 1
    extent = torch.tensor([large, small])
    signal, other = signs.repeat_interleave(extent, -1)
    e, e_positive, e_negative = torch.randn(3, n, large + small, dtype=torch.float64, generator=generator) * noise
    return Triplets(signal + e, signal + e_positive, other + e_negative)


def triplets(
    source: str, view: View, generator: torch.Generator, spectrum: Sequence[float] = (), n: int = 20_000
) -> Triplets:
    """Triplets of a named source, ready for training: centred, and scaled by one number.

    `digits` (every image ten times) and `photos` (n patches) are seen through `view`; `gaussian` (n samples with
    `spectrum`) and `extent_bias` (n samples, features of 9 and of 1 coordinate) take only the noise of it. The mean of all views
    of x and x+ is subtracted, and the data are divided by one number so that the largest eigenvalue of the cross-moment Gamma is
    1/2: below 1 the constrained Barlow Twins loss has the top-d eigenspace of Gamma as its minimiser, and 1/2 keeps the slowest
    of its rates 4 (gamma_j - gamma_i)(1 - gamma_j) large. Raises ValueError where the source is unknown (lists the known ones) or
    its settings are bad.
    """
    raw = SOURCES[source](view, generator, spectrum, n)
    mean = (raw.x.mean(0) + raw.x_positive.mean(0)) / 2
    centred = raw.affine(mean, 1.0)
    cross = centred.x.T @ centred.x_positive / len(centred.x)
    largest = torch.linalg.eigvalsh((cross + cross.T) / 2)[-1]
    if not largest > 0:
        raise ValueError(
            f"the cross-moment of {source!r} has no positive eigenvalue (largest {largest:.3g}): "
            "its two views share nothing that could be learned"
        )
    return centred.affine(torch.zeros_like(mean), float((0.5 / largest).sqrt()))


SOURCES.add("digits", lambda view, generator, spectrum, n: make_triplets(digits(), view, generator, copies=10))
SOURCES.add("photos", lambda view, generator, spectrum, n: make_triplets(photos(n, generator), view, generator))
SOURCES.add("gaussian", lambda view, generator, spectrum, n: gaussian_pairs(spectrum, view.noise, n, generator))
SOURCES.add("extent_bias", lambda view, generator, spectrum, n: extent_bias_pairs(9, 1, view.noise, n, generator))
