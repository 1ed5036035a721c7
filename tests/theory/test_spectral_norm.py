"""Steepest descent in the spectral norm: the exact law, its bound, and what random starts take."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from tests.oracles.spectral_norm import descend
from tests.profiles import examples
from theory import constrained, spectral_norm

M, D = 7, 3


def paired_start(rng, theta, vectors):
    """Columns that each turn an eigenvector towards one outside, in another basis."""
    d = len(theta)
    w = vectors[:, :d] * np.cos(theta) + vectors[:, d + rng.permutation(vectors.shape[0] - d)[:d]] * np.sin(theta)
    return w @ rng.standard_normal((d, d))


def same_span(a, b):
    return np.abs(twin.projector(a) - twin.projector(b)).max()


def cases(rng):
    lambda_ = np.sort(rng.standard_normal(M)) + 0.1 * np.arange(M)  # the law is unstable where gaps are small
    matrix = twin.symmetric(rng, lambda_)
    yield "paired", matrix, paired_start(rng, rng.uniform(0.1, 1.4, D), constrained.spectrum(matrix)[1])
    yield "two levels", twin.symmetric(rng, [-1.0] * D + [2.0] * (M - D)), rng.standard_normal((M, D))
    matrix = twin.symmetric(rng, np.sort(rng.standard_normal(2 * D)))
    vectors = constrained.spectrum(matrix)[1]
    turn = twin.orthogonal(rng, D), twin.orthogonal(rng, D)
    yield "equal angles", matrix, np.cos(0.7) * vectors[:, :D] @ turn[0] + np.sin(0.7) * vectors[:, D:] @ turn[1]


@given(st.integers(0, 10**6))
@examples(12)
def test_the_exact_law_is_that_of_training(seed):
    for _, matrix, w in cases(np.random.default_rng(seed)):
        theta = spectral_norm.angles(w, matrix)
        size, steps = 0.01, int(theta.min() / 0.01)  # before the first angle arrives
        trained = descend(np.linalg.qr(w)[0], matrix, size, steps)[-1]
        # 1e-12 in 1500 draws: rounding grows where a singular value of the gradient is small
        assert same_span(trained, spectral_norm.flow(steps * size, w, matrix)) < 1e-9


def test_small_gaps_make_rounding_leave_the_law():
    rng, size, steps = np.random.default_rng(580), 0.01, 38
    matrix = twin.symmetric(rng, np.sort(rng.standard_normal(M)))
    lambda_, vectors = constrained.spectrum(matrix)
    w = paired_start(rng, rng.uniform(0.1, 1.4, D), vectors)
    assert lambda_[D] - lambda_[D - 1] == pytest.approx(0.0031, abs=1e-4)
    trained = descend(np.linalg.qr(w)[0], matrix, size, steps)
    apart = [same_span(trained[step], spectral_norm.flow(step * size, w, matrix)) for step in (2, 9, steps)]
    assert apart[0] < 1e-14 and 1e-12 < apart[1] < 1e-6 and apart[2] > 1e-3


def test_all_angles_fall_at_one_speed_and_then_stay():
    rng = np.random.default_rng(0)
    matrix = twin.symmetric(rng, np.linspace(-2, 1, M))
    theta = np.array([0.3, 0.8, 1.2])
    w = paired_start(rng, theta, constrained.spectrum(matrix)[1])
    at = np.array([0.0, 0.3, 0.5, 1.0, 1.2, 50.0])
    path = spectral_norm.flow(at, w, matrix)
    for t, now in zip(at, path, strict=True):
        assert np.abs(spectral_norm.angles(now, matrix) - np.sort(np.maximum(theta - t, 0))).max() < 1e-12
    assert same_span(path[0], w) < 1e-12 and same_span(path[-1], constrained.spectrum(matrix)[1][:, :D]) < 1e-12
    size = 0.01
    trained = descend(np.linalg.qr(w)[0], matrix, size, 130)  # geodesic steps: exact, then r and h - r in turn
    for step in (10, 40, 75, 119):
        left = theta - step * size
        expected = np.where(left > 0, left, 0.0)
        assert np.abs(np.sort(spectral_norm.angles(trained[step], matrix)) - np.sort(expected)).max() < size
    assert spectral_norm.angles(trained[-1], matrix).max() < size
    theta[0] = 0.0  # one column is there already
    w = paired_start(rng, theta, constrained.spectrum(matrix)[1])
    assert np.abs(spectral_norm.angles(spectral_norm.flow(0.5, w, matrix), matrix) - [0, 0.3, 0.7]).max() < 1e-12
    batch = spectral_norm.flow(at, np.stack([w, w @ twin.orthogonal(rng, D)]), matrix)
    assert batch.shape == (2, 6, M, D) and max(same_span(a, b) for a, b in zip(*batch, strict=True)) < 1e-7


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4))
@examples(15)
def test_no_start_arrives_before_its_largest_angle(seed, d, more):
    """The largest angle falls by at most the size of a step: measured on the path, and so on its end."""
    rng = np.random.default_rng(seed)
    matrix = twin.symmetric(rng, np.sort(rng.standard_normal(d + more)))
    path = descend(twin.orthonormal(rng, d + more, d), matrix, 0.02, 60)
    largest = spectral_norm.angles(path, matrix)[:, -1]
    assert np.diff(largest).min() >= -0.02 - 1e-12
    losses = twin.trace_loss(path, matrix)
    slope = np.linalg.svd((matrix - path @ twin.transpose(path) @ matrix) @ path, compute_uv=False).sum(-1)
    second = 2 * np.ptp(np.linalg.eigvalsh(matrix)) * d * 0.02**2  # of a step
    assert np.all(np.diff(losses) <= -2 * 0.02 * slope[:-1] + second)


@pytest.mark.parametrize(
    ("m", "d", "alpha", "median", "longest", "flowing"),
    [(20, 4, 1.0, 1.19, 2.06, (26, 72)), pytest.param(40, 10, 1.5, 1.39, 1.91, (318, 871), marks=pytest.mark.slow)],
)
def test_random_starts_take_little_longer_than_their_largest_angle(m, d, alpha, median, longest, flowing):
    rng, size = np.random.default_rng(0), 1e-3
    lambda_ = -(np.arange(1, m + 1) ** -alpha)
    matrix, best, gap = np.diag(lambda_), lambda_[:d].sum(), lambda_[d] - lambda_[d - 1]
    w = np.linalg.qr(rng.standard_normal((8, m, d)))[0]
    level = gap * d * (10 * size) ** 2
    losses = descend(w, matrix, size, 3600, every=5, keep=lambda v: twin.trace_loss(v, matrix)) - best
    arrival = 5 * size * (losses < level).argmax(0)
    assert (losses < level).any(0).all()
    ratio = arrival / spectral_norm.angles(w, matrix)[:, -1]
    assert ratio.min() > 1 and abs(ratio.max() - longest) < 0.02 and abs(np.median(ratio) - median) < 0.02
    at = np.geomspace(1, 1000, 200)
    path = twin.trace_loss(constrained.grassmann_flow(at, w, matrix), matrix) - best
    times = at[(path < level).argmax(1)]
    assert abs(times.min() / flowing[0] - 1) < 0.05 and abs(times.max() / flowing[1] - 1) < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral_norm.flow(1.0, np.random.default_rng(0).standard_normal((5, 2)), np.diag(range(5))), "mixes"),
        (lambda: spectral_norm.flow(1.0, np.eye(4)[:, 1:3], np.diag(range(4))), "must not be orthogonal"),
        (lambda: spectral_norm.flow(-1.0, np.eye(4)[:, :2], np.diag(range(4))), "t must be >= 0"),
        (lambda: spectral_norm.angles(np.eye(4)[:, :2], np.eye(4)), "matrix needs a gap after its 2 smallest"),
        (lambda: spectral_norm.angles(np.eye(4), np.diag(range(4))), "d must be an integer from 1 to 3"),
        (lambda: spectral_norm.angles(np.ones((4, 2)), np.diag(range(4))), "weights need rank 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
