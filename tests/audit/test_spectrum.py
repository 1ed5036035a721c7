"""The spectrum of a population from samples of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.audit.numbers import SPECTRAL, entropy_rank
from grassmann_ssl.audit.rule import participation
from grassmann_ssl.audit.spectrum import (
    COARSE,
    SIDE,
    bounds,
    gram_matrices,
    population_spectra,
    population_spectrum,
    quantiles,
    simulated,
)
from grassmann_ssl.metrics.ranks import alpha_req
from tests.profiles import examples


def sampled(spectrum, n, seed=0):
    """Eigenvalues of a sample covariance of n rows, of known mean."""
    z = np.random.default_rng(seed).standard_normal((n, len(spectrum))) * np.sqrt(spectrum)
    gram = z @ z.T if n < len(spectrum) else z.T @ z
    return np.linalg.eigvalsh(gram)[::-1].clip(min=0)[: min(n, len(spectrum))] / n


def law(name, d):
    k = np.arange(1, d + 1)
    return {
        "isotropic": np.ones(d),
        "half dead": (k <= d / 2) * 1.0,
        "k^-0.5": k**-0.5,
        "k^-1": 1.0 / k,
        "spiked": np.where(k <= 5, 30.0, 1.0),
    }[name]


@pytest.mark.long
@pytest.mark.parametrize("name", ["isotropic", "half dead", "k^-0.5", "k^-1", "spiked"])
@pytest.mark.parametrize("n", [64, 128, 512, 2048])
def test_ranks_of_the_population_are_found_where_the_samples_are_far_off(name, n):
    truth = law(name, 256)
    samples = [sampled(truth, n, seed) for seed in range(8)]
    found = [population_spectrum(sample, n, 256) for sample in samples]
    for rank in (entropy_rank, participation):
        errors = np.array([rank(one) / rank(truth) - 1 for one in found])
        assert abs(errors.mean()) < 0.03 + 4 * errors.std() / np.sqrt(8)
        assert errors.std() < 0.25 * np.sqrt(64 / n)
    if n <= 128:
        assert entropy_rank(samples[0]) / entropy_rank(truth) - 1 < -0.35


@pytest.mark.parametrize("d", [64, 600])
def test_modes_far_above_the_rest_are_counted(d):
    truth = np.r_[0.9, 0.8, 0.7, 0.65, 0.6, np.full(d - 5, 1e-5)]
    found = population_spectrum(sampled(truth, 512), 512, d)
    assert (found > 1e-3).sum() == 5 and np.allclose(found[:5], truth[:5], rtol=0.2)
    assert np.allclose(np.median(found), 1e-5, rtol=0.1)


def test_the_dead_half_is_seen():
    found = population_spectrum(sampled(law("half dead", 256), 512), 512, 256)
    assert (found > 1e-5).sum() == pytest.approx(128, abs=2)


@given(st.floats(1e-6, 1e6), st.integers(0, 50))
@examples(20)
def test_the_spectrum_scales_with_the_sample_and_keeps_its_sum(scale, seed):
    sample = sampled(law("k^-0.5", 40), 60, seed)
    one, other = population_spectrum(sample, 60, 40), population_spectrum(scale * sample, 60, 40)
    assert np.allclose(scale * one, other, rtol=1e-3, atol=1e-4 * scale * one[0])
    assert (np.diff(one) <= 0).all() and one.min() >= 0
    assert one.sum() == pytest.approx(sample.sum(), rel=1e-3)


def test_quantiles_of_a_distribution():
    grid, weights = np.array([0.0, 1.0, 2.0]), np.array([0.25, 0.5, 0.25])
    assert quantiles(grid, weights, 4).tolist() == [2, 1, 1, 0]
    assert quantiles(grid, weights, 2).tolist() == [1.5, 0.5] and quantiles(grid, weights, 1).tolist() == [1]


@pytest.mark.parametrize("name", ["k^-0.5", "k^-1"])
@pytest.mark.parametrize("n", [62, 64, 66, 256])
def test_a_square_sample_is_no_worse_than_others(name, n):
    """Its smallest eigenvalues are near 0 whatever the population."""
    truth = law(name, n)
    found = [
        entropy_rank(population_spectrum(sampled(truth, n, seed), n, n)) / entropy_rank(truth) for seed in range(12)
    ]
    assert abs(np.mean(found) - 1) < 0.03 + 4 * np.std(found) / np.sqrt(12) and max(found) < 1.4


@pytest.mark.parametrize(("d", "alive"), [(256, 128), (64, 3), (100, 37)])
def test_a_dimension_is_alive_or_dead(d, alive):
    found = population_spectrum(sampled((np.arange(d) < alive) * 1.0, 8 * d), 8 * d, d)
    assert (found[:alive] > 0.3).all() and (found[alive:] == 0).all()


def bounded(truth, n, seed, student=False):
    """Which eigenvalues of the population are within their bounds, those of a sample of n rows."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, len(truth)))
    if student:
        z *= np.sqrt(3 / rng.chisquare(5, z.shape))
    z = z * np.sqrt(truth)
    values = np.linalg.svd(z, compute_uv=False) ** 2 / n
    low, high = bounds(values, n, population_spectrum(values, n, len(truth)), 1.2 * truth.sum(), 0.95)
    assert (low <= high).all() and (np.diff(low) <= 0).all() and (np.diff(high) <= 0).all()
    return (low <= truth * (1 + 1e-9)) & (truth <= high * (1 + 1e-9))


@pytest.mark.long
@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("name", ["isotropic", "half dead", "k^-0.5", "k^-1", "spiked"])
@pytest.mark.parametrize("n", [16, 64, 80, 320])
def test_eigenvalues_are_within_their_bounds(name, n, student):
    inside = np.array([bounded(law(name, 64), n, seed, student) for seed in range(20)])
    assert inside.mean() > 0.95


def test_bounds_say_nothing_of_what_no_row_has_shown():
    low, high = bounds(sampled(np.ones(64), 16), 16, np.ones(64), 64.0, 0.95)
    assert (low[16:] == 0).all() and np.allclose(high[16:], 64 / np.arange(17, 65))


def test_simulated_samples_are_smaller_of_the_same_shape_and_always_the_same():
    truth, draws = simulated(law("k^-1", 1024), 256)
    again = simulated(law("k^-1", 1024), 256)[1]
    assert truth.shape == (4 * SIDE,) and draws.shape == (8, 4 * SIDE) and (draws == again).all()
    assert 0.8 < entropy_rank(draws).mean() / entropy_rank(truth) < 1.25


@pytest.mark.parametrize("name", ["isotropic", "half dead", "k^-1", "spiked"])
@pytest.mark.parametrize("n", [32, 64, 256])
def test_errors_of_a_coarse_estimate_are_those_of_the_estimate(name, n):
    """Half of the points and atoms show how far estimates from few rows are off, a third do not; several at once are as one by one."""
    truth = law(name, 64)
    samples = np.stack([sampled(truth, n, seed) for seed in range(8)])
    fine, coarse = (population_spectra(samples, n, 64, samples.sum(1), step) for step in (1, COARSE))
    assert all(np.allclose(a, population_spectrum(b, n, 64), rtol=1e-9) for a, b in zip(fine, samples, strict=True))
    seen, exact = (np.log(entropy_rank(found) / entropy_rank(truth)).std() for found in (coarse, fine))
    assert 0.85 < seen / exact < 1.15


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(0, 30))
@examples(20)
def test_the_decay_of_several_spectra_is_that_of_each(seed, d, dead):
    spectra = -np.sort(-np.random.default_rng(seed).random((3, d)))
    spectra[1, max(d - dead, 0) :] = 0
    slopes = [alpha_req(torch.from_numpy(one))[0] for one in spectra]
    expected = [np.nan if slope is None else slope for slope in slopes]
    alpha = next(one.function for one in SPECTRAL if one.name == "alpha")
    np.testing.assert_allclose(alpha(spectra), expected, rtol=1e-9, atol=1e-9)


def test_a_smaller_population_keeps_the_shares_of_its_modes():
    one = np.r_[1.0, np.full(1023, 1e-4)]
    truth = simulated(one, 4096)[0]
    assert truth[0] / truth.sum() == pytest.approx(one[0] / one.sum(), rel=3e-3)


@pytest.mark.parametrize(("rows", "columns"), [(40, 8), (8, 8), (8, 30), (8, 80), (8, 81)])
def test_gram_matrices_are_those_of_gaussian_rows(rows, columns):
    """E tr G = tr T and E tr G^2 = tr T^2 (1 + 1/n) + (tr T)^2 / n, also of the triangles that stand for many rows or dimensions."""
    truth = np.repeat([3.0, 1.0], [3, columns - 3])
    grams = gram_matrices(truth, rows, 4000)
    trace, square = np.trace(grams, axis1=1, axis2=2), (grams**2).sum((1, 2))
    exact = truth.sum(), (truth**2).sum() * (1 + 1 / rows) + truth.sum() ** 2 / rows
    for found, wanted in zip((trace, square), exact, strict=True):
        assert abs(found.mean() - wanted) < 4 * found.std() / np.sqrt(len(found))
    assert trace.var() == pytest.approx(2 * (truth**2).sum() / rows, rel=0.15)
