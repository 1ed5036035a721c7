"""The Stiefel manifold with the Euclidean metric."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import Grassmann, Stiefel
from tests.manifolds.cases import Case, cases, orthonormality_error
from tests.oracles import grassmann as oracle

S = Stiefel()


def bound(case, factor=20):
    return factor * case.eps * case.n * case.p


def tangent(case, length=1.0, k=3):
    u = S.proju(case.point(), case.ambient(k))
    return u * length / torch.linalg.matrix_norm(u, 2, keepdim=True).clamp_min(1e-30)


@given(cases())
def test_projection_is_orthogonal_onto_the_tangent_space(case):
    x, a, b = case.point(), case.ambient(3), case.ambient(4)
    u = S.proju(x, a)
    scale = 1 + float(a.abs().max() * b.abs().max())
    skew = x.mT @ u
    assert (skew + skew.mT).abs().max() <= bound(case) * scale
    assert (S.proju(x, u) - u).abs().max() <= bound(case) * scale
    assert (S.inner(x, a - u, S.proju(x, b))).abs().max() <= bound(case) * scale


@given(cases(dtypes=(torch.float64,)), st.floats(0, 2))
def test_exp_follows_the_geodesic_equation(case, length):
    case = Case((), case.n, case.p, case.dtype, case.seed)
    x, u = case.point(), tangent(case, length)
    expected = oracle.stiefel_geodesic(x.numpy(), u.numpy(), steps=300)
    assert np.abs(S.expmap(x, u).numpy() - expected).max() <= 1e-8  # RK4 with 300 steps: (2/300)^4 times a constant


@given(cases(), st.floats(0, 2))
def test_exp_and_retraction_stay_on_the_manifold(case, length):
    x, u = case.point(), tangent(case, length)
    for end in (S.expmap(x, u), S.retr(x, u)):
        assert end.dtype == case.dtype and orthonormality_error(end) <= bound(case) * (1 + length**2)
        assert S.check_point_on_manifold(end)


@pytest.mark.parametrize("shape", [(8, 3), (9, 1), (4, 4)])
def test_retraction_is_of_first_order(shape):
    # On Stiefel the QR retraction agrees with exp to first order: the error falls with the square of the step.
    case = Case((4,), *shape, torch.float64, 0)
    x, u = case.point(), tangent(case)
    steps = [0.02, 0.01, 0.005]
    errors = [(S.retr(x, h * u) - S.expmap(x, h * u)).abs().max() for h in steps]
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert np.abs(slopes - (3 if shape[1] == 1 else 2)).max() < 0.1  # the sphere's is of second order


@given(cases(), st.floats(0, 1.4))
def test_horizontal_geodesics_are_those_of_the_grassmannian(case, length):
    x, u = case.point(), case.horizontal(length)
    assert (S.expmap(x, u) - Grassmann().expmap(x, u)).abs().max() <= bound(case)


def test_a_point_broadcasts_against_vectors_and_back():
    one, many = Case((), 7, 3, torch.float64, 0), Case((4,), 7, 3, torch.float64, 1)
    x, v = one.point(), S.proju(many.point(), one.ambient())
    for end in (S.expmap, S.retr):
        u = S.proju(x, many.ambient())
        torch.testing.assert_close(end(x, u), torch.stack([end(x, row) for row in u]))
        for i in range(4):
            torch.testing.assert_close(end(many.point(), v[0])[i], end(many.point()[i], v[0]))


def test_random_points_are_uniform():
    x = S.random(20_000, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # Entries have mean 0 and variance 1/n; a sign left to the factorization would show in the mean of the first row.
    assert x.mean(0).abs().max() < 6 / np.sqrt(3 * 20_000)
    assert (x.square().mean(0) - 1 / 3).abs().max() < 6 * 0.3 / np.sqrt(20_000)


def test_what_has_no_closed_form_is_not_offered():
    x = S.random(5, 2)
    for operation in (S.logmap, S.dist):
        with pytest.raises(NotImplementedError):
            operation(x, x)
    assert S != Grassmann()
