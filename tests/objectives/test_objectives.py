"""Objectives against sums over samples, and against themselves: views = moments, rotations, batches, registry."""

import math
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.data import Moments, Triplets, moments_of
from grassmann_ssl.objectives import OBJECTIVES, infonce, infonce_moments, objective, trace_matrix
from tests.oracles import losses

EPS = torch.finfo(torch.float64).eps
# Functions of moments, whatever the law of the inputs.
QUADRATIC = [name for name in OBJECTIVES if objective(name).from_moments and not objective(name).gaussian]
SETTINGS = [(name, {}) for name in OBJECTIVES if hasattr(losses, name)] + [
    ("barlow_twins", {"lambda_": 0.3}),
    ("barlow_twins", {"lambda_": 2.0, "normalise": True}),
    ("barlow_twins", {"normalise": True}),
    ("infonce", {"temperature": 0.7}),
    ("squared_vicreg", {"beta": 2.5}),
]
shapes = st.tuples(st.integers(2, 12), st.integers(1, 6), st.integers(0, 2**31))


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def views(bound, triplets):
    arguments = {"z": triplets[0], "z_positive": triplets[1]}
    if bound.triplets:
        arguments["z_negative"] = triplets[2]
    return bound.loss(**arguments)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
@given(shape=shapes)
def test_equals_the_sum_over_samples(name, settings, shape):
    n, d, seed = shape
    z = draw(seed, 3, n, d)
    bound = objective(name, **settings)
    arguments = [v.numpy() for v in (z if bound.triplets else z[:2])]
    oracle = {"lam": settings.get("lambda_", 1.0), "normalise": settings.get("normalise", False)}
    expected = getattr(losses, name)(*arguments, **(oracle if name == "barlow_twins" else settings))
    scale = 1 + float(z.square().sum(-1).amax()) ** 2  # a bound on every term of every loss
    if settings.get("normalise"):  # standardising two nearly equal values loses digits in proportion to their spread
        scale = n * d / min(1.0, float(z[:2].std(1, correction=0).min())) ** 4
    assert abs(views(bound, z).item() - expected) <= 100 * n * d * EPS * scale


@pytest.mark.parametrize("name", QUADRATIC)
@given(shape=shapes, m=st.integers(1, 7))
def test_moments_give_the_loss_of_the_views(name, shape, m):
    n, d, seed = shape
    x, w = draw(seed, 3, n, m), draw(seed + 1, 4, m, d)
    bound = objective(name)
    from_moments = bound.from_moments(moments_of(Triplets(*x)))(w)
    assert from_moments.shape == (4,)
    expected = torch.stack([views(bound, x @ one) for one in w])
    scale = 1 + torch.linalg.matrix_norm(w).amax() ** 4 * x.square().sum(-1).amax() ** 2
    assert (from_moments - expected).abs().amax() <= 100 * n * m * d * EPS * scale


@pytest.mark.parametrize("name", QUADRATIC)
def test_training_on_views_is_training_on_moments(name):
    x, w = draw(0, 3, 30, 6), draw(1, 6, 2) / 3
    bound = objective(name)
    by_moments = bound.from_moments(moments_of(Triplets(*x)))
    losses_of = {"views": lambda w: views(bound, x @ w), "moments": by_moments}
    ends = []
    for loss in losses_of.values():
        weights = w.clone().requires_grad_()
        for _ in range(20):
            (gradient,) = torch.autograd.grad(loss(weights), weights)
            weights = (weights - 0.01 * gradient).detach().requires_grad_()
        ends.append(weights.detach())
    torch.testing.assert_close(*ends, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_rotation_invariance_is_as_declared(name, settings):
    z = draw(0, 3, 40, 5)
    q = torch.linalg.qr(draw(1, 5, 5))[0]
    bound = objective(name, **settings)
    change = abs(views(bound, z @ q) - views(bound, z))
    if bound.rotation_invariant:
        assert change <= 1000 * EPS * (1 + abs(views(bound, z)))
    else:
        assert change > 1e-3


def test_the_gradient_of_barlow_twins_has_the_factor_four():
    x, w = draw(0, 3, 50, 6), draw(1, 6, 3).requires_grad_()
    moments = moments_of(Triplets(*x))
    (gradient,) = torch.autograd.grad(objective("barlow_twins").from_moments(moments)(w), w)
    c = w.T @ moments.cross @ w
    expected = 4 * moments.cross @ w @ (c - torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in (*QUADRATIC, "infonce")),
        ("barlow_twins", {"lambda_": 0.3}),
        ("squared_vicreg", {"beta": 2.5}),
    ],
)
@given(
    shape=shapes,
    m=st.integers(1, 7),
    batches=st.sampled_from([((), ()), ((4,), ()), ((3, 4), ()), ((4,), (4,)), ((3, 4), (4,))]),
)
def test_the_closed_form_of_a_gradient_is_that_of_autograd(name, settings, shape, m, batches):
    n, d, seed = shape
    of_weights, of_data = batches
    w = draw(seed + 1, *of_weights, m, d)
    x = draw(seed, 3, math.prod(of_data), n, m)
    data = [moments_of(Triplets(*x[:, k])) for k in range(x.shape[1])]
    moments = Moments(
        *(torch.stack(parts).reshape(*of_data, *parts[0].shape) for parts in zip(*map(parts_of, data), strict=True))
    )
    loss = objective(name, **settings).from_moments(moments)
    assert loss.slope is not None
    found, expected = loss.gradient(w), replace(loss, slope=None).gradient(w)
    assert found.shape == w.shape and not found.requires_grad
    scale = (1 + torch.linalg.matrix_norm(w).amax()) ** 3 * (1 + x.square().sum(-1).amax()) ** 2
    assert (found - expected).abs().amax() <= 100 * n * m * d * EPS * scale


def parts_of(moments):
    return [getattr(moments, field.name) for field in fields(moments)]


def test_batch_norm_hides_the_scale_of_the_weights():
    z = draw(0, 2, 30, 4)
    loss = objective("barlow_twins", normalise=True)
    small = loss.loss(z=1e-5 * z[0], z_positive=1e-5 * z[1])
    torch.testing.assert_close(small, loss.loss(z=z[0], z_positive=z[1]))
    assert loss.from_moments is None


@given(shape=shapes, temperature=st.floats(0.2, 3))
def test_infonce_is_the_sum_over_samples_and_turns_with_the_embedding(shape, temperature):
    n, d, seed = shape
    z = draw(seed, 2, n, d)
    loss = partial(infonce, temperature=temperature)
    scale = 1 + float(z.square().sum(-1).amax()) / temperature
    value = loss(z=z[0], z_positive=z[1])
    assert abs(value.item() - losses.infonce(*z.numpy(), temperature)) <= 100 * n * d * EPS * scale
    q = torch.linalg.qr(draw(seed + 1, d, d))[0]
    assert abs(loss(z=z[0] @ q, z_positive=z[1] @ q) - value) <= 100 * n * d * EPS * scale


def test_infonce_of_gaussian_samples_approaches_its_population():
    n, w = 4000, draw(1, 4, 2) / 2
    scales = torch.tensor([1.0, 0.8, 0.5, 0.2], dtype=torch.float64)
    b, e, f = draw(0, 3, n, 4)
    x, y = (b * scales + 0.6 * v for v in (e, f))
    noise = 0.36 * torch.eye(4, dtype=torch.float64)
    population = infonce_moments(weights=w, cross=scales.square().diag(), second=scales.square().diag() + noise)
    # The samples' loss scatters by about 1/sqrt(n), its logarithm of a mean is biased by about 1/n
    assert abs(infonce(z=x @ w, z_positive=y @ w) - population) < 0.03
    assert abs(population) > 0.1


def test_moments_of_several_data_sets_give_a_loss_for_each():
    x, w = draw(0, 2, 3, 30, 5), draw(1, 2, 7, 5, 3)
    moments = [moments_of(Triplets(*one)) for one in x]
    both = Moments(*(torch.stack([getattr(m, f.name) for m in moments])[:, None] for f in fields(Moments)))
    for name in (*QUADRATIC, "infonce"):
        together = objective(name).from_moments(both)(w)
        apart = torch.stack([objective(name).from_moments(m)(one) for m, one in zip(moments, w, strict=True)])
        assert together.shape == (2, 7) and (together - apart).abs().amax() <= 1000 * EPS * (1 + apart.abs().amax())
    assert both.covariance.shape == (2, 1, 5, 5)
    assert (both.covariance[1, 0] - moments[1].covariance).abs().amax() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUADRATIC)
def test_dtype_is_kept(name, dtype):
    bound = objective(name)
    assert views(bound, draw(0, 3, 5, 2).to(dtype)).dtype == dtype
    moments = moments_of(Triplets(*draw(0, 3, 5, 4))).to(dtype)
    assert bound.from_moments(moments)(draw(1, 4, 2).to(dtype)).dtype == dtype


def test_bad_names_and_settings_are_refused():
    with pytest.raises(ValueError) as error:
        objective("barlow_twin")
    assert (
        str(error.value)
        == f"unknown objective 'barlow_twin': known are {', '.join(OBJECTIVES)}; did you mean barlow_twins?"
    )
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="lambda_ must be positive"):
            objective("barlow_twins", lambda_=bad)
    with pytest.raises(ValueError, match="beta must not be negative, got -1"):
        objective("squared_vicreg", beta=-1)
    with pytest.raises(ValueError, match="beta is a setting of squared_vicreg, tico; barlow_twins has none"):
        objective("barlow_twins", beta=2.0)
    with pytest.raises(
        ValueError, match=r"nt_xent has no setting 'temprature': it has temperature; did you mean temperature\?"
    ):
        objective("nt_xent", temprature=0.1)


def test_an_option_that_the_moments_do_not_have_leaves_no_function_of_moments():
    assert objective("infonce").from_moments is not None and objective("infonce", temperature=2.0).from_moments is None
    assert objective("barlow_twins", lambda_=2.0).from_moments is not None and objective("vicreg").from_moments is None
    for name in ("vicreg", "barlow"):
        with pytest.raises(ValueError, match=f"'{name}' is not a trace loss"):
            trace_matrix(name, moments_of(Triplets(*draw(0, 3, 5, 2))))
