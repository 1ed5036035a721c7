"""Step times from the full tangent kernel: against slow integration, explicit rates, and networks that train."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import dynamics
from tests.oracles import stepwise as oracle
from tests.oracles import tangent as twin
from tests.profiles import examples
from theory import kernel as scalar
from theory import stepwise, tangent

seeds = st.integers(0, 10**6)


def features(rng, n=6, gamma=(1.0, 0.56, 0.3, 0.09), noise=0.02):
    """Stacked features (2n, 4) whose modes are about gamma."""
    base = np.linalg.qr(rng.standard_normal((n, 4)))[0] * np.sqrt(n * np.array(gamma))
    return np.concatenate([base + noise * rng.standard_normal(base.shape) for _ in range(2)])


def coupled(rng, x, d, size):
    """A kernel x (I + size S) x^T of features x with a random symmetric S, without scalar part."""
    m = x.shape[1]
    s = rng.standard_normal((m, d, m, d)) / np.sqrt(m * d)
    s = (s + s.transpose(2, 3, 0, 1)) / 2
    s = s - np.einsum("iaja,bc->ibjc", s, np.eye(d)) / d
    whole = np.einsum("ij,ab->iajb", np.eye(m), np.eye(d)) + size * s
    return np.einsum("pi,iajb,qj->pqab", x, whole, x, optimize=True)


def flat(kernel):
    n, d = kernel.shape[0], kernel.shape[2]
    return kernel.transpose(0, 2, 1, 3).reshape(n * d, n * d)


def scalar_times(kernel, initial):
    modes = scalar.kernel_modes(tangent.mean_kernel(kernel))
    aligned = stepwise.aligned_initialisation(modes.coefficients.T @ initial, np.diag(modes.gamma))
    return np.sort(stepwise.step_times(aligned.singular_values, aligned.gamma))


def test_the_jacobian_of_the_twin():
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((4, 3)), twin.draw(rng, 3, 5, 2)
    slope = rng.standard_normal((4, 2))
    exact = dynamics.difference(lambda w: (slope * twin.outputs(x, w)).sum(), weights)
    assert np.abs(exact - twin.pull(x, weights, slope)).max() < 1e-8
    assert np.abs((slope[..., None] * twin.jacobian(x, weights)).sum((0, 1)) - exact.ravel()).max() < 1e-8


def test_the_linearised_flow_is_training_of_a_linear_model_of_coupled_features():
    """f = R omega with Theta = R R^T, by RK4 of omega on the loss's own gradient."""
    rng = np.random.default_rng(1)
    x = features(rng)
    kernel = coupled(rng, x, 2, 0.3)
    values, vectors = np.linalg.eigh(flat(kernel))
    assert values.min() > -1e-12
    root = vectors * np.sqrt(np.maximum(values, 0))
    start = 0.1 * x @ rng.standard_normal((4, 2))

    def outputs(omega):
        return start + (root @ omega).reshape(start.shape)

    states = dynamics.rk4(lambda o: root.T @ oracle.output_gradient(outputs(o)).ravel(), np.zeros(24), 0.005, 600)
    found = tangent.linearised_flow([0.0, 1.0, 3.0], kernel, start)
    assert (
        np.abs(found - np.stack([outputs(states[k]) for k in (0, 200, 600)])).max() < 5e-9
    )  # of RK4; 16 times less with half the step
    assert np.array_equal(tangent.linearised_flow(0.0, kernel, start), start)
    assert np.abs(tangent.linearised_flow(3.0, kernel, start) - found[2]).max() < 1e-9
    curves = twin.eigenvalues(np.stack([outputs(o) for o in states]))
    crossings = oracle.first_crossings(0.005 * np.arange(601), curves, 0.5)
    assert np.abs(tangent.linearised_step_times(kernel, start, 3.0) - crossings).max() < 1e-4  # linear between records
    assert np.isinf(tangent.linearised_step_times(kernel, start, 0.5 * crossings[1])[1])


@given(seeds, st.integers(1, 3), st.floats(0, 0.4))
@examples(15)
def test_growth_is_that_of_small_outputs(seed, d, size):
    rng = np.random.default_rng(seed)
    x = features(rng)
    kernel = coupled(rng, x, d, size)
    n = len(x)
    slope = [-flat(kernel) @ oracle.output_gradient(1e-5 * f.reshape(n, d)).ravel() / 1e-5 for f in np.eye(n * d)]
    exact = np.sort(np.linalg.eigvals(np.array(slope).T).real / 4)[::-1]
    assert np.abs(tangent.growth(kernel) - exact).max() < 1e-6  # of a defective 0, and the cube of the outputs


@given(seeds)
@examples(10)
def test_coupling_splits_rates_to_first_order(seed):
    rng = np.random.default_rng(seed)
    x, d = features(rng), 3
    errors = []
    for size in (0.02, 0.01):
        draws = np.random.default_rng(seed)
        kernel = coupled(draws, x, d, size)
        modes = scalar.kernel_modes(tangent.mean_kernel(kernel))
        delta = tangent.coupling(modes, kernel, 3)
        assert np.abs(delta - delta.transpose(1, 0, 3, 2)).max() < 1e-10
        assert np.abs(np.trace(delta, axis1=2, axis2=3)).max() < 1e-10
        split = [modes.gamma[j] * (1 + np.linalg.eigvalsh(delta[j, j])[::-1]) for j in range(3)]
        errors.append(np.abs(tangent.growth(kernel)[:9] - np.concatenate(split)).max())
        assert np.abs(delta).max() > size / 100
    assert errors[0] < 2e-3 and errors[1] < 0.4 * errors[0]  # second order: a quarter


@given(seeds, st.integers(1, 3))
@examples(15)
def test_without_coupling_the_times_are_the_scalar_ones(seed, d):
    rng = np.random.default_rng(seed)
    x = features(rng)
    kernel, start = coupled(rng, x, d, 0.0), 1e-9 * x @ rng.standard_normal((4, d))
    assert np.abs(tangent.mean_kernel(kernel) - x @ x.T).max() < 1e-12
    assert np.abs(tangent.step_times(kernel, start) / scalar_times(kernel, start) - 1).max() < 1e-6


@given(seeds, st.floats(0, 6))
@examples(10)
def test_times_do_not_depend_on_the_basis_of_outputs(seed, angle):
    rng = np.random.default_rng(seed)
    x = features(rng)
    kernel, start = coupled(rng, x, 2, 0.2), 1e-4 * x @ rng.standard_normal((4, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = np.einsum("ca,pqab,db->pqcd", turn, kernel, turn)
    assert np.allclose(tangent.step_times(turned, start @ turn.T), tangent.step_times(kernel, start), rtol=1e-8)
    assert np.abs(tangent.growth(turned) - tangent.growth(kernel)).max() < 1e-12


@pytest.mark.long
def test_first_order_times_are_those_of_the_linearised_flow_where_scalar_ones_are_not():
    """Couplings of 0.1 and outputs of 1e-6, four draws: the errors are those of the docstring, and grow with the coupling."""
    medians = []
    for size in (0.02, 0.1):
        errors = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            x = features(rng)
            kernel, start = coupled(rng, x, 3, size), 1e-6 * x @ rng.standard_normal((4, 3))
            first = tangent.step_times(kernel, start)
            whole = tangent.linearised_step_times(kernel, start, 1.3 * first.max())
            errors.append(np.abs([first / whole - 1, scalar_times(kernel, start) / whole - 1]))
        medians.append(np.median(errors, 0))
    assert np.all(medians[1][0] < (0.002, 0.02, 0.02)) and np.all(medians[0][0] < (0.001, 0.01, 0.01))
    assert np.all(medians[1][1] > (0.005, 0.1, 0.1)) and np.all(medians[1][0] < medians[1][1] / 5)


@pytest.mark.long
def test_networks_that_share_units_step_when_the_full_kernel_says():
    """Four networks of width 512, d = 2, outputs of 1e-3. What scalar theory misses is the coupling; the rest is that kernels change."""
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        base = rng.standard_normal((6, 3)) * [1.5, 1.2, 0.9]
        x = np.concatenate([base + 0.2 * rng.standard_normal((6, 3)) for _ in range(2)])
        x = x / np.sqrt((x**2).sum(1).mean())
        centre = twin.draw(rng, 3, 512, 2)
        weights = centre + 1e-3 * rng.standard_normal(centre.shape)
        kernel, start = twin.kernel(x, centre), twin.outputs(x, weights) - twin.outputs(x, centre)
        first, one = tangent.step_times(kernel, start), scalar_times(kernel, start)
        horizon = 1.2 * max(first.max(), one.max())
        whole = tangent.linearised_step_times(kernel, start, horizon)
        dt = 0.5 / (4 * tangent.growth(kernel)[0])
        trained = twin.eigenvalues(twin.train(x, centre, weights, dt, int(horizon / dt)))
        times = oracle.first_crossings(dt * np.arange(len(trained)), trained, 0.5)
        errors.append(np.abs([first / times - 1, whole / times - 1, one / times - 1]))
    first, whole, one = np.median(errors, 0)  # 0.1 and 0.5 %, 0.1 and 1.5 %, 1.2 and 15 %
    assert np.all(first < (0.004, 0.03)) and np.all(whole < (0.004, 0.03))
    assert np.all(one > (0.006, 0.08))


def test_gradient_descent_steps_later_than_the_flow():
    """One output at a large learning rate, from small weights: exact discrete descent, up to the rise itself."""
    rng = np.random.default_rng(3)
    x = features(rng)
    modes = scalar.kernel_modes(x @ x.T)
    start, rate = 1e-12 * x @ rng.standard_normal((4, 1)), 0.4 / (4 * modes.gamma[0])
    size = stepwise.aligned_initialisation(modes.coefficients.T @ start, np.diag(modes.gamma)).singular_values
    counts = np.arange(200)
    curve = modes.gamma[0] * stepwise.discrete_singular_values(counts, rate, size, modes.gamma[:1]) ** 2
    exact = oracle.first_crossings(rate * counts, curve, 0.5)
    kernel = (x @ x.T)[..., None, None]
    found, flow = (tangent.step_times(kernel, start, modes, one) for one in (rate, None))
    assert np.abs(found / exact - 1).max() < 0.01 < 0.15 < np.abs(flow / exact - 1).min()


def test_steps_that_no_mode_is_left_for_never_come():
    x = np.array([[1.0, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, -0.5]])
    kernel = np.einsum("pq,ab->pqab", x @ x.T, np.eye(2))
    found = tangent.step_times(kernel, 1e-3 * x @ np.array([[1.0, 0.3], [0.2, 1.0]]))
    assert np.isfinite(found[0]) and np.isinf(found[1])
    assert np.all(np.isinf(tangent.step_times(kernel, np.zeros((4, 2)))))


KERNEL = np.einsum("pq,ab->pqab", np.ones((4, 4)), np.eye(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tangent.growth(np.ones((4, 4))), "kernel must have 4 dimension"),
        (lambda: tangent.growth(np.ones((3, 3, 2, 2))), r"kernel must have shape \(2n, 2n, d, d\)"),
        (lambda: tangent.growth(np.triu(np.ones((4, 4)))[..., None, None]), "kernel must be symmetric"),
        (lambda: tangent.step_times(KERNEL, np.ones((4, 3))), "initial must have shape"),
        (lambda: tangent.step_times(KERNEL, np.ones((4, 2)), learning_rate=0.0), "learning_rate must be > 0"),
        (lambda: tangent.linearised_flow(-1.0, KERNEL, np.ones((4, 2))), "t must be >= 0"),
        (lambda: tangent.linearised_step_times(KERNEL, np.ones((4, 2)), 0.0), "horizon must be > 0"),
        (lambda: tangent.coupling(scalar.kernel_modes(np.ones((4, 4))), KERNEL, 2), "count must be at most 1"),
        (lambda: tangent.coupling(scalar.kernel_modes(np.ones((2, 2))), KERNEL, 1), "modes must be those"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
