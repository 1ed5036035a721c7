"""Predictors in closed form: their formulas, the moving average, rotations, training in between, and linear data."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl.distributed import process_count
from grassmann_ssl.nn.predictors import PREDICTORS, DirectPredictor, SymmetricLinear, matrix_of, predictor
from tests.nn.test_distributed import run_in
from tests.oracles import dynamics, predictors_nn
from tests.oracles.predictor import views

DIRECT = [name for name, one in PREDICTORS.items() if one.closed_form]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def follow(model, *parts):
    """A step whose embeddings come in parts."""
    for f in parts:
        model.observe(f)
    model.update()


def slow(kind, correlation, alpha=0.5, eps=0.1):
    """W eigenvalue by eigenvalue, from numpy."""
    s, u = np.linalg.eigh(correlation)
    w = np.zeros_like(correlation)
    for value, vector in zip(s, u.T, strict=True):
        value = max(value, 0.0)
        p = {
            "directpred": np.sqrt(value) + eps * s.max(),
            "directpred-code": max((value / s.max()) ** 0.5 + eps, 1e-4),
            "directset": value**alpha + eps * s.max() ** alpha,
            "directcopy": value / s.max() + eps,
        }[kind]
        w += p * np.outer(vector, vector)
    return w


@pytest.mark.parametrize("kind", DIRECT)
@given(st.integers(1, 6), st.floats(0, 0.9), st.floats(0, 0.5), st.floats(0.2, 2))
def test_w_is_its_formula_of_the_moving_average(kind, d, rho, eps, alpha):
    model = DirectPredictor(d, kind=kind, rho=rho, eps=eps, alpha=alpha).double()
    average = None
    for k in range(3):
        f = draw(20, d, seed=k)
        follow(model, f)
        batch = (f.T @ f / 20).numpy()
        average = batch if average is None else rho * average + (1 - rho) * batch
        assert np.abs(model.correlation.numpy() - average).max() < 1e-14 * np.abs(average).max() * 4
        expected = slow(kind, average, alpha, eps)
        assert np.abs(model.weight.detach().numpy() - expected).max() < 1e-12 * (1 + np.abs(expected).max())
    assert int(model.calls) == 3
    f = draw(4, d, seed=9)
    assert torch.equal(model(f), f @ model.weight.T) and not model.weight.requires_grad


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 5))
def test_a_step_of_parts_is_the_step_of_all_rows(sizes, d):
    whole, parts = (DirectPredictor(d).double() for _ in range(2))
    for k in range(3):
        f = draw(sum(sizes), d, seed=k)
        follow(whole, f)
        for part in f.split(sizes):
            parts(part)
        parts.update()
    assert int(parts.calls) == 3
    assert (parts.correlation - whole.correlation).abs().max() < 1e-14 * whole.correlation.abs().max() * len(sizes)


def test_nothing_moves_without_rows_nor_in_evaluation():
    model = DirectPredictor(3).double()
    model.eval()(draw(9, 3))
    model.update()
    assert int(model.calls) == 0 and torch.equal(model.weight, torch.eye(3, dtype=torch.float64))
    follow(model.train(), draw(9, 3))
    kept = model.correlation.clone()
    model.update()  # the rows of a step are used once
    assert torch.equal(model.correlation, kept) and int(model.calls) == 1


@pytest.mark.parametrize("kind", DIRECT)
def test_w_turns_with_the_embeddings(kind):
    q = torch.linalg.qr(draw(5, 5, seed=3))[0]
    one, other = (DirectPredictor(5, kind=kind).double() for _ in range(2))
    for k in range(3):
        f = draw(30, 5, seed=k) @ draw(5, 5, seed=7)
        follow(one, f)
        follow(other, f @ q)
    assert (q.T @ one.weight @ q - other.weight).abs().max() < 1e-12 * one.weight.abs().max()


@pytest.mark.parametrize("kind", DIRECT)
def test_collapsed_embeddings_give_finite_weights(kind):
    model = DirectPredictor(4, kind=kind)
    follow(model, torch.zeros(8, 4))
    assert torch.isfinite(model.weight).all()
    follow(model, torch.ones(8, 4))
    assert torch.isfinite(model.weight).all()


def test_between_two_settings_the_weight_is_trained():
    model = DirectPredictor(3, every=3)
    assert model.weight.requires_grad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for k in range(5):
        f = draw(12, 3, seed=k, dtype=torch.float32)
        (model(f) - f.flip(1)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        before = model.weight.detach().clone()
        model.update()
        seen.append(not torch.equal(before, model.weight))
    assert seen == [True, False, False, True, False]


def test_a_checkpoint_goes_on():
    whole = DirectPredictor(3, every=2)
    for k in range(5):
        follow(whole, draw(9, 3, seed=k, dtype=torch.float32))
    part = DirectPredictor(3, every=2)
    for k in range(3):
        follow(part, draw(9, 3, seed=k, dtype=torch.float32))
    rest = DirectPredictor(3, every=2)
    for _ in range(2):  # of another parity than what is loaded, so that the count of calls must come from there
        follow(rest, torch.ones(2, 3))
    rest.load_state_dict(copy.deepcopy(part.state_dict()))
    for k in range(3, 5):
        follow(rest, draw(9, 3, seed=k, dtype=torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), rest.state_dict().values(), strict=True))


def test_half_precision_embeddings_are_taken_in_full():
    model, full = DirectPredictor(3), DirectPredictor(3)
    f = draw(40, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        follow(model, f)
    follow(full, f.float())
    assert torch.equal(model.weight, full.weight) and model.weight.dtype == torch.float32
    assert model(f).dtype == torch.bfloat16


def test_those_that_are_trained():
    assert predictor("linear", 5).bias is None
    mlp = predictor("mlp", 16)
    assert [m.out_features for m in mlp if isinstance(m, nn.Linear)] == [4, 16]
    assert predictor("mlp", 3)(draw(4, 3, dtype=torch.float32)).shape == (4, 3)
    assert predictor("directset", 4, alpha=1.0).alpha == 1.0
    with pytest.raises(TypeError, match="mlp has no settings, got rho"):
        predictor("mlp", 4, rho=0.1)
    with pytest.raises(TypeError, match="rho"):
        predictor("linear", 4, rho=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: predictor("direct", 3),
            "unknown predictor 'direct': known are linear, linear-symmetric, mlp, directpred",
        ),
        (lambda: DirectPredictor(3, kind="mlp"), "kind must be one of directpred"),
        (lambda: DirectPredictor(3, rho=1.0), "rho must be at least 0 and below 1, got 1"),
        (lambda: DirectPredictor(3, every=0), "every and dimension at least 1"),
        (lambda: DirectPredictor(3, alpha=0.0), "alpha must be positive"),
        (lambda: DirectPredictor(3).observe(torch.ones(5, 4)), r"f must have shape \(n, 3\) .* got \(5, 4\)"),
        (lambda: DirectPredictor(3).observe(torch.ones(0, 3)), r"n >= 1, got \(0, 3\)"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", DIRECT)
def test_w_is_a_matrix_function_that_commutes_with_the_correlation(kind):
    batches = [draw(40, 5, seed=k) @ draw(5, 5, seed=8) for k in range(4)]
    model = DirectPredictor(5, kind=kind, alpha=0.7, eps=0.05).double()
    for f, average in zip(batches, predictors_nn.average([b.numpy() for b in batches], 0.3), strict=True):
        follow(model, f)
        w = model.weight.detach().numpy()
        expected = predictors_nn.weight(kind, average, alpha=0.7, eps=0.05)
        assert (
            np.abs(w - expected).max() < 1e-11 * np.abs(expected).max()
        )  # square roots by Schur are good to eps cond(F)
        assert np.abs(w @ average - average @ w).max() < 1e-13 * np.abs(w).max() * np.abs(average).max()
        assert np.abs(w - w.T).max() < 1e-14 * np.abs(w).max()


def linear_network(kind, one, two, w, *, rho, eps, lr, eta, steps):
    """The loop as users write it: loss of both orders, optimizer, then the predictor, which has seen both views."""
    online = nn.Linear(*w.shape[::-1], bias=False, dtype=torch.float64)
    model = DirectPredictor(len(w), kind=kind, rho=rho, eps=eps).double()
    online.weight.data = torch.from_numpy(w.copy())
    optimizer = torch.optim.SGD(online.parameters(), lr=lr, weight_decay=eta)
    for _ in range(steps):
        f1, f2 = online(one), online(two)
        loss = sum((model(a) - b.detach()).square().sum(1).mean() / 4 for a, b in ((f1, f2), (f2, f1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update()
    return online, model


@pytest.mark.parametrize("kind", DIRECT)
def test_a_linear_network_is_the_one_trained_by_hand(kind):
    rng = np.random.default_rng(2)
    one, two = views(rng, 6, 0.5)
    w = 0.5 * rng.standard_normal((3, 6))
    settings = {"rho": 0.3, "eps": 0.1, "lr": 0.1, "eta": 0.02, "steps": 15}
    online, model = linear_network(kind, torch.from_numpy(one), torch.from_numpy(two), w, **settings)
    w_slow, p_slow, f_slow = predictors_nn.train(w, np.eye(3), one, two, kind=kind, **settings)
    assert np.abs(online.weight.detach().numpy() - w_slow).max() < 1e-11
    assert np.abs(model.weight.detach().numpy() - p_slow).max() < 1e-11
    assert np.abs(model.correlation.numpy() - f_slow).max() < 1e-12
    assert np.abs(w_slow - w).max() > 0.05


@pytest.mark.long
def test_directpred_ends_in_its_fixed_points():
    rng = np.random.default_rng(0)
    sigma2, eta = 0.5, 0.08
    one, two = (torch.from_numpy(v) for v in views(rng, 5, sigma2))
    frame = dynamics.orthogonal(rng, 5)
    start = np.array([1.5, 0.8, 0.002])  # eigenvalues of W W^T: two above the unstable fixed point, one below it
    w = np.sqrt(start)[:, None] * frame[:3]
    w = dynamics.orthogonal(rng, 3) @ w
    online, model = linear_network("directpred", one, two, w, rho=0.3, eps=0.0, lr=0.2, eta=eta, steps=600)
    values = torch.linalg.eigvalsh(online.weight @ online.weight.T).detach().numpy()
    kept = predictors_nn.fixed_point(eta, sigma2) ** 2 / (1 + sigma2)
    assert np.abs(values[1:] - kept).max() < 1e-6 * kept
    assert values[0] < 1e-6
    f = model.correlation
    assert torch.linalg.matrix_norm(model.weight @ f - f @ model.weight) < 1e-14 * torch.linalg.matrix_norm(f)


def test_between_two_settings_it_is_trained_by_plain_sgd():
    model = DirectPredictor(4, every=3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    slow, batches = np.eye(4), []
    for k in range(7):
        f = draw(20, 4, seed=k)
        (model(f) - f.flip(1)).square().sum(1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        x = f.numpy()
        slow = slow - 0.05 * 2 * (x @ slow.T - x[:, ::-1]).T @ x / 20
        model.update()
        batches.append(x)
        if k % 3 == 0:
            slow = predictors_nn.weight("directpred", list(predictors_nn.average(batches, 0.3))[-1])
        assert np.abs(model.weight.detach().numpy() - slow).max() < 1e-12 * (1 + np.abs(slow).max())


@pytest.mark.parametrize("kind", PREDICTORS)
def test_the_matrix_of_a_predictor_is_what_it_multiplies_by(kind):
    torch.manual_seed(0)
    model = predictor(kind, 5).double().eval()
    w, f = matrix_of(model), draw(7, 5)
    assert (w is None) == (kind == "mlp") and matrix_of(None) is None and matrix_of(nn.Linear(5, 5)) is None
    if w is not None:
        assert (model(f) - f @ w.T).abs().max() < 1e-14 and not w.requires_grad


def test_a_symmetric_predictor_stays_symmetric():
    torch.manual_seed(0)
    model, plain = predictor("linear-symmetric", 5).double(), nn.Linear(5, 5, bias=False).double()
    assert isinstance(model, SymmetricLinear)
    plain.weight.data = model.weight.detach().clone()
    optimizer, other = (torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, plain))
    for k in range(20):
        f, target = draw(30, 5, seed=k), draw(30, 5, seed=100 + k)
        for m, step in ((model, optimizer), (plain, other)):
            (m(f) - target).square().sum(1).mean().backward()
            step.step()
            step.zero_grad()
        plain.weight.data = (plain.weight.data + plain.weight.data.T) / 2
    assert torch.equal(model.weight, model.weight.T)
    assert (model.weight - plain.weight).abs().max() < 1e-14
    momentum = torch.optim.Adam(model.parameters())
    for k in range(5):
        (model(draw(30, 5, seed=k)) - draw(30, 5, seed=k + 9)).square().sum().backward()
        momentum.step()
    assert torch.equal(model.weight, model.weight.T)
    model.weight.data[0, 1] += 1e-3  # as rounding does, where it is called for two views
    assert torch.equal(matrix_of(model), matrix_of(model).T)


def _rows_of_all(rank, world):
    assert process_count() == world
    for kind in DIRECT:
        model, average = DirectPredictor(3, kind=kind, every=2).double(), None
        for k in range(3):
            f = draw(10 * world, 3, seed=k) + k
            follow(model, *f[10 * rank : 10 * (rank + 1)].split([4, 6]))
            batch = (f.T @ f / len(f)).numpy()
            average = batch if average is None else 0.3 * average + 0.7 * batch
        assert np.abs(model.correlation.numpy() - average).max() < 1e-14 * average.max()
        assert np.abs(model.weight.detach().numpy() - slow(kind, average)).max() < 1e-11


@pytest.mark.slow
def test_two_processes_make_one_correlation(tmp_path):
    run_in(2, tmp_path, _rows_of_all)


@pytest.mark.parametrize("kind", PREDICTORS)
def test_rotations_are_as_declared(kind):
    """Training by SGD, or setting, from embeddings f Q gives q' with q'(f Q) = q(f) Q, where that is declared, and not elsewhere."""
    q = torch.linalg.qr(draw(4, 4, seed=3))[0]
    torch.manual_seed(0)
    one = predictor(kind, 4).double()
    other = copy.deepcopy(one)
    for p, turned in zip(one.parameters(), other.parameters(), strict=True):
        if p.shape == (4, 4):
            turned.data = q.T @ p.detach() @ q
    for k in range(3):
        f, target = draw(30, 4, seed=k), draw(30, 4, seed=50 + k)
        for model, rows, goal in ((one, f, target), (other, f @ q, target @ q)):
            if PREDICTORS[kind].closed_form:
                follow(model, rows)
                continue
            gradients = torch.autograd.grad((model(rows) - goal).square().sum(1).mean(), list(model.parameters()))
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.data -= 0.1 * gradient
    f = draw(30, 4, seed=9)
    assert ((one(f) @ q - other(f @ q)).abs().max() < 1e-12) == PREDICTORS[kind].equivariant


@pytest.mark.parametrize("option", ["alpha", "rho", "eps", "every"])
@pytest.mark.parametrize("kind", DIRECT)
def test_options_act_where_they_are_declared(kind, option):
    changed = {"alpha": 0.9, "rho": 0.8, "eps": 0.4, "every": 2}[option]
    models = [predictor(kind, 4).double(), predictor(kind, 4, **{option: changed}).double()]
    for k in range(4):
        for model in models:
            follow(model, draw(20, 4, seed=k))
    assert torch.equal(models[0].weight, models[1].weight) == (option not in PREDICTORS[kind].options)
