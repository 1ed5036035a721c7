"""LiDAR against loops and against its population value."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.metrics.lidar import lidar, lidar_without
from grassmann_ssl.metrics.ranks import effective_rank
from tests.oracles import metrics as oracle


def samples(n, q, signal, seed=0):
    """z_ij = signal * s_i + w_ij, s and w standard normal."""
    rng = np.random.default_rng(seed)
    d = len(signal)
    return rng.standard_normal((n, 1, d)) * np.asarray(signal) + rng.standard_normal((n, q, d))


@given(st.integers(4, 8), st.integers(2, 4), st.integers(1, 6), st.integers(0, 99))
def test_lidar_is_that_of_the_loops(n, q, d, seed):
    z = samples(n, q, np.linspace(0, 3, d), seed)
    for delta, eps in ((1e-4, 1e-8), (1.0, 0.0), (0.1, 1e-2)):
        # With S_w of rank below d its inverse root is 100 at most: rounding of S_b grows by 1e4.
        assert abs(lidar(torch.tensor(z), delta=delta, eps=eps).item() - oracle.lidar(z, delta, eps)) < 1e-8


def test_five_informative_of_64_dimensions():
    # Eigenvalues of the population: signal^2 + 1/q where samples differ, 1/q, the chance of means of q views, elsewhere.
    q, signal = 5, np.r_[np.full(5, 4.0), np.zeros(59)]
    expected = oracle.entropy_rank(signal**2 + 1 / q)
    assert abs(expected - 10.016) < 1e-3
    # Eigenvalues of n samples spread by sqrt(64 / n) of themselves, which takes a part of about 64 / n off the rank.
    few, many = (lidar(torch.tensor(samples(n, q, signal))).item() for n in (1000, 8000))
    assert abs(few - 9.73) < 0.1 and abs(many / expected - 1) < 0.01
    assert 5 < lidar(torch.tensor(samples(1000, 60, 2 * signal))).item() < 5.2
    # The features themselves have more directions: what LiDAR is for.
    features = samples(1000, q, signal).reshape(-1, 64)
    assert oracle.entropy_rank(np.linalg.eigvalsh(np.cov(features.T))) > 2 * few


def test_the_bound_by_samples_and_invariances():
    z = torch.tensor(samples(5, 3, np.full(20, 2.0)))
    value = lidar(z, eps=0.0).item()
    assert value <= 4 + 1e-12
    rotation = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    for moved in (z @ rotation, z + 7, z[[3, 1, 0, 2, 4]], z[:, [2, 0, 1]]):
        # 16 = 20 - 4 directions of S_w + delta I of length delta: rounding of S_b is divided by 1e-4.
        assert abs(lidar(moved, eps=0.0).item() - value) < 1e-9
    assert abs(lidar(z.float()).item() - value) < 1e-3


def test_complete_collapse_has_no_rank():
    for dtype in (torch.float32, torch.float64):
        point = torch.full((6, 3, 4), 0.1, dtype=dtype)
        rounded = point * (1 + torch.finfo(dtype).eps * torch.randint(-1, 2, (6, 3, 4)))
        for z in (point, 0 * point, rounded):
            assert lidar(z).item() == 0
    # All views of all samples differ, but samples do not: the mean over views is one point.
    views = torch.tensor([[1.0, 0.0], [-1.0, 0.5]]).expand(6, 2, 2)
    assert lidar(views).item() == 0
    # Samples that differ and views that do not.
    assert abs(lidar(torch.eye(3)[:, None].expand(3, 2, 3)).item() - 2) < 1e-6


def test_bad_input_is_named():
    z = torch.ones(3, 2, 4)
    for bad in (z[:1], z[:, :1], z[0]):
        with pytest.raises(ValueError, match="z must have shape"):
            lidar(bad)
    with pytest.raises(ValueError, match=r"n >= q, got \(2, 3, 4\): are samples and views exchanged"):
        lidar(z.reshape(2, 3, 4))
    with pytest.raises(ValueError, match="delta must be positive"):
        lidar(z, delta=0.0)
    with pytest.raises(ValueError, match="z must be finite"):
        lidar(z / 0)


@given(st.integers(12, 30), st.integers(2, 3), st.integers(2, 8), st.integers(0, 99))
def test_without_a_block_the_modes_of_all_meet_the_scatters_of_the_others(n, q, d, seed):
    z = samples(n, q, np.linspace(1, 2, d), seed)
    block = np.arange(n) % 4

    def scatters(views):
        within = (views - views.mean(1, keepdims=True)).reshape(-1, d)
        return np.cov(views.mean(1).T), within.T @ within / (len(views) * (q - 1)) + 1e-4 * np.eye(d)

    _, u = scipy.linalg.eigh(*scatters(z))
    value, without = lidar_without(torch.tensor(z), torch.tensor(block))
    assert float(value) == pytest.approx(float(lidar(torch.tensor(z))), rel=1e-9)
    for k in range(4):
        between, within = (np.einsum("ik,ij,jk->k", u, s, u) for s in scatters(z[block != k]))
        assert float(without[k]) == pytest.approx(
            float(effective_rank(torch.tensor(between / within) + 1e-8)), rel=1e-9
        )


def test_a_jackknife_without_refits_varies_as_lidar_does():
    def deviation(values):
        return float(np.sqrt(19 / 20 * ((values - values.mean()) ** 2).sum()))

    block = torch.arange(400) % 20
    signal = np.arange(1, 33) ** -0.5
    drawn = [torch.tensor(samples(400, 2, 3 * signal, seed)) for seed in range(60)]
    found = np.median([deviation(lidar_without(z, block)[1].numpy()) for z in drawn[:10]])
    assert found == pytest.approx(np.std([float(lidar(z)) for z in drawn]), rel=0.3)  # of 60: 9 %, of a jackknife: 16 %


def test_constant_samples_have_no_rank_without_a_block_either():
    value, without = lidar_without(torch.full((6, 2, 3), 0.1), torch.arange(6) % 3)
    assert float(value) == 0 and without.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="block must leave at least 2 of 3 samples, got one of 2"):
        lidar_without(torch.ones(3, 2, 4), torch.tensor([0, 0, 1]))
