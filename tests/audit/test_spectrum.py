"""The spectrum of a population from samples of any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.audit.numbers import entropy_rank
from grassmann_ssl.audit.rule import participation
from grassmann_ssl.audit.spectrum import population_spectrum, quantiles, simulated
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


def test_simulated_samples_are_smaller_of_the_same_shape_and_always_the_same():
    truth, draws = simulated(law("k^-1", 1024), 256)
    again = simulated(law("k^-1", 1024), 256)[1]
    assert len(truth) == 512 and len(draws) == 20
    assert all((a == b).all() for a, b in zip(draws, again, strict=True))
    assert 0.8 < np.mean([entropy_rank(one) for one in draws]) / entropy_rank(truth) < 1.25
