"""Powers of the width: two-layer networks of several widths, trained as their definition says."""

import numpy as np
import pytest

from theory import lazy

WIDTHS = (64, 512, 4096)
SEEDS, N, M, D = 40, 5, 3, 2
PHI = {
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)),
    "smooth": (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
}
X = np.random.default_rng(5).standard_normal((N, M))
X /= np.linalg.norm(X, axis=1, keepdims=True)


def draw(rng, h):
    """Weights U (S, M, h) and V (S, h, D) of order one."""
    return rng.standard_normal((SEEDS, M, h)), rng.standard_normal((SEEDS, h, D))


def outputs(u, v, activation):
    return PHI[activation][0](X @ u) @ v / v.shape[1] ** 0.5


def step(u, v, activation, slope, rate):
    """One step of gradient descent of both layers; slope (S, N, D) is dL/df."""
    phi, derivative = PHI[activation]
    inside, back = X @ u, slope / v.shape[1] ** 0.5
    by_u = X.T @ (derivative(inside) * (back @ np.swapaxes(v, 1, 2)))
    return u - rate * by_u, v - rate * np.swapaxes(phi(inside), 1, 2) @ back


def kernels(u, v, activation):
    """The last layer's kernel (S, N, N), and the whole one (S, N, N, D, D)."""
    phi, derivative = PHI[activation]
    features, on = phi(X @ u), derivative(X @ u)
    last = features @ np.swapaxes(features, 1, 2) / v.shape[1]
    first = np.einsum("sik,sjk,ska,skb->sijab", on, on, v, v, optimize=True) / v.shape[1]
    return last, last[..., None, None] * np.eye(D) + (X @ X.T)[:, :, None, None] * first


def change(now, then):
    """||now - then|| / ||then|| (S,)."""
    size = tuple(range(1, now.ndim))
    return np.sqrt(((now - then) ** 2).sum(size) / (then**2).sum(size))


def exponent(measured, widths=WIDTHS):
    """The slope of log of the root mean square over networks, measured (widths, S), against log h."""
    return np.polyfit(np.log(widths), np.log((np.array(measured) ** 2).mean(1)) / 2, 1)[0]


@pytest.mark.long
@pytest.mark.parametrize("activation", ["relu", "smooth"])
def test_without_constraint_exponents_are_those_of_trained_networks(activation):
    """Squared distance to random targets, until t = 1/2. The tolerance tells -3/4 from -1/2 and -1; it is two to three standard errors."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((SEEDS, N, D))
    found = {name: [] for name in lazy.Exponents._fields}
    for h in WIDTHS:
        start = u, v = draw(rng, h)
        for _ in range(10):
            u, v = step(u, v, activation, outputs(u, v, activation) - targets, 0.05)
        then, now = kernels(*start, activation), kernels(u, v, activation)
        found["last_layer"].append(change(now[0], then[0]))
        found["whole"].append(change(now[1], then[1]))
        found["movement"].append(change(v, start[1]))
        found["switched"].append(((X @ u > 0) != (X @ start[0] > 0)).mean((1, 2)))
    expected = lazy.free(activation)
    assert (expected.switched is None) == (activation == "smooth")
    for name, power in expected._asdict().items():
        assert power is None or exponent(found[name]) == pytest.approx(power, abs=0.08), name


def test_outputs_of_a_random_network_are_coupled_as_independent_signs_are():
    rng, coupled = np.random.default_rng(1), []
    for h in WIDTHS:
        whole = kernels(*draw(rng, h), "smooth")[1]
        coupled.append(change(whole[..., 0, 1] + whole[..., 0, 0], whole[..., 0, 0]))
    assert lazy.independent_signs() == -0.5
    assert exponent(coupled) == pytest.approx(lazy.independent_signs(), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "size"), [(0.0, -0.5), (-0.5, 0.0), (-0.25, -0.25)])
def test_sums_of_independent_signs(share, size):
    rng, widths = np.random.default_rng(2), (256, 4096, 65536)
    signs = [round(h ** (1 + share)) for h in widths]
    sums = [(2 * rng.binomial(k, 0.5, 2000) - k) * h**size / h for k, h in zip(signs, widths, strict=True)]
    assert exponent(sums, widths) == pytest.approx(lazy.independent_signs(share, size), abs=0.02)


@pytest.mark.parametrize("growing", [True, False])
def test_under_the_constraint_exponents_are_those_of_a_trained_last_layer(growing):
    """tr(f^T A f), f = Phi W2 with W1 fixed and W2 orthonormal, by projected steps and QR until t = 225."""
    rng, widths = np.random.default_rng(3), (64, 256, 1024)
    spectrum = np.array([-1.0, -0.6, 0.4, 0.7, 1.0]) if growing else np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    turn = np.linalg.qr(rng.standard_normal((N, N)))[0]
    graph = (turn * spectrum) @ turn.T
    movement, kernel = [], []
    for h in widths:
        phi = np.maximum(X @ rng.standard_normal((12, M, h)), 0) / h**0.5
        start = w = np.linalg.qr(rng.standard_normal((12, h, D)))[0]
        for _ in range(300):
            slope = np.swapaxes(phi, 1, 2) @ (graph @ (phi @ w))
            w = np.linalg.qr(w - 1.5 * (slope - w @ (np.swapaxes(w, 1, 2) @ slope)))[0]
        # QR may turn the basis: what of the start lies in the span of W2 has moved by the sines of the angles.
        movement.append(change(w @ (np.swapaxes(w, 1, 2) @ start), start))
        projected = [phi @ np.swapaxes(phi, 1, 2) - (phi @ v) @ np.swapaxes(phi @ v, 1, 2) for v in (w, start)]
        kernel.append(change(*projected))
    expected = lazy.constrained(growing=growing, first_layer=False)
    assert exponent(movement, widths) == pytest.approx(expected.movement, abs=0.1)
    assert exponent(kernel, widths) == pytest.approx(expected.last_layer, abs=0.2)
    assert expected.whole == expected.last_layer and expected.switched is None


def test_with_both_layers_constrained_a_prediction_needs_growing_modes():
    assert lazy.constrained(growing=True, first_layer=True) == (0, 0, 0, 0)
    assert lazy.constrained(growing=False, first_layer=True) == (None,) * 4


def test_a_growing_loss_leaves_the_lazy_regime_at_a_quarter_of_log_width_over_its_rate():
    """One output and one weight on each side, f = a b / sqrt(h) h times: a' = -2 A f b / sqrt(h), and the same of b. The kernel
    (a^2 + b^2) / h summed over h units doubles at t = log(h) / (4 |lambda|) + const, lambda = A times the kernel at the start."""
    rate, times = -0.7, []
    widths = (1e4, 1e8)
    for h in widths:
        # sums over units: k = (1/h) sum a^2 + b^2 and f = (1/sqrt h) sum a b close among themselves: k' = -8 A f^2 / h, f' = -2 A f k
        k, f, t, dt = 2.0, 1.0, 0.0, 1e-3
        while k < 4:
            slope = lambda k, f, h=h: (-8 * rate * f * f / h, -2 * rate * f * k)  # noqa: E731
            first = slope(k, f)
            second = slope(k + dt / 2 * first[0], f + dt / 2 * first[1])
            k, f, t = k + dt * second[0], f + dt * second[1], t + dt
        times.append(t)
    measured = (times[1] - times[0]) / np.log(widths[1] / widths[0])
    assert measured == pytest.approx(lazy.lazy_time_slope(rate * 2), rel=1e-2)


def test_what_has_no_prediction_is_refused():
    with pytest.raises(ValueError, match="activation must be relu or smooth, got 'gelu'"):
        lazy.free("gelu")
    for value in (0.0, 0.3, float("nan")):
        with pytest.raises(ValueError, match="lambda_ must be"):
            lazy.lazy_time_slope(value)
