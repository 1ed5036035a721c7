"""Trace losses as graphs on the samples, and their kernel version: against loops, training and explicit features."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from grassmann_ssl.data import Triplets, moments_of
from grassmann_ssl.objectives import trace_matrix
from tests.oracles import dynamics as twin
from tests.oracles import losses as loops
from tests.profiles import examples
from theory import constrained, graph

LOSSES = ["linear_contrastive", "squared_contrastive", "linear_noncontrastive", "squared_noncontrastive"]
seeds = st.integers(0, 10**6)


def by_loops(name, u):
    """The loss of outputs u (3n, d), sample by sample."""
    parts = np.split(u, 3)
    return getattr(loops, name)(*(parts if name.endswith("_contrastive") else parts[:2]))


def feature_map(x):
    """Explicit features of the kernel (1 + x^T y)^2 in two dimensions."""
    a, b = x[:, 0], x[:, 1]
    r = np.sqrt(2)
    return np.stack([np.ones_like(a), r * a, r * b, a**2, b**2, r * a * b], axis=1)


def quadratic_kernel(x, y):
    return (1 + x @ y.T) ** 2


@pytest.mark.parametrize("name", LOSSES)
def test_the_graph_is_the_loss_of_the_outputs(name):
    rng = np.random.default_rng(0)
    for n in (1, 5):
        a, u = graph.graph_matrix(name, n), rng.standard_normal((3 * n, 2))
        assert a.shape == (3 * n, 3 * n) and np.array_equal(a, a.T)
        assert abs(np.trace(u.T @ a @ u) - by_loops(name, u)) < 1e-13


@pytest.mark.parametrize("name", LOSSES)
def test_the_graph_gives_the_matrix_that_training_uses(name):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3 * 7, 4))
    c = x.T @ graph.graph_matrix(name, 7) @ x
    moments = moments_of(Triplets(*(torch.as_tensor(part) for part in np.split(x, 3))))
    assert np.abs(c - trace_matrix(name, moments).numpy()).max() < 1e-14


# Free outputs


def flow_of_outputs(name, u, kernel, dt, steps, every):
    """du/dt = -K dL/du with dL/du by central differences of the loops: exact for a quadratic loss, up to rounding."""
    return twin.rk4(lambda v: kernel @ twin.difference(lambda x: by_loops(name, x), v, h=1e-2), u, dt, steps, every)


@pytest.mark.long
@pytest.mark.parametrize("name", LOSSES)
def test_outputs_of_free_weights_follow_the_kernel_flow(name):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((12, 3)), rng.standard_normal((3, 2))
    a, t = graph.graph_matrix(name, 4), np.array([0.0, 0.5, 1.0])
    weights = twin.rk4(lambda v: twin.difference(lambda y: by_loops(name, x @ y), v, h=1e-2), w, 5e-3, 200, every=100)
    direction, log_norm = graph.free_outputs(t, x @ w, a, x @ x.T)
    predicted = np.exp(log_norm)[:, None, None] * direction
    assert direction.shape == (3, 12, 2) and np.abs((direction**2).sum((-2, -1)) - 1).max() < 1e-14
    assert np.abs(predicted - x @ weights).max() < 1e-6 * np.abs(predicted).max()  # (rate dt)^4 of Runge-Kutta
    turned, its_norm = constrained.free_flow(t, w, x.T @ a @ x)
    assert np.abs(predicted - x @ turned * np.exp(its_norm)[:, None, None]).max() < 1e-12 * np.abs(predicted).max()


@given(seeds, st.sampled_from(LOSSES), st.integers(1, 3), st.integers(1, 9))
@examples(40)
def test_frozen_kernels_of_any_rank_with_outputs_in_and_out_of_their_range(seed, name, n, rank):
    rng = np.random.default_rng(seed)
    features, u = rng.standard_normal((3 * n, min(rank, 3 * n))), rng.standard_normal((2, 3 * n, 2))
    kernel, a = features @ features.T / 3, graph.graph_matrix(name, n)
    t = np.array([0.0, 0.1, 1.3])
    direction, log_norm = graph.free_outputs(t, u, a, kernel)
    for k, at in enumerate(t):
        expected = expm(-2 * at * kernel @ a) @ u
        error = np.abs(np.exp(log_norm[:, k, None, None]) * direction[:, k] - expected).max()
        assert error < 1e-9 * np.abs(expected).max()
    one, its_norm = graph.free_outputs(1.3, u[1], a, kernel)
    assert np.abs(one - direction[1, 2]).max() < 1e-12 and abs(its_norm - log_norm[1, 2]) < 1e-12


def test_a_frozen_kernel_trained_on_the_losses_themselves():
    rng = np.random.default_rng(3)
    features, u = rng.standard_normal((6, 4)), rng.standard_normal((6, 2))
    kernel = features @ features.T / 4
    for name in LOSSES:
        states = flow_of_outputs(name, u, kernel, 2e-2, 50, every=25)
        direction, log_norm = graph.free_outputs([0.0, 0.5, 1.0], u, graph.graph_matrix(name, 2), kernel)
        assert np.abs(np.exp(log_norm)[:, None, None] * direction - states).max() < 1e-6 * np.abs(states).max()


def test_outputs_neither_overflow_nor_underflow():
    rng = np.random.default_rng(4)
    x, w, t = rng.standard_normal((12, 3)), rng.standard_normal((3, 2)), np.array([1e3, 1e6])
    for name in ("linear_contrastive", "squared_noncontrastive"):
        a = graph.graph_matrix(name, 4)
        c = x.T @ a @ x
        direction, log_norm = graph.free_outputs(t, x @ w, a, x @ x.T)
        assert np.isfinite(direction).all()
        lowest, vectors = constrained.spectrum(c)
        assert abs((log_norm[1] - log_norm[0]) / (1e6 - 1e3) / (-2 * lowest[0]) - 1) < 1e-9
        line = x @ vectors[:, :1]
        line = line / np.linalg.norm(line)
        assert np.abs(direction[1] - line @ (line.T @ direction[1])).max() < 1e-6  # rank one: collapse


# The constrained kernel version


@pytest.mark.long
@pytest.mark.parametrize("name", LOSSES)
def test_the_kernel_minimiser_is_that_of_explicit_features(name):
    rng = np.random.default_rng(5)
    x, new, d = rng.standard_normal((15, 2)), rng.standard_normal((4, 2)), 2
    phi, a, kernel = feature_map(x), graph.graph_matrix(name, 5), quadratic_kernel(x, x)
    c = phi.T @ a @ phi
    values, alpha = graph.kernel_minimiser(kernel, a, d)
    lambda_, vectors = constrained.spectrum(c)
    assert np.abs(values - lambda_[:d]).max() < 1e-10 and np.all(np.diff(values) >= 0)
    assert np.abs(alpha.T @ kernel @ alpha - np.eye(d)).max() < 1e-9
    w = phi.T @ alpha
    assert np.abs(twin.projector(w) - vectors[:, :d] @ vectors[:, :d].T).max() < 1e-9
    outputs = graph.kernel_outputs(alpha, quadratic_kernel(x, new))
    assert outputs.shape == (4, d) and np.abs(outputs - feature_map(new) @ w).max() < 1e-9
    u = graph.kernel_outputs(alpha, kernel)
    assert abs(by_loops(name, u) - values.sum()) < 1e-9
    w0 = np.linalg.qr(rng.standard_normal((6, d)))[0]
    trained = twin.descend_on_grassmann(lambda v: twin.trace_gradient(v, c), w0, 0.1 / np.ptp(lambda_), 4000)[-1]
    assert twin.trace_loss(trained, c) > values.sum() - 1e-10
    assert abs(twin.trace_loss(trained, c) - values.sum()) < 1e-6


@given(seeds, st.sampled_from(LOSSES), st.integers(1, 4), st.integers(1, 8))
@examples(40)
def test_the_spectrum_on_random_features(seed, name, n, m):
    rng = np.random.default_rng(seed)
    phi, a = rng.standard_normal((3 * n, m)), graph.graph_matrix(name, n)
    rank = min(m, 3 * n)
    values, alpha = graph.kernel_minimiser(phi @ phi.T, a, rank)
    span = np.linalg.svd(phi, full_matrices=False)[2][:rank].T
    expected = np.linalg.eigvalsh(span.T @ phi.T @ a @ phi @ span)
    assert np.abs(values - expected).max() < 1e-11 * max(1, np.abs(expected).max())
    w = phi.T @ alpha
    smallest = np.linalg.svd(phi, compute_uv=False)[rank - 1] / np.linalg.norm(phi, 2)
    assert np.abs(w.T @ w - np.eye(rank)).max() < 1e-13 / smallest**2  # rounding of K over its smallest eigenvalue


EYE = np.eye(3)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: graph.graph_matrix("barlow_twins", 3), "loss must be one of linear_contrastive"),
        (lambda: graph.graph_matrix("linear_contrastive", 0), "n must be an integer >= 1"),
        (lambda: graph.free_outputs(-1.0, np.ones((3, 1)), EYE, EYE), "t must be >= 0"),
        (lambda: graph.free_outputs(1.0, np.ones((2, 1)), EYE, EYE), "outputs must have shape"),
        (lambda: graph.free_outputs(1.0, np.zeros((3, 1)), EYE, EYE), "outputs must not be zero"),
        (lambda: graph.free_outputs(1.0, np.ones((3, 1)), EYE, -EYE), "kernel must be positive semi-definite"),
        (lambda: graph.free_outputs(1.0, np.ones((3, 1)), EYE, 0 * EYE), "kernel must not be zero"),
        (lambda: graph.free_outputs(1.0, np.ones((3, 1)), np.eye(2), EYE), "same shape"),
        (lambda: graph.kernel_minimiser(EYE, np.triu(np.ones((3, 3))), 1), "graph must be symmetric"),
        (lambda: graph.kernel_minimiser(np.diag([1.0, 1.0, 0.0]), EYE, 3), "d must be an integer from 1 to 2"),
        (lambda: graph.kernel_outputs(np.ones((3, 1)), np.ones((2, 4))), "need the same N"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
