"""Ranks and decay from one eigenvalue decomposition, against singular values of the embeddings themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.metrics.ranks import (
    alpha_req,
    effective_rank,
    eigenvalues,
    participation_ratio,
    rankme,
    spectral_summary,
    standard_deviations,
)
from tests.oracles import metrics as oracle

EPS = torch.finfo(torch.float64).eps
positive = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)
CONVENTIONS = [(center, of) for center in (False, True) for of in ("singular", "eigen")]


@given(positive, st.floats(1e-100, 1e100))
def test_ranks_lie_between_one_and_d_and_ignore_scale(values, scale):
    spectrum = torch.tensor(values, dtype=torch.float64)
    for rank in (effective_rank, participation_ratio):
        value = rank(spectrum).item()
        assert 1 - 20 * EPS <= value <= len(values) * (1 + 20 * EPS)
        assert abs(rank(spectrum * scale).item() - value) <= 100 * EPS * value


@given(st.integers(1, 6), st.integers(0, 5))
def test_equal_values_count_themselves_and_zeros_do_not(k, zeros):
    spectrum = torch.tensor([0.3] * k + [0.0] * zeros, dtype=torch.float64)
    for rank in (effective_rank, participation_ratio):
        assert abs(rank(spectrum).item() - k) <= 20 * EPS * k


def test_effective_rank_is_the_exponential_of_the_entropy():
    spectrum = np.array([3.0, 1.0, 0.5])
    p = spectrum / spectrum.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    assert abs(effective_rank(torch.tensor(spectrum)).item() - expected) < 10 * EPS


def test_a_point_has_rank_zero_and_batches_are_loops():
    batch = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [-1e-20, 1.0]]])
    for rank in (effective_rank, participation_ratio):
        value = rank(batch)
        assert value.shape == (2, 2) and value[0, 1] == 0
        for i in range(2):
            for j in range(2):
                assert value[i, j] == rank(batch[i, j])


def matrix(kind, n, d):
    """Embeddings of known spectra (n, d)."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n, d))
    if kind == "rank one":
        return np.outer(rng.standard_normal(n), rng.standard_normal(d))
    if kind == "constant":
        return np.tile(rng.standard_normal(d), (n, 1))
    if kind == "constant and noise":
        return np.ones((n, d)) + 1e-3 * noise
    if kind == "rank ten":
        return rng.standard_normal((n, 10)) @ np.linalg.qr(rng.standard_normal((d, 10)))[0].T
    return noise * (np.arange(1, d + 1) ** -0.5 if kind == "power law" else 1)


KINDS = ("rank one", "constant", "constant and noise", "rank ten", "isotropic", "power law")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(300, 40), (30, 40)])
def test_rankme_is_that_of_singular_values_in_every_convention(kind, n, d):
    rows = matrix(kind, n, d)
    moments = SecondMoments.of(torch.tensor(rows))
    for center, of in CONVENTIONS:
        value = rankme(moments, center=center, of=of).item()
        if kind == "constant" and center:
            assert value == 0
            continue
        # Of a Gram matrix eigenvalues come to eps l_1, so a singular value s to eps s_1^2 / s; noise below sqrt(n eps) s_1 counts as
        # 0 in it and as 1e-16 s_1 in the svd. With these spectra both are far below 1e-6.
        assert abs(value / oracle.rankme(rows, center, of) - 1) < 1e-6
        biased = rankme(moments, center=center, of=of, eps=1e-5).item()
        expected = oracle.rankme(rows, center, of, 1e-5)
        # In the svd the p of a zero is 1e-16 + eps, here eps.
        assert abs(biased / expected - 1) < 1e-6
        assert n < d or biased > value


# Published with the exact values of other tools: singular values uncentred, centred, eigenvalues centred.
TABLE = {
    "rank one": (2048, 1.0, 1.0, 1.0),
    "constant": (2048, 1.0, 0.0, 0.0),
    "constant and noise": (512, 1.266, 503.587, 480.599),
    "rank ten": (2048, 9.995, 9.995, 9.979),
    "isotropic": (512, 503.626, 503.624, 480.762),
    "power law": (512, 402.402, 402.397, 114.117),
}


@pytest.mark.parametrize("kind", ["constant and noise", "isotropic", "power law"])
def test_large_matrices_have_the_ranks_of_the_table(kind):
    d, *expected = TABLE[kind]
    moments = SecondMoments(d)
    for batch in np.array_split(matrix(kind, 4096, d), 4):
        moments.update(torch.tensor(batch))
    uncentred = rankme(moments).item()
    summary = spectral_summary(moments, center=True)
    # l_1 scatters by sqrt(2 / 4096) = 2 %, and ranks by less; conventions are far more than 1 % apart.
    np.testing.assert_allclose([uncentred, summary.rankme, summary.effective_rank], expected, rtol=1e-2)


@pytest.mark.parametrize("kind", ["rank one", "constant", "rank ten"])
def test_small_ranks_in_many_dimensions_count_no_noise(kind):
    d, *expected = TABLE[kind]
    d = d // 8
    moments = SecondMoments.of(torch.tensor(matrix(kind, 4000, d)))
    summary = spectral_summary(moments, center=True)
    np.testing.assert_allclose([rankme(moments).item(), summary.rankme, summary.effective_rank], expected, rtol=2e-3)
    assert int((summary.spectrum > 0).sum()) == round(expected[1])


def test_wide_embeddings_have_as_many_singular_values_as_rows():
    rows = matrix("isotropic", 6, 30)
    value = rankme(SecondMoments.of(torch.tensor(rows)), eps=0.01).item()
    assert abs(value - oracle.rankme(rows, eps=0.01)) < 1e-6


def test_a_point_has_no_rank():
    zero, point = torch.zeros(5, 3), torch.full((5, 3), 0.3)
    for center, of in CONVENTIONS:
        for eps in (0.0, 1e-5):
            assert rankme(SecondMoments.of(zero), center=center, of=of, eps=eps).item() == 0
            constant = rankme(SecondMoments.of(point), center=center, of=of, eps=eps).item()
            # A constant embedding has one direction, its mean: eps = 0 sees that one alone.
            assert constant == 0 if center else eps or abs(constant - 1) < 10 * EPS
    for rows, center in ((zero, False), (zero, True), (point, True), (point[:1], True)):
        s = spectral_summary(SecondMoments.of(rows), center=center)
        assert (s.rankme, s.effective_rank, s.participation_ratio, s.stable_rank, s.std_min, s.std_mean) == (0,) * 6
        assert s.alpha is None and s.condition_number == math.inf and not s.spectrum.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_a_constant_embedding_is_a_point_and_a_small_spread_is_not(dtype):
    eps = torch.finfo(dtype).eps
    noise = torch.randint(-1, 2, (200, 8), generator=torch.Generator().manual_seed(0)).to(dtype)
    rounded, spread = 3 * (1 + eps * noise), 3 * (1 + 100 * eps * noise)
    assert not torch.equal(rounded, rounded[:1].expand_as(rounded))
    s = spectral_summary(SecondMoments.of(rounded), center=True)
    assert s.rankme == 0 and s.std_mean == 0
    s = spectral_summary(SecondMoments.of(spread), center=True)
    assert s.rankme > 7.5 and s.std_min > 0


@given(st.lists(st.floats(0.01, 10), min_size=3, max_size=6), st.floats(1e-40, 1e40))
def test_the_summary_is_that_of_known_eigenvalues(values, scale):
    values = np.sort(values)[::-1]
    d = len(values)
    # Rows +-sqrt(d l_k) e_k, rotated: mean 0 and covariance of exactly these eigenvalues.
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    half = np.diag(np.sqrt(d * values)) @ rotation
    rows = np.concatenate([half, -half])
    s = spectral_summary(SecondMoments.of(torch.tensor(rows * scale)), center=True)
    accuracy = 200 * EPS * values[0] / values[-1]
    np.testing.assert_allclose(s.spectrum.numpy(), values * scale**2, rtol=accuracy)
    assert abs(s.rankme - oracle.entropy_rank(np.sqrt(values))) < d * accuracy
    assert abs(s.effective_rank - oracle.entropy_rank(values)) < d * accuracy
    assert abs(s.participation_ratio - values.sum() ** 2 / (values**2).sum()) < d * accuracy
    assert abs(s.stable_rank - values.sum() / values[0]) < d * accuracy
    assert abs(s.condition_number / (values[0] / values[-1]) - 1) < accuracy
    slope = np.polyfit(np.log(np.arange(1, d + 1)), np.log(values), 1)[0]
    assert s.alpha_range == (1, d) and abs(s.alpha + slope) < 10 * accuracy
    np.testing.assert_allclose([s.std_min, s.std_mean], [f(rows.std(0) * scale) for f in (np.min, np.mean)], rtol=1e-12)
    assert (s.count, s.center) == (2 * d, True)


def test_centring_is_what_it_says():
    rows = matrix("isotropic", 100, 5) + 3
    moments = SecondMoments.of(torch.tensor(rows))
    for center in (False, True):
        expected = np.linalg.svd(rows - center * rows.mean(0), compute_uv=False) ** 2 / len(rows)
        s = spectral_summary(moments, center=center)
        np.testing.assert_allclose(s.spectrum.numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(s.std_min, rows.std(0).min(), rtol=1e-13)
    np.testing.assert_allclose(standard_deviations(moments).numpy(), rows.std(0), rtol=1e-13)


def test_rankme_of_a_spectrum_takes_batches():
    spectra = torch.tensor([[4.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    for of in ("singular", "eigen"):
        for eps in (0.0, 1e-3):
            values = rankme(spectra, of=of, eps=eps)
            for row, value in zip(spectra.numpy(), values, strict=True):
                expected = oracle.entropy_rank(np.sqrt(row) if of == "singular" else row, eps)
                assert abs(value.item() - expected) < 20 * EPS


def test_alpha_is_the_slope_on_its_range():
    k = torch.arange(1, 101, dtype=torch.float64)
    # A power of k from 10 to 50, something else elsewhere.
    spectrum = torch.where((k >= 10) & (k <= 50), k**-1.3, torch.where(k < 10, 1.0, 1e-3 / k**4))
    alpha, used = alpha_req(spectrum, (10, 50))
    assert used == (10, 50) and abs(alpha - 1.3) < 1e-13
    assert abs(alpha_req(spectrum)[0] - 1.3) > 0.1
    deficient = torch.where(k <= 20, k**-1.0, 0.0)
    alpha, used = alpha_req(deficient)
    assert used == (1, 20) and abs(alpha - 1) < 1e-13
    assert alpha_req(deficient, (19, 50)) == (None, (19, 20))
    assert alpha_req(torch.tensor([1.0, 0.5, 0.0])) == (None, (1, 2))
    with pytest.raises(ValueError, match=r"alpha_range must be \(first, last\)"):
        alpha_req(spectrum, (0, 5))


@given(st.lists(st.floats(1e-6, 1e3), min_size=3, max_size=40), st.integers(1, 4))
def test_alpha_is_a_weighted_fit(values, first):
    """numpy's weights multiply the residuals, not their squares."""
    spectrum = np.sort(np.array(values))[::-1].copy()
    if len(values) < first + 2:
        return
    k = np.arange(first, len(values) + 1)
    for weights, w in (("equal", np.ones(len(k))), ("inverse", k**-0.5)):
        alpha, used = alpha_req(torch.from_numpy(spectrum), (first, len(values)), weights=weights)
        expected = -np.polyfit(np.log(k), np.log(spectrum[first - 1 :]), 1, w=w)[0]
        assert used == (first, len(values)) and abs(alpha - expected) < 1e-11 * (1 + abs(expected))


def test_bad_input_is_named():
    moments = SecondMoments.of(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="moments must be of finite embeddings"):
        eigenvalues(moments, center=True)
    with pytest.raises(ValueError, match="moments must hold at least one row"):
        spectral_summary(SecondMoments(2), center=False)
    with pytest.raises(ValueError, match="center must be False for a spectrum"):
        rankme(torch.ones(3), center=True)
    for rows in (torch.tensor([[1.0, 2.0], [0.5, 0.1]]), torch.tensor([1.0, -0.1])):  # embeddings taken for a spectrum
        with pytest.raises(ValueError, match="source must be moments or spectra that decrease and are not negative"):
            rankme(rows)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        rankme(torch.ones(3), eps=-1.0)
