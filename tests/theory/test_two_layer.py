"""Trace losses of two linear layers, free and with orthonormal weights: closed forms against training of both factors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics as twin
from tests.oracles import two_layer as layer
from tests.oracles.dynamics import orthonormal, same_span
from tests.profiles import examples
from theory import constrained, two_layer

LAMBDA = np.array([-1.0, -0.5, -0.2, 0.3, 0.9, 1.4])
seeds = st.integers(0, 10**6)


# The training


def test_the_gradients_are_those_of_the_loss():
    rng = np.random.default_rng(0)
    c, pair = twin.symmetric(rng, LAMBDA), layer.pack(rng.standard_normal((6, 4)), rng.standard_normal((4, 2)))
    numeric = twin.difference(lambda x: layer.loss(x, c), pair)
    assert np.abs(numeric - layer.free(c)(pair)).max() < 1e-7  # entries up to 30, steps of 1e-6


@pytest.mark.parametrize("metric", ["grassmann", "stiefel"])
def test_constrained_gradients_are_tangent_and_differentiate_the_loss(metric):
    rng = np.random.default_rng(1)
    c, factors = twin.symmetric(rng, LAMBDA), [orthonormal(rng, 6, 4), orthonormal(rng, 4, 2)]
    slopes = layer.unpack(layer.constrained(c, metric, metric)(layer.pack(*factors)), 6)
    for k, (w, g) in enumerate(zip(factors, slopes, strict=True)):
        skew = w.T @ g
        assert np.abs(skew + skew.T).max() < 1e-14
        direction = layer.project(w, rng.standard_normal(w.shape), metric)
        values = []
        for h in (1e-5, -1e-5):
            u, _, v = np.linalg.svd(w + h * direction, full_matrices=False)
            moved = [*factors[:k], u @ v, *factors[k + 1 :]]
            values.append(layer.loss(layer.pack(*moved), c))
        assert abs((values[0] - values[1]) / 2e-5 - (g * direction).sum()) < 1e-8


# Without the constraint


def test_two_free_layers_blow_up_in_finite_time():
    rng = np.random.default_rng(4)
    lambda_, m0 = np.array([-1.0, -0.3, 0.5]), np.array([0.3, 0.2, 0.4])
    v, q, h = twin.orthogonal(rng, 3), twin.orthogonal(rng, 3), orthonormal(rng, 5, 3)
    c = v @ np.diag(lambda_) @ v.T
    layers = layer.pack((v * np.sqrt(m0)) @ h.T, h @ (q * np.sqrt(m0)).T)

    end = two_layer.blow_up_time(m0, lambda_)
    assert np.abs(end[:2] - [1 / 1.2, 1 / 0.24]).max() < 1e-12 and end[2] == np.inf
    steps = 8000
    states = twin.rk4(layer.free(c), layers, 0.95 * end[0] / steps, steps, every=800)
    trained = layer.product(states, 3)
    predicted = two_layer.two_layer_mode(0.095 * end[0] * np.arange(11), m0, lambda_)
    assert np.abs(v.T @ trained @ q - predicted[..., None] * np.eye(3)).max() < 1e-7
    assert predicted[-1, 0] > 19 * m0[0]
    assert np.array_equal(np.isinf(two_layer.two_layer_mode([0.9, 5.0], m0, lambda_)), [[1, 0, 0], [1, 1, 0]])
    assert np.array_equal(two_layer.two_layer_mode(1.0, [0.0, 0.0], [-1.0, 1.0]), [0, 0])


@given(seeds, st.integers(1, 3), st.integers(0, 2))
@examples(8)
def test_free_layers_on_random_problems(seed, d, more):
    rng, m = np.random.default_rng(seed), d + more
    lambda_, m0 = rng.uniform(-1, 1, m), rng.uniform(0.1, 0.5, d)
    v, q, h = twin.orthogonal(rng, m), twin.orthogonal(rng, d), orthonormal(rng, m + 1, d)
    c = v @ np.diag(lambda_) @ v.T
    pair = layer.pack((v[:, :d] * np.sqrt(m0)) @ h.T, h @ (q * np.sqrt(m0)).T)
    end = float(two_layer.blow_up_time(m0, lambda_[:d]).min())
    t = 0.8 * min(end, 2.0)
    trained = layer.product(twin.rk4(layer.free(c), pair, t / 1500, 1500)[-1], m)
    predicted = two_layer.two_layer_mode(t, m0, lambda_[:d])
    assert np.abs(trained - (v[:, :d] * predicted) @ q.T).max() < 1e-7
    assert end == np.inf or np.isinf(two_layer.two_layer_mode([end * 1.001], m0, lambda_[:d])).any()


def test_training_leaves_every_bound_at_the_blow_up_and_not_before():
    c, m0 = np.diag([-0.8, 0.4]), np.array([0.5, 0.5])
    pair, end, t = (
        layer.pack(np.diag(np.sqrt(m0)), np.diag(np.sqrt(m0))),
        two_layer.blow_up_time(m0, [-0.8, 0.4])[0],
        0.0,
    )
    while layer.product(pair, 2)[0, 0] < 1e6:
        dt = 1e-3 / layer.product(pair, 2)[0, 0]  # steps as short as the growth is fast
        pair, t = twin.rk4(layer.free(c), pair, dt, 1)[-1], t + dt
    assert abs(t + 1 / (4 * 0.8 * 1e6) - end) < 1e-9  # what remains from a mode value of 1e6


def test_a_free_first_layer_is_unbounded_below():
    rng = np.random.default_rng(5)
    w1, w2 = orthonormal(rng, 6, 3), orthonormal(rng, 3, 2)
    for shift, falls in ((0.0, True), (1.1, False)):
        c = twin.symmetric(rng, LAMBDA + shift)
        losses = layer.loss(twin.rk4(layer.constrained(c, None, "grassmann"), layer.pack(w1, w2), 1e-3, 1000), c)
        assert np.all(np.diff(losses) < 0)
        assert losses[-1] < -10 if falls else losses[-1] > 0
    c = twin.symmetric(rng, LAMBDA)
    w1 = constrained.spectrum(c)[1][:, :3]
    assert abs(layer.loss(layer.pack(1e3 * w1, w2), c) / layer.loss(layer.pack(w1, w2), c) - 1e6) < 1e-3
    assert layer.loss(layer.pack(1e3 * w1, w2), c) < -1e5


# With the constraint


@pytest.mark.long
@pytest.mark.parametrize("h", [2, 3, 4, 5, 6])
def test_with_grassmann_gradients_the_width_does_not_matter(h):
    rng = np.random.default_rng(6)
    c, w1, w2 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 3, 6, h), orthonormal(rng, 3, h, 2)
    pairs = twin.rk4(layer.constrained(c, "grassmann", "grassmann"), layer.pack(w1, w2), 4e-3, 750, every=150)
    t = 0.6 * np.arange(6)
    predicted = two_layer.orthonormal_product_flow(t, w1, w2, c)
    assert np.abs(twin.transpose(predicted) @ predicted - np.eye(2)).max() < 1e-14
    assert same_span(predicted, np.moveaxis(layer.product(pairs, 6), 0, 1)) < 1e-7
    single = twin.rk4(twin.tangent(lambda w: twin.trace_gradient(w, c)), w1 @ w2, 4e-3, 750, every=150)
    assert same_span(predicted, np.moveaxis(single, 0, 1)) < 1e-7
    assert same_span(two_layer.orthonormal_product_flow(0.6, w1[1], w2[1], c), predicted[1, 1]) < 1e-14


@pytest.mark.long
@pytest.mark.parametrize("h", [2, 3, 4, 5, 6])
def test_with_stiefel_gradients_it_does(h):
    rng = np.random.default_rng(7)
    c, w1, w2 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 3, 6, h), orthonormal(rng, 3, h, 2)
    pairs = twin.rk4(layer.constrained(c, "stiefel", "stiefel"), layer.pack(w1, w2), 4e-3, 750, every=150)
    t = 0.6 * np.arange(6)
    predicted = two_layer.stiefel_product_flow(t, w1, w2, c)
    assert predicted.shape == (3, 6, 6, 2)
    assert np.abs(twin.transpose(predicted) @ predicted - np.eye(2)).max() < 1e-14
    assert same_span(predicted, np.moveaxis(layer.product(pairs, 6), 0, 1)) < 1e-7
    single = constrained.grassmann_flow(t, w1 @ w2, c)
    faster = constrained.grassmann_flow(1.5 * t, w1 @ w2, c)
    assert (same_span(predicted, single) < 1e-12) == (h == 2)
    assert (same_span(predicted, faster) < 1e-12) == (h == 6)
    assert min(same_span(predicted, single), same_span(predicted, faster)) > 0.01 or h in (2, 6)
    assert same_span(two_layer.stiefel_product_flow(t[::-1], w1[1], w2[1], c)[::-1], predicted[1]) < 1e-9
    assert same_span(two_layer.stiefel_product_flow(0.6, w1, w2, c), predicted[:, 1]) < 1e-9


@pytest.mark.parametrize("hidden, speed", [(2, 1.0), (6, 1.5)])
def test_the_numerical_flow_meets_the_exact_ones(hidden, speed):
    """One eigenvector that the weights never see, inside the hidden span or outside it, changes nothing."""
    rng = np.random.default_rng(8)
    c, seen = np.zeros((7, 7)), orthonormal(rng, 6, hidden)
    c[:6, :6], c[6, 6] = twin.symmetric(rng, LAMBDA), 0.7
    if hidden == 6:
        w1, w2 = np.vstack([seen, np.zeros(6)]), orthonormal(rng, 6, 2)
    else:
        w1, w2 = np.eye(7)[:, [0, 0, 6]], np.vstack([twin.orthogonal(rng, 2), np.zeros(2)])
        w1[:6, :2] = seen
    t = np.linspace(0, 5, 6)
    exact = constrained.grassmann_flow(speed * t, w1 @ w2, c)
    assert same_span(two_layer.stiefel_product_flow(t, w1, w2, c), exact) < 1e-10


@given(seeds, st.integers(1, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from(["grassmann", "stiefel"]))
@examples(10)
def test_both_flows_on_random_problems(seed, d, wider, taller, metric):
    rng, h = np.random.default_rng(seed), d + wider
    m = h + taller
    c, w1, w2 = twin.symmetric(rng, rng.uniform(-1, 1, m)), orthonormal(rng, m, h), orthonormal(rng, h, d)
    pairs = twin.rk4(layer.constrained(c, metric, metric), layer.pack(w1, w2), 5e-3, 400, every=100)
    flow = two_layer.orthonormal_product_flow if metric == "grassmann" else two_layer.stiefel_product_flow
    predicted = flow(0.5 * np.arange(5), w1, w2, c)
    assert same_span(predicted, layer.product(pairs, m)) < 1e-7
    shifted = flow(0.5 * np.arange(5), w1, w2, c + 3 * np.eye(m))  # a constant in the loss
    assert same_span(predicted, shifted) < 1e-9


def test_both_flows_end_in_the_bottom_eigenspace():
    rng = np.random.default_rng(9)
    c, w1, w2 = twin.symmetric(rng, LAMBDA), orthonormal(rng, 6, 4), orthonormal(rng, 4, 2)
    bottom = constrained.spectrum(c)[1][:, :2]
    assert same_span(two_layer.orthonormal_product_flow(60.0, w1, w2, c), bottom) < 1e-12
    assert same_span(two_layer.stiefel_product_flow(60.0, w1, w2, c), bottom) < 1e-12
    still = two_layer.stiefel_product_flow([0.0, 5.0], w1, w2, 2 * np.eye(6))
    assert same_span(still, w1 @ w2) < 1e-14


@pytest.mark.long
@pytest.mark.parametrize("hidden, speed", [([2, 0], 1.5), ([0, 2], 1.5), ([2, 3], 1.0)])
def test_a_saddle_is_left_at_the_rate_of_the_hidden_span(hidden, speed):
    """Directions inside the hidden span grow 1.5 times as fast as those outside, from however far below the tolerances."""
    c, tiny = np.diag([-1.0, 0.0, 1.0, 2.0]), 1e-60
    w1, w2 = np.eye(4)[:, hidden], np.eye(2)[:, [hidden.index(2)]]
    if 0 in hidden:
        w2[hidden.index(0)] = tiny
    else:
        w1[0, hidden.index(2)] = tiny
    t = np.log(1 / tiny) / (2 * 2 * speed)  # when the coordinate of v_1, tiny at first, reaches 1
    w = two_layer.stiefel_product_flow(t, w1, w2, c)
    assert abs(abs(w[0, 0] / w[2, 0]) - 1) < 1e-8


C = np.diag([0.0, 1.0])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: two_layer.two_layer_mode(1.0, [-1.0], [1.0]), "m0 must be >= 0"),
        (lambda: two_layer.blow_up_time([1.0, 1.0], [1.0]), "same d"),
        (lambda: two_layer.two_layer_mode(-1.0, [1.0], [1.0]), "t must be >= 0"),
        (lambda: two_layer.orthonormal_product_flow(1.0, np.eye(2), np.eye(3), C), "need the same h"),
        (lambda: two_layer.orthonormal_product_flow(1.0, 2 * np.eye(2), np.eye(2), C), "first must have orthonormal"),
        (lambda: two_layer.orthonormal_product_flow(1.0, np.eye(3), np.eye(3), C), "weights must have shape"),
        (lambda: two_layer.stiefel_product_flow(1.0, np.eye(2), np.ones((2, 1)), C), "second must have orthonormal"),
        (lambda: two_layer.stiefel_product_flow(1.0, np.eye(4)[:, :3], np.eye(3)[:, :1], C), "first must have shape"),
        (lambda: two_layer.stiefel_product_flow(-1.0, np.eye(2), np.eye(2), C), "t must be >= 0"),
        (lambda: two_layer.stiefel_product_flow(1.0, np.ones(2), np.eye(2), C), "first must have at least 2"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
