"""Unbiased moments against sums over all tuples of rows, whatever the units, and intervals that cover."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.audit import gram
from grassmann_ssl.audit import moments as module
from grassmann_ssl.audit.moments import sample_of
from tests.oracles import audit as oracle
from tests.profiles import examples

UNITS = [(0, 1, 2, 3, 4, 5), (0, 0, 1, 1, 2, 2, 3, 3), (0, 1, 1, 2, 3, 3, 3), (3, 1, 0, 1, 2, 2, 0)]


def rows(seed, n, d, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) + 2).to(dtype)


@pytest.mark.parametrize("units", UNITS, ids=str)
@pytest.mark.parametrize("d", [1, 3, 12])  # both sides of the Gram matrix
def test_moments_are_those_of_all_tuples_of_different_units(units, d):
    z = rows(len(units) + d, len(units), d)
    own = None if len(set(units)) == len(units) else torch.tensor(units)
    sample = sample_of(z, own)
    exact = oracle.moments(z.numpy(), units)
    assert np.allclose([sample.total, sample.square, sample.squared], exact, rtol=1e-11, atol=1e-11 * exact[2])


@pytest.mark.parametrize("lengths", [(1, 1), (0, 1e-20)])
@pytest.mark.parametrize("units", UNITS, ids=str)
@pytest.mark.parametrize("d", [4, 12])
def test_the_variance_of_directions_is_that_of_all_pairs_of_different_units(units, d, lengths):
    z = rows(3, len(units), d)
    z[:2] *= torch.tensor(lengths)[:, None]
    own = None if len(set(units)) == len(units) else torch.tensor(units)
    exact = min(max(oracle.directions(z.numpy(), units), 0), 1)
    for dtype, accuracy in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        assert sample_of(z.to(dtype), own).spread(0.95).value == pytest.approx(exact, abs=accuracy)


@pytest.mark.parametrize("n", [40, 400])
def test_the_interval_of_the_variance_of_directions_is_that_of_leaving_blocks_out(n):
    z = rows(0, n, 60) * torch.arange(1, n + 1)[:, None]
    place = module.blocks_of(n, 20)
    without = np.array([sample_of(z[place != block]).spread(0.95).value for block in range(20)])
    found = sample_of(z).spread(0.95)
    assert found.high - found.low == pytest.approx(2 * module.jackknife_reach(without, 0.95), rel=1e-9)


@given(st.integers(0, 2**31), st.integers(4, 30), st.integers(1, 30), st.sampled_from([torch.float32, torch.float64]))
def test_both_sides_of_the_gram_matrix_are_one(seed, n, d, dtype):
    """More rows, or more columns of zeros, turn it to the other side."""
    z = rows(seed, n, d, dtype)
    other = torch.cat([z, z.new_zeros(n, n)], 1)  # D > N now, the rest as it was
    a, b = sample_of(z), sample_of(other)
    eps = 50 * n * torch.finfo(dtype).eps
    # Unbiased, tr S^2 is a difference of numbers as large as the squares of the rows.
    size = float((z - z.mean(0)).square().sum()) ** 2
    assert np.allclose([a.total, a.square, a.squared], [b.total, b.square, b.squared], rtol=eps, atol=eps * size)
    k = min(n, d)
    assert np.allclose(a.eigenvalues[:k], b.eigenvalues[:k], atol=eps * a.eigenvalues[0])


@pytest.mark.parametrize("held", [2**27, 640])  # entries: all rows at once, or 40 at a time
@pytest.mark.parametrize(("n", "d"), [(400, 16), (30, 64)])
def test_strips_of_portions_in_float32_are_one_with_the_whole_in_float64(monkeypatch, held, n, d):
    z = rows(1, n, d, torch.float32)
    units = torch.arange(n) // 3
    whole = [sample_of(z.double(), own) for own in (None, units)]
    monkeypatch.setattr(module, "EXACT", 8)
    for name, value in (("CHUNK", 64), ("HELD", held), ("STRIP", 5)):
        monkeypatch.setattr(module if name == "CHUNK" else gram, name, value)
    for own, b in zip((None, units), whole, strict=True):
        a = sample_of(z, own)
        assert np.allclose([a.total, a.square, a.squared], [b.total, b.square, b.squared], rtol=1e-5)
        assert np.allclose(a.pairs, b.pairs, rtol=1e-3, atol=1e-6 * b.pairs.max())
        for one, same in ((a.eigenvalues, b.eigenvalues), (a.half, b.half)):
            assert np.allclose(one, same, rtol=1e-4, atol=1e-6 * b.eigenvalues[0])


@given(st.integers(0, 2**31), st.integers(12, 40))
def test_repeated_rows_of_a_unit_count_once(seed, n):
    z = rows(seed, n, 5)
    repeated = z.repeat_interleave(3, 0)
    units = torch.arange(n).repeat_interleave(3)
    one, same = sample_of(z).dimensions_used(0.95), sample_of(repeated, units).dimensions_used(0.95)
    assert np.allclose([one.value, one.low, one.high], [same.value, same.low, same.high], rtol=1e-9)


@given(st.integers(0, 2**31), st.floats(0.01, 100), st.floats(-100, 100))
@examples(30)
def test_dimensions_used_do_not_see_basis_scale_and_mean(seed, scale, shift):
    z = rows(seed, 60, 8)
    q = torch.linalg.qr(rows(seed + 1, 8, 8))[0]
    one, same = (sample_of(v).dimensions_used(0.95) for v in (z, scale * z @ q + shift))
    assert np.allclose([one.value, one.low, one.high], [same.value, same.low, same.high], rtol=1e-8)


def population(name, d):
    k = np.arange(1, d + 1)
    return {"isotropic": np.ones(d), "rank 10": (k <= 10) * 1.0, "k^-1": 1 / k}[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isotropic", "rank 10", "k^-1"])
@pytest.mark.parametrize(("n", "d"), [(64, 512), (256, 64)])
def test_estimates_are_unbiased_and_intervals_cover(name, n, d):
    spectrum = population(name, d)
    exact = spectrum.sum() ** 2 / (spectrum**2).sum()
    generator = torch.Generator().manual_seed(0)
    found, squares = [], []
    for _ in range(100):
        z = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.tensor(spectrum).sqrt()
        sample = sample_of(z + 3)
        found.append(sample.dimensions_used(0.95))
        squares.append(sample.square / (spectrum**2).sum())
    error = np.std(squares) / np.sqrt(100)
    assert abs(np.mean(squares) - 1) < 4 * error  # the naive tr S^2 of isotropic rows is 1 + d/n = 9 of it at 64 x 512
    covered = np.mean([one.low <= exact <= one.high for one in found])
    # 100 draws of a probability from 0.9 to 0.99 leave this bound once in a thousand times.
    assert covered >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "n"), [(3, 64), (3, 256), (16, 64)])
def test_intervals_of_equal_eigenvalues_reach_less_far_up(rank, n):
    """There the estimate is bounded above: with both sides alike hardly one of a thousand intervals is missed."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(120, n, rank, generator=generator, dtype=torch.float64)
    found = [sample_of(torch.nn.functional.pad(one, (0, 40))).dimensions_used(0.95) for one in z]
    assert 0.95 < np.mean([one.low <= rank <= one.high for one in found])
    low, value, high = np.sqrt([[one.low, one.value, one.high] for one in found]).T
    assert np.mean((high - value) / (value - low)) < 0.885


@pytest.mark.parametrize("far", [100.0, 1e4, 1e6])
def test_one_row_far_away_makes_the_interval_wide(far):
    """Its distance says nothing of the others, and the estimate hangs on it."""
    z = torch.cat([rows(0, 1000, 32) - 2, torch.full((1, 32), far, dtype=torch.float64)])
    used = sample_of(z).dimensions_used(0.95)
    assert used.low < 25 and used.high == 32


@given(st.integers(0, 2**31), st.integers(12, 60), st.integers(1, 40), st.integers(1, 3))
@examples(30)
def test_pairs_of_blocks_add_up(seed, n, d, each):
    """Without a block: the sums over the units of the others."""
    z, units = rows(seed, n * each, d), torch.arange(n * each) // each
    sample = sample_of(z, None if each == 1 else units)
    place = module.blocks_of(n, len(sample.sizes))
    x = z.reshape(n, each, d) - torch.tensor(sample.mean)
    products = torch.einsum("gid,hjd->gihj", x, x)
    squares, inner = products.square().mean((1, 3)), products.mean((1, 3))
    shift = -(inner.sum() - inner.trace()) / (n * (n - 1))
    table = squares + 2 * shift * inner + shift**2
    table.fill_diagonal_(0)
    for block in range(len(sample.sizes)):
        kept = place != block
        found = sample.pairs.sum() - 2 * sample.pairs[block].sum() + sample.pairs[block, block]
        assert found == pytest.approx(float(table[kept][:, kept].sum()), rel=1e-7, abs=1e-7 * float(table.sum()))


def test_fewer_rows_than_four_units_tell_nothing_of_the_dimensions():
    for n in (2, 3):
        used = sample_of(rows(0, n, 4)).dimensions_used(0.95)
        assert np.isnan(used.value) and (used.low, used.high) == (1, 4)
    few = sample_of(rows(0, 11, 4)).dimensions_used(0.95)
    assert 1 <= few.value <= 4 and (few.low, few.high) == (1, 4)


@pytest.mark.parametrize(("n", "d"), [(60, 16), (16, 60)])
def test_half_of_the_units_show_these_eigenvalues(n, d):
    """In columns about the mean of all, in rows about their own; doubled, as there are half as many."""
    z = rows(0, n, d) * (torch.arange(d) < 6)
    sample = sample_of(z)
    few = module.blocks_of(n, min(20, n)) < min(20, n) // 2
    x = z[few] - (z.mean(0) if n > d else z[few].mean(0))
    exact = 2 * torch.linalg.svdvals(x).square()[:6] / (n - 1)
    assert np.allclose(sample.half[:6], exact, rtol=1e-9) and (sample.half[6:] == 0).all()
