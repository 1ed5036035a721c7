"""Dimensional collapse in linear contrastive learning against training (Jing et al., arXiv 2110.09348)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics
from tests.oracles import losses_numpy as twin
from tests.profiles import examples
from theory import dimensional_collapse as theory
from theory import losses


def pairs(rng, n, signal, noise, both):
    """Views with independent coordinates of variance `signal`, noise on both views or on the positive alone."""
    base = rng.standard_normal((n, signal.size)) * np.sqrt(signal)
    x, positive = (base + rng.standard_normal(base.shape) * np.sqrt(noise) for _ in range(2))
    return (x if both else base), positive


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 3), st.integers(1, 3))
@examples(40)
def test_the_flow_is_the_gradient_of_infonce(seed, n, m, d):
    rng = np.random.default_rng(seed)
    x, positive = rng.standard_normal((2, n, m))
    w = rng.standard_normal((2, m, d))
    matrix = theory.contrast_matrix(x, positive, w)
    for one, own in zip(w, matrix, strict=True):
        slope = dynamics.difference(lambda v: twin.pairwise_infonce(v, x, positive), one, h=3e-6)
        assert (
            np.abs(slope + own @ one).max() < 1e-8
        )  # central differences: eps / h = 1e-10, h^2 = 1e-11 times derivatives
        # A batch sums in another order: rounding of n^2 terms, each relative to its logit and to the squares of x and x' - x.
        logits = 1 + ((np.abs(x) + np.abs(positive - x)) @ np.abs(one)).max() ** 2 * d
        size = max(np.abs(x).max(), np.abs(positive - x).max()) ** 2
        assert (
            np.abs(theory.contrast_matrix(x, positive, one) - own).max() <= n**2 * logits * size * np.finfo(float).eps
        )
    assert np.abs(matrix - dynamics.transpose(matrix)).max() < 1e-12


def test_far_samples_do_not_overflow():
    x = np.array([[0.0], [1e3], [-1e3]])
    matrix = theory.contrast_matrix(x, x + 1.0, [[30.0]])
    assert np.isfinite(matrix).all() and matrix[0, 0] == 0  # every positive is by far the nearest


@pytest.mark.parametrize("both", [True, False])
def test_small_weights_see_covariance_and_noise(both):
    rng, n = np.random.default_rng(0), 1500
    signal, noise = np.array([1.0, 0.5, 0.2]), np.array([0.1, 2.0, 0.3])
    x, positive = pairs(rng, n, signal, noise, both)
    measured = theory.contrast_matrix(x, positive, 1e-6 * np.eye(3))
    anchor, difference = np.cov(x.T), (positive - x).T @ (positive - x) / n
    assert np.abs(measured - (1 - 1 / n) * theory.small_weights_matrix(anchor, difference)).max() < 1e-9
    population = theory.small_weights_matrix(
        np.diag(signal + noise if both else signal), np.diag(2 * noise if both else noise)
    )
    assert np.abs(population - np.diag(2 * signal if both else 2 * signal - noise)).max() < 1e-15
    assert np.abs(measured - population).max() < 0.2  # sampling, 4 / sqrt(n) times the largest variance


@pytest.mark.parametrize("noise, collapsed", [(1.0, 0), (4.0, 3)])
def test_noise_beyond_twice_the_signal_collapses_its_dimensions(noise, collapsed):
    rng, m = np.random.default_rng(1), 6
    signal, spread = np.ones(m), np.r_[np.zeros(3), np.full(3, noise)]
    assert theory.collapsed_directions(theory.small_weights_matrix(np.diag(signal), np.diag(spread))) == collapsed
    x, positive = pairs(rng, 120, signal, spread, both=False)
    w = 0.02 * dynamics.orthogonal(rng, m)
    trained = dynamics.rk4(lambda v: -velocity_by_the_chain_rule(v, x, positive), w, 0.25, 80)[-1]
    sizes = np.linalg.svd(trained, compute_uv=False)
    assert (sizes < 0.01 * sizes[0]).sum() == collapsed


def test_noise_on_both_views_collapses_nothing_in_the_population():
    noise = np.array([0.5, 1.0, 4.0, 20.0])
    signal, spread = np.eye(4), np.diag(noise)
    assert theory.collapsed_directions(theory.small_weights_matrix(signal + spread, 2 * spread)) == 0
    start = 0.01 * dynamics.orthogonal(np.random.default_rng(1), 4)
    w = dynamics.descend(lambda v: twin.infonce_gradient(v, signal, spread), start, 0.02, 20000)
    sizes = np.sqrt(np.linalg.eigvalsh(w @ w.T)[::-1])  # shrinks with the noise, to no zero
    assert np.abs(sizes / np.sqrt(losses.infonce_final_variance(1.0, noise) / (1 + noise)) - 1).max() < 1e-6


def velocity_by_the_chain_rule(w, x, positive):
    """Minus the gradient of pairwise InfoNCE by the chain rule on the embeddings, samples as rows."""
    z, z_positive, n = x @ w, positive @ w, len(x)
    size = (z**2).sum(1)
    logits = z @ z.T - (size[:, None] + size) / 2
    np.fill_diagonal(logits, -((z - z_positive) ** 2).sum(1) / 2)
    alpha = np.exp(logits - logits.max(1, keepdims=True))
    alpha /= alpha.sum(1, keepdims=True)
    slope_z, slope_positive = np.zeros_like(z), np.zeros_like(z)
    pull = (1 - np.diag(alpha))[:, None] * (z - z_positive)
    slope_z += pull
    slope_positive -= pull
    np.fill_diagonal(alpha, 0.0)
    slope_z -= alpha.sum(1)[:, None] * z - alpha @ z  # z_i as an anchor
    slope_z -= alpha.sum(0)[:, None] * z - alpha.T @ z  # z_j as a negative
    return -(x.T @ slope_z + positive.T @ slope_positive) / n


def test_the_velocity_of_the_twin_is_minus_the_gradient():
    rng = np.random.default_rng(2)
    x, positive = rng.standard_normal((2, 7, 3))
    w = rng.standard_normal((3, 2))
    slope = dynamics.difference(lambda v: twin.pairwise_infonce(v, x, positive), w)
    assert np.abs(slope + velocity_by_the_chain_rule(w, x, positive)).max() < 1e-8


def test_frozen_weights_grow_exponentially():
    rng = np.random.default_rng(3)
    x = dynamics.symmetric(rng, [1.0, 0.3, -0.2, -0.7])
    w = rng.standard_normal((2, 4, 3))
    states = dynamics.rk4(lambda v: -x @ v, w, 5e-3, 800, every=400)
    direction, log_norm = theory.frozen_flow([0.0, 2.0, 4.0], w, x)
    got = np.exp(log_norm)[..., None, None] * direction
    assert np.abs(got - np.moveaxis(states, 0, 1)).max() < 1e-9
    late, size = theory.frozen_flow(1e4, w, x)
    assert np.abs(np.linalg.norm(late, axis=(-2, -1)) - 1).max() < 1e-12 and np.abs(size / 1e4 - 1).max() < 1e-3
    assert theory.collapsed_directions(x) == 2 and theory.collapsed_directions(np.diag([1.0, 0.0])) == 0


@pytest.mark.parametrize("balanced", [True, False])
def test_two_aligned_layers_follow_the_closed_form(balanced):
    rng = np.random.default_rng(4)
    strength = np.array([0.8, 0.5, 0.2, -0.4])
    u, r, v = (dynamics.orthogonal(rng, 4) for _ in range(3))
    s1 = np.array([0.5, 0.3, 0.6, 0.9])
    s2 = s1 if balanced else np.array([0.2, 0.7, 0.6, 1.1])
    x = v @ np.diag(strength) @ v.T
    w1, w2 = v @ np.diag(s1) @ r.T, r @ np.diag(s2) @ u.T
    end = 0.95 * theory.blow_up_times(s1, s2, strength).min()
    velocity = lambda w: np.stack(twin.two_layer_gradient(w[0], w[1], x))  # noqa: E731
    final = dynamics.rk4(velocity, np.stack([w1, w2]), end / 4000, 4000, every=2000)
    t = np.array([0.0, end / 2, end])
    first, second = theory.two_layer_singular_values(t, s1, s2, strength)
    for k in range(3):
        assert np.abs(np.diag(v.T @ final[k, 0] @ r) / first[k] - 1).max() < 1e-8
        assert np.abs(np.diag(r.T @ final[k, 1] @ u) / second[k] - 1).max() < 1e-8
    assert np.abs(first**2 - second**2 - (s1**2 - s2**2)).max() < 1e-10 * (first**2).max()
    if balanced:
        assert np.abs(first[1] - s1 / np.sqrt(1 - 2 * s1**2 * strength * t[1])).max() < 1e-12
        assert np.abs(theory.blow_up_times(s1, s1, strength)[:3] - 1 / (2 * s1**2 * strength)[:3]).max() < 1e-12


def test_a_blow_up_beyond_the_largest_number_is_never():
    tiny = np.array([5e-324, 1e-320])
    assert (theory.blow_up_times(np.ones(2), np.ones(2), tiny) == np.inf).all()
    first, second = theory.two_layer_singular_values(1e6, np.ones(2), np.ones(2), tiny)
    assert np.array_equal(first, np.ones(2)) and np.array_equal(second, np.ones(2))


def test_the_gradients_of_two_layers():
    rng = np.random.default_rng(5)
    x, w1, w2 = dynamics.symmetric(rng, [1.0, 0.4, -0.3]), rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
    one, two = twin.two_layer_gradient(w1, w2, x)
    assert np.abs(dynamics.difference(lambda w: twin.two_layer_loss(w, w2, x), w1) - one).max() < 1e-8
    assert np.abs(dynamics.difference(lambda w: twin.two_layer_loss(w1, w, x), w2) - two).max() < 1e-8


# Below 1e-300 the blow-up may lie beyond the largest number, which has a test of its own.
strengths = st.floats(-1, 0) | st.floats(1e-300, 1)


@given(
    st.lists(st.tuples(st.floats(1e-3, 2), st.floats(1e-3, 2), strengths), min_size=1, max_size=4),
    st.floats(0.01, 0.95),
)
def test_two_layers_solve_their_equation_until_they_blow_up(values, share):
    s1, s2, x = np.array(values).T
    blow_up = theory.blow_up_times(s1, s2, x)
    assert np.array_equal(np.isposinf(blow_up), x <= 0)
    end = min(share * blow_up.min(), 5.0)
    h = 1e-4 * end
    before, at, after = (np.stack(theory.two_layer_singular_values(t, s1, s2, x)) for t in (end - h, end, end + h))
    slope = x * at * at[::-1] ** 2
    assert np.abs((after - before) / (2 * h) - slope).max() < 1e-4 * np.abs(slope).max() + 1e-9
    assert np.all(at[0] * at[1] <= np.where(x > 0, np.inf, s1 * s2 * (1 + 1e-12)))
    for j in np.flatnonzero(np.isfinite(blow_up)):
        near = theory.two_layer_singular_values(blow_up[j] * (1 - 1e-9), s1[[j]], s2[[j]], x[[j]])
        gone = theory.two_layer_singular_values(blow_up[j] * (1 + 1e-9), s1[[j]], s2[[j]], x[[j]])
        assert min(near)[0] > 1e2 * min(s1[j], s2[j]) and np.isposinf(gone).all()


def test_late_times_zero_layers_and_batches():
    s1, s2, x = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]]), np.ones((2, 3)), np.array([1.0, -1.0, -1e-3])
    first, second = theory.two_layer_singular_values([0.0, 1e6, 1e300], s1, s2, x)
    assert first.shape == (2, 3, 3) and not np.isnan(first).any() and not np.isnan(second).any()
    assert np.array_equal(first[:, 0], s1) and np.array_equal(second[:, 0], s2)
    assert first[0, 2, 0] == 0 and second[0, 2, 0] == 1  # a layer at zero stays, and holds the other
    assert abs(first[0, 2, 2] - np.sqrt(3)) < 1e-12 and second[0, 2, 2] < 1e-100  # the difference of squares remains
    again = theory.two_layer_singular_values(1e6, s1[1], s2[1], x)
    assert np.array_equal(first[1, 1], again[0]) and np.array_equal(second[1, 1], again[1])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: theory.contrast_matrix(np.ones((3, 2)), np.ones((2, 2)), np.ones((2, 1))), "one shape"),
        (lambda: theory.contrast_matrix(np.ones((1, 2)), np.ones((1, 2)), np.ones((2, 1))), "n >= 2"),
        (lambda: theory.contrast_matrix(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 1))), "weights must have shape"),
        (lambda: theory.small_weights_matrix(-np.eye(2), np.eye(2)), "anchor must be positive semi-definite"),
        (lambda: theory.small_weights_matrix(np.eye(2), np.eye(3)), "anchor and difference need one shape"),
        (lambda: theory.collapsed_directions([[0.0, 1.0], [0.0, 0.0]]), "matrix must be symmetric"),
        (lambda: theory.frozen_flow(-1.0, np.ones((2, 1)), np.eye(2)), "t must be >= 0"),
        (lambda: theory.frozen_flow(1.0, np.zeros((2, 1)), np.eye(2)), "weights must not be zero"),
        (lambda: theory.two_layer_singular_values(1.0, [1.0], [-1.0], [1.0]), "s2 must be >= 0"),
        (lambda: theory.two_layer_singular_values(1.0, [1.0], [1.0, 1.0], [1.0]), "s1 and s2 need one shape"),
        (lambda: theory.blow_up_times([1.0], [1.0], [1.0, 2.0]), "need the same d"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
