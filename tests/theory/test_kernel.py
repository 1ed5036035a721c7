"""Stepwise learning from a kernel matrix: against explicit features, and against training in function space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from tests.oracles import dynamics as twin
from tests.oracles import stepwise as oracle
from tests.profiles import examples
from theory import kernel, stepwise


def pairs(rng, n, p, noise=0.5):
    """Features of n positive pairs, stacked (2n, p)."""
    shared = rng.standard_normal((n, p)) * 0.8 ** np.arange(p)
    return np.concatenate([shared + noise * rng.standard_normal((n, p)) * 0.8 ** np.arange(p) for _ in range(2)])


def explicit(features):
    n = len(features) // 2
    return oracle.cross_moment(features[:n], features[n:])


def feature_embeddings(rng, features, new, d):
    """W_inf^T phi(x) of the linear model on the features."""
    start = stepwise.aligned_initialisation(rng.standard_normal((features.shape[1], d)), explicit(features))
    return new @ stepwise.final_weights(start)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 15))
def test_modes_and_embeddings_are_those_of_the_features(seed, n, p):
    rng = np.random.default_rng(seed)
    features, new = pairs(rng, n, p), rng.standard_normal((7, p))
    modes = kernel.kernel_modes(features @ features.T)
    gamma = stepwise.spectrum(explicit(features))[0]
    bound = np.linalg.norm(features, 2) ** 2 / (2 * n)
    assert np.abs(modes.gamma - gamma[np.abs(gamma) > 1e-9 * bound]).max() < 1e-13 * bound * p
    positive = int((modes.gamma > 0).sum())
    # functions of unit norm: weights on the features
    functions = features.T @ modes.coefficients
    gain = bound / np.abs(modes.gamma)
    assert np.all(np.abs(functions.T @ functions - np.eye(modes.gamma.size)) < 1e-12 * np.maximum(gain, gain[:, None]))
    assert np.abs(features @ functions - modes.values).max() < 1e-12 * gain.max() * np.abs(features).max()
    for d in range(1, positive + 1):
        expected = feature_embeddings(rng, features, new, d)
        size = np.abs(expected).max() * gain[d - 1]
        nearest = np.abs(np.delete(gamma, range(d)) - gamma[d - 1]).min(initial=np.inf) if p > d else np.inf
        if nearest < 1e-2 * bound / p:
            continue  # the subspace itself is badly defined
        assert oracle.aligned_up_to_rotation(kernel.embeddings(modes, features @ new.T, d), expected) < 1e-10 * size
        trained = kernel.training_embeddings(modes, d)
        assert np.abs(oracle.cross_moment(trained[:n], trained[n:]) - np.eye(d)).max() < 1e-12 * gain[d - 1]
        assert np.abs(kernel.embeddings(modes, features @ features.T, d) - trained).max() < 1e-11 * size


def test_digits_with_random_features_and_with_a_polynomial_kernel():
    rng, n, d = np.random.default_rng(0), 150, 8
    images = load_digits().images[: n + 40].reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16) / 16  # 4 x 4 pixels
    views = np.concatenate([images[:n] + 0.1 * rng.standard_normal((n, 16)) for _ in range(2)])
    frequencies, phases = rng.standard_normal((16, 200)) / 2, rng.uniform(0, 2 * np.pi, 200)
    random = lambda x: np.cos(x @ frequencies + phases) / 10  # noqa: E731
    upper = np.triu_indices(16)
    weights = np.where(upper[0] == upper[1], 1.0, np.sqrt(2.0))
    polynomial = lambda x: weights * x[:, upper[0]] * x[:, upper[1]]  # noqa: E731  of the kernel (x^T y)^2
    for phi in (random, polynomial):
        features, new = phi(views), phi(images[n:])
        modes = kernel.kernel_modes(features @ features.T)
        expected = feature_embeddings(rng, features, new, d)
        assert oracle.aligned_up_to_rotation(kernel.embeddings(modes, features @ new.T, d), expected) < 1e-10
        gamma = stepwise.spectrum(explicit(features))[0]
        assert np.abs(modes.gamma[:d] / gamma[:d] - 1).max() < 1e-11
    by_kernel = kernel.embeddings(kernel.kernel_modes((views @ views.T) ** 2), (views @ images[n:].T) ** 2, d)
    assert oracle.aligned_up_to_rotation(by_kernel, expected) < 1e-10


def test_badly_conditioned_kernels_cost_no_accuracy():
    rng, n, p = np.random.default_rng(6), 20, 16
    shared, o = rng.standard_normal((n, p)), twin.orthogonal(rng, p)
    views = np.concatenate([shared + 0.5 * rng.standard_normal((n, p)) for _ in range(2)])
    features, new = (views * 10.0 ** -np.arange(p)) @ o, rng.standard_normal((6, p)) @ o
    modes = kernel.kernel_modes(features @ features.T)  # its eigenvalues fall from 1 to 1e-30; inverting loses 1e-6
    for d in (1, 2, 3):
        expected = feature_embeddings(rng, features, new, d)
        error = oracle.aligned_up_to_rotation(kernel.embeddings(modes, features @ new.T, d), expected)
        assert error < 1e-15 * 100 * modes.gamma[0] / modes.gamma[d - 1] * np.abs(expected).max()


def test_training_explicit_features_ends_at_the_predicted_embeddings():
    rng, n, p, d = np.random.default_rng(1), 40, 12, 3
    features = (
        pairs(rng, n, p, noise=0.1) @ np.diag(np.r_[1.0, 1.0, 1.0, np.full(p - 3, 0.2)]) @ twin.orthogonal(rng, p)
    )
    new, gamma_matrix = rng.standard_normal((20, p)), explicit(features)
    w0 = 1e-8 * rng.standard_normal((p, d))
    w = twin.rk4(lambda v: twin.barlow_twins_gradient(v, gamma_matrix), w0, 0.04, 1000)[-1]
    assert twin.barlow_twins_loss(w, gamma_matrix) < 1e-10
    predicted = kernel.embeddings(kernel.kernel_modes(features @ features.T), features @ new.T, d)
    assert oracle.aligned_up_to_rotation(new @ w, predicted) < 1e-4 * np.abs(predicted).max()


def test_the_gradient_of_the_twin_in_function_space():
    outputs = np.random.default_rng(2).standard_normal((8, 3))
    slope = twin.difference(oracle.output_loss, outputs)
    assert np.abs(slope - oracle.output_gradient(outputs)).max() < 1e-7


def test_aligned_training_in_function_space_is_exact():
    rng, n = np.random.default_rng(3), 10
    x, new = pairs(rng, n, 3), rng.standard_normal((4, 3))
    similarity = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 4)  # noqa: E731
    matrix, columns = similarity(x, x), similarity(x, new)
    modes = kernel.kernel_modes(matrix)
    s0 = rng.uniform(0.05, 1.5, (2, 4))
    start = kernel.flow_embeddings(0.0, modes, np.concatenate([matrix, columns], 1), s0)
    dt = 0.01
    states = twin.rk4(oracle.kernel_gradient(matrix, columns), start, dt, 1200, every=100)
    t = dt * np.arange(0, 1201, 100)
    predicted = kernel.flow_embeddings(t, modes, columns, s0)
    assert predicted.shape == (2, t.size, 4, 4)
    assert np.abs(predicted - np.moveaxis(states[..., 2 * n :, :], 0, 1)).max() < 1e-7
    assert (
        np.abs(kernel.flow_embeddings(t, modes, matrix, s0) - np.moveaxis(states[..., : 2 * n, :], 0, 1)).max() < 1e-7
    )
    assert np.abs(kernel.flow_embeddings(t[3], modes, columns, s0[0]) - predicted[0, 3]).max() < 1e-14
    assert np.abs(kernel.flow_embeddings(0.0, modes, matrix, s0) - s0[:, None] * modes.values[:, :4]).max() < 1e-9
    late = kernel.flow_embeddings(1e6, modes, columns, s0)
    assert np.abs(late - kernel.embeddings(modes, columns, 4)).max() < 1e-10


def test_negative_modes_decay_in_function_space():
    rng, n = np.random.default_rng(4), 6
    x = rng.standard_normal((n, 3))
    features = np.concatenate([x, x * [1.0, -1.0, -0.5]])
    matrix = features @ features.T
    modes = kernel.kernel_modes(matrix)
    assert modes.gamma.size == 3 and (modes.gamma < 0).sum() >= 1
    start = kernel.flow_embeddings(0.0, modes, matrix, [0.5, 0.5, 0.5])
    states = twin.rk4(oracle.kernel_gradient(matrix, matrix[:, :1]), np.concatenate([start, start[:1]]), 0.005, 400)
    assert np.abs(kernel.flow_embeddings(2.0, modes, matrix, [0.5, 0.5, 0.5]) - states[-1, : 2 * n]).max() < 1e-8
    with pytest.raises(ValueError, match=f"d must be at most {(modes.gamma > 0).sum()}, the number of positive"):
        kernel.embeddings(modes, matrix, 3)


@given(st.integers(0, 10**6), st.integers(2, 10), st.integers(1, 4))
def test_identical_views_give_whitened_kernel_principal_components(seed, n, p):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * 2.0 ** -np.arange(p)
    gram = (x @ x.T + 0.3) ** 2
    modes = kernel.kernel_modes(np.block([[gram, gram], [gram, gram]]))
    sizes, components = np.linalg.eigh(gram / n)
    d = int((sizes > 1e-3 * sizes[-1]).sum())
    if d < n and sizes[-d - 1] > 0.5 * sizes[-d]:
        return
    outputs = kernel.training_embeddings(modes, d)
    assert np.abs(modes.gamma[:d] - sizes[::-1][:d]).max() < 1e-12 * sizes[-1]
    assert np.abs(outputs[:n] - outputs[n:]).max() < 1e-10
    assert np.abs(outputs[:n].T @ outputs[:n] / n - np.eye(d)).max() < 1e-10  # variance 1, uncorrelated
    principal = np.sqrt(n) * components[:, ::-1][:, :d]
    assert oracle.aligned_up_to_rotation(outputs[:n], principal) < 1e-8


@given(st.integers(0, 10**6), st.integers(2, 5))
@examples(20)
def test_repeated_samples_change_nothing(seed, copies):
    rng, n, d = np.random.default_rng(seed), 8, 2
    features, new = pairs(rng, n, 3), rng.standard_normal((5, 3))
    once = kernel.kernel_modes(features @ features.T)
    repeated = np.concatenate([np.tile(features[:n], (copies, 1)), np.tile(features[n:], (copies, 1))])
    many = kernel.kernel_modes(repeated @ repeated.T)
    assert once.gamma.size == many.gamma.size == 3
    assert np.abs(once.gamma - many.gamma).max() < 1e-12
    if once.gamma[1] < 0.1 * once.gamma[0] or once.gamma[1] - once.gamma[2] < 0.05 * once.gamma[0]:
        return
    a, b = (kernel.embeddings(m, f @ new.T, d) for m, f in ((once, features), (many, repeated)))
    assert oracle.aligned_up_to_rotation(a, b) < 1e-10 * np.abs(a).max()


def test_one_pair():
    a, b = np.array([2.0, 1.0]), np.array([0.5, -1.0])
    features = np.stack([a, b])
    modes = kernel.kernel_modes(features @ features.T)
    product, norms = a @ b, np.linalg.norm(a) * np.linalg.norm(b)
    assert np.abs(modes.gamma - [(product + norms) / 2, (product - norms) / 2]).max() < 1e-14
    outputs = kernel.training_embeddings(modes, 1)
    assert abs(outputs[0, 0] * outputs[1, 0] - 1) < 1e-13
    same = kernel.kernel_modes(np.ones((2, 2)))
    assert np.abs(same.gamma - [1.0]).max() < 1e-14


@pytest.mark.parametrize("seed", range(20))
def test_views_without_anything_in_common_have_no_modes(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 5))
    features = np.stack([a, a, b, -b])  # the cross-moments of the two pairs cancel, up to rounding
    matrix, direction = features @ features.T, rng.standard_normal(4)
    rounding = np.finfo(float).eps * np.trace(matrix) * np.outer(direction, direction) / (direction @ direction)
    for perturbed in (matrix, matrix + rounding, matrix - rounding):  # whichever way the machine rounds
        assert kernel.kernel_modes(perturbed).gamma.size == 0


def test_second_views_that_are_zero_have_no_modes():
    matrix = np.diag([1.0, 2.0, 0.0, 0.0])  # second views are zero
    modes = kernel.kernel_modes(matrix)
    assert modes.gamma.shape == (0,) and modes.values.shape == (4, 0)
    with pytest.raises(ValueError, match="no positive eigenvalue: nothing will be learned"):
        kernel.embeddings(modes, matrix, 1)


def test_the_cutoff_and_batches_of_columns():
    features = np.array([[1.0, 0.0], [0.0, 1e-3], [1.0, 0.0], [0.0, 1e-3]])
    assert kernel.kernel_modes(features @ features.T).gamma.size == 2
    assert kernel.kernel_modes(features @ features.T, cutoff=0.99e-6).gamma.size == 2  # gamma_2 = 1e-6 of the bound
    assert kernel.kernel_modes(features @ features.T, cutoff=1.01e-6).gamma.size == 1
    modes = kernel.kernel_modes(features @ features.T)
    columns = np.random.default_rng(5).standard_normal((3, 4, 6))
    together = kernel.embeddings(modes, columns, 2)
    assert together.shape == (3, 6, 2)
    for one, whole in zip(columns, together, strict=True):
        assert np.allclose(kernel.embeddings(modes, one, 2), whole, rtol=1e-14, atol=0)


MODES = kernel.kernel_modes(np.eye(4) + np.ones((4, 4)))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: kernel.kernel_modes(np.ones((2, 4))), "kernel must be square"),
        (lambda: kernel.kernel_modes(np.eye(3)), "kernel must have an even number"),
        (lambda: kernel.kernel_modes([[1.0, 2.0], [0.0, 1.0]]), "kernel must be symmetric"),
        (lambda: kernel.kernel_modes([[1.0, 2.0], [2.0, 1.0]]), "kernel must be positive semi-definite"),
        (lambda: kernel.kernel_modes([[np.inf, 0.0], [0.0, 1.0]]), "kernel must be finite"),
        (lambda: kernel.kernel_modes(np.zeros((2, 2))), "kernel must not be zero"),
        (lambda: kernel.kernel_modes(np.eye(2), 0.0), "cutoff must be > 0"),
        (lambda: kernel.kernel_modes(np.eye(2), 1.0), "cutoff must be < 1"),
        (lambda: kernel.embeddings(MODES, np.ones((3, 2)), 1), r"columns must have shape \(..., 4, q\)"),
        (lambda: kernel.embeddings(MODES, np.ones(4), 1), "columns must have at least 2"),
        (lambda: kernel.embeddings(MODES, np.ones((4, 2)), 0), "d must be an integer >= 1"),
        (
            lambda: kernel.training_embeddings(MODES, 3),
            "d must be at most 2, the number of positive eigenvalues, got 3",
        ),
        (lambda: kernel.flow_embeddings(-1.0, MODES, np.ones((4, 2)), [1.0]), "t must be >= 0"),
        (lambda: kernel.flow_embeddings(1.0, MODES, np.ones((4, 2)), [-1.0]), "s0 must be >= 0"),
        (lambda: kernel.flow_embeddings(1.0, MODES, np.ones((4, 2)), np.ones(5)), "s0 .* needs d <= 4"),
        (lambda: kernel.flow_embeddings(1.0, MODES, np.ones((2, 4, 2)), [1.0]), "columns must have 2 dimension"),
    ],
)
def test_wrong_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
