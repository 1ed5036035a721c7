"""Deep linear JEPA and reconstruction: closed forms against quadrature, and against layers that train."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from tests.oracles import dynamics
from tests.oracles import jepa as twin
from tests.oracles.stepwise import first_crossings
from tests.profiles import examples
from theory import jepa

LOSSES = ("jepa", "mae")
settings = {
    "depth": st.integers(1, 5),
    "loss": st.sampled_from(LOSSES),
    "lambda_": st.floats(0.3, 3),
    "rho": st.floats(0.3, 2),
}


def moments(rng, lambda_, rho):
    """E x x^T and E y x^T with common eigenvectors, and these."""
    vectors = dynamics.orthogonal(rng, len(rho))
    return *((vectors * v) @ vectors.T for v in (np.divide(lambda_, rho), np.asarray(lambda_))), vectors


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradients_of_the_twin_are_those_of_samples(loss):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 20, 3))
    layers = rng.standard_normal((3, 3, 3))
    exact = dynamics.difference(lambda one: twin.sample_loss(one, layers, x, y, loss), layers)
    assert np.abs(exact - twin.gradient(layers, x.T @ x / 20, y.T @ x / 20, loss)).max() < 1e-7


@pytest.mark.long
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_layers_that_train_follow_the_flow(loss, depth):
    rng = np.random.default_rng(depth)
    lambda_, rho = np.array([1.2, 0.8, 1.0]), np.array([0.9, 0.6, 1.3])
    sxx, syx, vectors = moments(rng, lambda_, rho)
    w0 = np.array([0.5, 0.45, 0.6])
    layers, bases = twin.start(rng, w0, vectors, depth, loss)
    states = twin.train(layers, sxx, syx, loss, 0.02, 600, 100)
    w = jepa.flow(2.0 * np.arange(7), w0, lambda_, rho, depth=depth, loss=loss)
    assert w.shape == (3, 7) and np.abs(w[:, -1] - w0).max() > 0.1
    for k in range(depth + 1):
        expected = (bases[k + 1] * w.T[:, None, :]) @ bases[k].T
        assert np.abs(states[:, k] - expected).max() < 1e-7


@given(low=st.floats(0.05, 0.5), high=st.floats(0.55, 0.99), **settings)
@examples(40)
def test_times_are_integrals_and_the_flow_inverts_them(depth, loss, low, high, lambda_, rho):
    final = float(jepa.final_size(rho, depth=depth, loss=loss))
    w0, w1 = low * final, high * final
    power, top = (2 * depth, 1) if loss == "jepa" else (depth, depth + 1)
    exact = quad(lambda w: w**-power / (lambda_ * (1 - w**top / rho)), w0, w1, epsabs=0, epsrel=1e-12, limit=200)[0]
    found = float(jepa.learning_time(w0, w1, lambda_, rho, depth=depth, loss=loss))
    assert abs(found / exact - 1) < 1e-11
    cost = 1e-14 * (1 + w1 ** (1 - power) * (w1 / w0) ** power) * (1 + 1 / w1)
    assert abs(jepa.flow(found, w0, lambda_, rho, depth=depth, loss=loss) / w1 - 1) < cost + 1e-13
    half = jepa.learning_time(w0, np.array([w0, w1]), 2 * lambda_, rho, depth=depth, loss=loss)
    assert half[0] == 0 and abs(2 * half[1] / found - 1) < 1e-14  # lambda is a unit of time


@given(**settings)
@examples(20)
def test_flows_rise_to_their_final_size(depth, loss, lambda_, rho):
    final = float(jepa.final_size(rho, depth=depth, loss=loss))
    late = 1e3 * jepa.learning_time(0.2 * final, 0.9 * final, lambda_, rho, depth=depth, loss=loss)
    w = jepa.flow(np.array([0.0, 1.0, 2.0, late]), [[0.3 * final], [0.2 * final]], lambda_, rho, depth=depth, loss=loss)
    assert w.shape == (2, 1, 4) and np.all(np.diff(w[..., :3]) > 0)
    assert np.array_equal(w[:, 0, 0], [0.3 * final, 0.2 * final]) and np.abs(w[..., -1] / final - 1).max() < 1e-12
    error = 1 - final / rho if loss == "jepa" else 1 - final ** (depth + 1) / rho
    assert abs(error) < 1e-12


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_critical_times_are_the_times_of_small_starts(loss, depth):
    """What is left out grows as the logarithm of the start (jepa), or not at all (mae)."""
    w0 = np.array([4e-2, 2e-2, 1e-2])
    whole = jepa.learning_time(w0, 0.4, 1.3, 0.8, depth=depth, loss=loss)
    rest = whole - jepa.critical_time(w0, 1.3, 0.8, depth=depth, loss=loss)
    exact = np.log(2) / 1.3 * 0.8 ** (1 - 2 * depth) if loss == "jepa" else 0.0
    next_order = 2 * w0[:2] * 0.8 ** (-2 * depth) / 1.3
    assert np.all(np.abs(np.diff(rest) - exact) < next_order + 1e-15 * whole.max())


@pytest.mark.long
def test_jepa_learns_the_larger_rho_first_where_reconstruction_learns_the_larger_lambda():
    """Two features, trained: lambda = 0.97, rho = 1.2 against lambda = 1, rho = 0.7. The times are those of the closed form."""
    lambda_, rho, depth, w0 = np.array([0.97, 1.0]), np.array([1.2, 0.7]), 2, 0.15
    order, errors = {}, []
    for loss in LOSSES:
        rng = np.random.default_rng(5)
        sxx, syx, vectors = moments(rng, lambda_, rho)
        layers, bases = twin.start(rng, np.full(2, w0), vectors, depth, loss)
        final = jepa.final_size(rho, depth=depth, loss=loss)
        times = jepa.learning_time(w0, final / 2, lambda_, rho, depth=depth, loss=loss)
        dt = float(times.max()) / 1000
        states = twin.train(layers, sxx, syx, loss, dt, 1100, 1)
        sizes = np.einsum("ij,tik,kj->tj", bases[1], states[:, 0], bases[0])
        seen = first_crossings(dt * np.arange(len(sizes)), sizes / final, 0.5)
        errors.append(np.abs(seen / times - 1).max())
        order[loss] = seen[0] < seen[1]
        ratio = float(jepa.crossing_ratio(w0, *rho, depth=depth, loss=loss))
        assert order[loss] == (lambda_[0] / lambda_[1] > ratio)
    assert order == {"jepa": True, "mae": False}
    assert max(errors) < 1e-4  # crossings are linear between records


def test_depth_sharpens_what_rho_decides_at_a_given_start_of_the_encoder():
    start, ratios = 1e-3, {}
    for loss in LOSSES:
        ratios[loss] = [
            float(jepa.crossing_ratio(start ** (1 / depth), 1.0, 0.8, depth=depth, loss=loss)) for depth in (1, 2, 3, 5)
        ]
    assert np.all(np.diff(ratios["jepa"]) < -0.01) and ratios["jepa"][0] > 0.99 and ratios["jepa"][-1] < 0.93
    assert np.all(np.abs(np.array(ratios["mae"]) - 1) < 0.02)


@given(st.integers(2, 5), st.floats(0.4, 2), st.floats(0.4, 2))
@examples(20)
def test_the_crossing_of_small_starts(depth, rho, other):
    w0 = np.array([1e-3, 5e-4])
    first = (2 * depth - 1) / (2 * depth - 2) * (1 / other - 1 / rho) * w0
    rest = np.abs(jepa.crossing_ratio(w0, rho, other, depth=depth, loss="jepa") - (1 - first))
    # the next order, with a logarithm for depth 2
    assert np.all(rest <= 1e-4 * abs(1 / other - 1 / rho) * (1 + 1 / other + 1 / rho) + 1e-5)
    same = jepa.crossing_ratio(w0, rho, rho, depth=depth, loss="jepa")
    assert np.array_equal(same, [1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jepa.final_size(0.0, depth=1, loss="jepa"), "rho must be > 0"),
        (lambda: jepa.final_size(1.0, depth=0, loss="jepa"), "depth must be an integer >= 1"),
        (lambda: jepa.final_size(1.0, depth=1, loss="byol"), "loss must be jepa or mae, got 'byol'"),
        (lambda: jepa.learning_time(0.1, 0.6, 1.0, 0.5, depth=2, loss="jepa"), "w1 must lie between"),
        (lambda: jepa.learning_time(0.1, [0.3, 0.05], 1.0, 0.5, depth=2, loss="mae"), "w0 = 0.1, w1 = 0.05"),
        (lambda: jepa.learning_time(0.1, 0.3, -1.0, 0.5, depth=2, loss="mae"), "lambda_ must be > 0"),
        (lambda: jepa.critical_time(1.5, 1.0, 0.5, depth=2, loss="jepa"), "w0 must be small"),
        (lambda: jepa.flow(-1.0, 0.1, 1.0, 0.5, depth=2, loss="jepa"), "t must be >= 0"),
        (lambda: jepa.flow(1.0, 0.7, 1.0, 0.5, depth=2, loss="jepa"), "w0 must be below the final size"),
        (lambda: jepa.crossing_ratio(0.1, 1.0, 0.5, depth=2, loss="jepa", share=1.0), "share must be below 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
