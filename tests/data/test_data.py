"""Sources, views and moments."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.data import (
    SOURCES,
    Triplets,
    View,
    cross_moment,
    digits,
    gaussian_pairs,
    make_triplets,
    moments_of,
    photos,
    triplets,
)

STILL = View(max_shift=0, max_rotation=0, noise=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_digits_are_the_real_images():
    images = digits()
    assert images.shape == (1797, 8, 8) and images.dtype == torch.float64
    assert images.min() == 0 and images.max() == 1
    assert images.sum().item() == 561718 / 16  # the pixel sum of load_digits


def test_photo_patches_are_centred_and_of_normalised_contrast():
    patches = photos(101, generator())
    assert patches.shape == (101, 8, 8)
    assert patches.mean((1, 2)).abs().max() < 1e-12
    assert patches.square().mean((1, 2)).max() < 1


@given(h=st.integers(2, 7), w=st.integers(2, 7), n=st.integers(1, 3))
def test_a_view_without_settings_is_the_image(h, w, n):
    images = torch.rand(n, h, w, dtype=torch.float64)
    torch.testing.assert_close(STILL(images, generator()), images, rtol=0, atol=1e-13)


@given(st.integers(0, 1000))
def test_a_shift_moves_by_at_most_its_bound(seed):
    images = torch.zeros(1, 9, 7, dtype=torch.float64)
    images[0, 4, 3] = 1
    view = View(max_shift=1.0, max_rotation=0, noise=0)
    seen = view(images, generator(seed))
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    centre = torch.stack([(seen[0] * rows).sum(), (seen[0] * columns).sum()])
    assert abs(seen.sum() - 1) < 1e-12  # bilinear weights of one pixel sum to one
    assert (centre - torch.tensor([4.0, 3.0])).abs().max() <= 1


def test_rotation_is_rigid_in_a_rectangle():
    # A point on the horizontal axis at distance 3 from the centre stays at distance 3, whatever the shape of the image.
    images = torch.zeros(200, 7, 15, dtype=torch.float64)
    images[:, 3, 10] = 1
    seen = View(max_shift=0, max_rotation=30, noise=0)(images, generator())
    rows, columns = torch.meshgrid(torch.arange(7.0) - 3, torch.arange(15.0) - 7, indexing="ij")
    mass = seen.sum((1, 2))
    distance = torch.hypot((seen * rows).sum((1, 2)) / mass, (seen * columns).sum((1, 2)) / mass)
    assert (distance - 3).abs().max() < 0.15  # bilinear interpolation pulls a lone pixel inward a little


def test_noise_has_the_stated_deviation():
    seen = View(max_shift=0, max_rotation=0, noise=0.3)(torch.zeros(400, 8, 8, dtype=torch.float64), generator())
    assert abs(seen.std().item() - 0.3) < 5 * 0.3 / np.sqrt(2 * seen.numel())


@given(n=st.integers(2, 6), copies=st.integers(1, 3))
def test_the_negative_is_another_image(n, copies):
    images = torch.arange(n, dtype=torch.float64)[:, None, None].expand(n, 2, 2)
    result = make_triplets(images, STILL, generator(n), copies)
    assert result.x.shape == (n * copies, 4)
    torch.testing.assert_close(result.x, result.x_positive)
    assert (result.x - result.x_negative).abs().min() > 0.5


def test_views_repeat_with_the_seed_and_differ_within_a_pair():
    first, second = (make_triplets(digits()[:20], View(), generator(3)) for _ in range(2))
    assert torch.equal(first.x, second.x) and torch.equal(first.x_negative, second.x_negative)
    assert not torch.equal(first.x, first.x_positive)


def test_gaussian_pairs_have_the_given_cross_moment():
    spectrum = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    n = 200_000
    moments = moments_of(gaussian_pairs(spectrum.tolist(), 0.5, n, generator()))
    error = 6 * (1 + 0.25) / np.sqrt(n)  # six standard errors of a product of two entries of variance up to 1.25
    assert (moments.cross - torch.diag(spectrum)).abs().max() < error
    assert (moments.second - torch.diag(spectrum + 0.25)).abs().max() < error
    assert moments.cross_negative.abs().max() < error


@pytest.mark.long
@pytest.mark.parametrize("source", SOURCES)
def test_a_source_is_centred_and_scaled(source):
    moments = moments_of(triplets(source, View(), generator(), spectrum=(1, 0.5, 0.2)))
    assert abs(torch.linalg.eigvalsh(moments.cross)[-1] - 0.5) < 1e-12
    assert moments.mean.abs().max() < 1e-12
    torch.testing.assert_close(moments.covariance, moments.second)


@given(st.integers(1, 9), st.integers(1, 5))
def test_cross_moment_is_the_sum_over_samples(n, m):
    x, y = torch.randn(2, n, m, dtype=torch.float64, generator=generator(n * m))
    expected = sum((torch.outer(a, b) + torch.outer(b, a)) / (2 * n) for a, b in zip(x, y, strict=True))
    torch.testing.assert_close(cross_moment(x, y), expected)


def test_covariance_subtracts_the_mean():
    x = torch.randn(500, 3, dtype=torch.float64, generator=generator()) + torch.tensor([5.0, 0, -2])
    covariance = moments_of(Triplets(x, x, x)).covariance
    torch.testing.assert_close(covariance, torch.cov(x.T, correction=0))


def test_bad_input_is_named():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="x_negative must be finite, but 1 of its 6 entries"):
        Triplets(x, x, torch.tensor([[0.0, 0], [0, float("nan")], [0, 0]]))
    with pytest.raises(ValueError, match="x must be a non-empty"):
        Triplets(x[:0], x[:0], x[:0])
    with pytest.raises(ValueError, match="noise must be finite and not negative, got -1"):
        View(noise=-1)
    with pytest.raises(ValueError, match="unknown data set 'mnist': known are digits, photos, gaussian"):
        triplets("mnist", View(), generator())
    with pytest.raises(ValueError, match="spectrum must be finite"):
        triplets("gaussian", View(), generator(), spectrum=(1.0, float("inf")))
    with pytest.raises(ValueError, match="spectrum must be a non-empty list"):
        triplets("gaussian", View(), generator())
    with pytest.raises(ValueError, match="share nothing that could be learned"):
        triplets("gaussian", View(), generator(), spectrum=(0.0,), n=1)
    with pytest.raises(ValueError, match="images must have shape"):
        make_triplets(torch.zeros(1, 8, 8), View(), generator())
