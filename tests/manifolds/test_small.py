"""Products of small matrices by numpy: the same numbers as torch's, and torch's own wherever somebody watches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad

from grassmann_ssl.manifolds import Grassmann, small
from grassmann_ssl.manifolds.small import FEWEST, MANY, MOST, small_product
from grassmann_ssl.manifolds.tall import inner_products, product

# Torch's own forward mode is compiled with torch.jit.script, which torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
MANY_SMALL = (MANY, 16, 4)
dtypes = st.sampled_from([torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Whatever the machine: the way to numpy is open."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def stack(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(MANY - 2, MANY + 2), st.booleans(), dtypes
)
def test_products_are_those_of_torch(n, q, p, k, turned, dtype):
    a, b = stack(k, n, q, dtype=dtype), stack(k, q, p, seed=1, dtype=dtype)
    if turned:
        a = a.mT.contiguous().mT
    found = small_product(a, b)
    assert (found is None) == (k < MANY or not FEWEST <= n * q * p < MOST)
    expected = torch.bmm(a.double(), b.double())
    # q products of Gaussians, each rounded once, and q sums of them.
    bound = 2 * q * torch.finfo(dtype).eps * torch.bmm(a.double().abs(), b.double().abs())
    assert ((product(a, b) - expected).abs() <= bound).all() and product(a, b).dtype == dtype
    out = torch.full((k, n, p), torch.nan, dtype=dtype)
    version = out._version
    assert product(a, b, out=out) is out and ((out - expected).abs() <= bound).all()
    assert out._version > version  # autograd and the caches of solvers tell a changed tensor by it


def by_numpy(monkeypatch, call):
    """How many products numpy did in a call."""
    done, matmul = [], small.np.matmul
    monkeypatch.setattr(small.np, "matmul", lambda *given, **out: done.append(1) or matmul(*given, **out))
    call()
    return len(done)


def test_steps_go_through_numpy(monkeypatch):
    x, u = Grassmann().random(*MANY_SMALL, dtype=torch.float64), stack(*MANY_SMALL)
    assert by_numpy(monkeypatch, lambda: Grassmann().step_(x, Grassmann().proju_(x, u), u)) >= 4


def test_parameters_and_inference(monkeypatch):
    with torch.inference_mode():
        a, out = stack(*MANY_SMALL), torch.empty(MANY, 4, 4, dtype=torch.float64)
        assert by_numpy(monkeypatch, lambda: product(a.mT, a, out=out)) == 1
        assert torch.allclose(out, a.mT @ a)
    with torch.no_grad():
        weight = nn.Parameter(stack(*MANY_SMALL))
        assert by_numpy(monkeypatch, lambda: inner_products(weight, weight)) == 1


@pytest.mark.parametrize(
    "watch",
    [
        lambda a: inner_products(a.requires_grad_(), a),
        lambda a: torch.func.vmap(lambda one: product(one.mT, one))(torch.stack([a, a])),
        lambda a: torch.func.jvp(lambda one: product(one.mT, one), (a,), (a,)),
        lambda a: product(a.mT.to("meta"), a.to("meta")),
        lambda a: product(a.mT.half(), a.half()),
        lambda a: product(a.mT.to(torch.complex128), a.to(torch.complex128)),
        lambda a: product(a.mT.as_subclass(nn.Buffer), a),
    ],
    ids=["grad", "vmap", "jvp", "meta", "half", "complex", "subclass"],
)
def test_torch_does_what_it_has_to_see(monkeypatch, watch):
    assert by_numpy(monkeypatch, lambda: watch(stack(*MANY_SMALL))) == 0


def test_forward_mode_keeps_its_tangent(monkeypatch):
    a, tangent = stack(*MANY_SMALL), stack(*MANY_SMALL, seed=1)
    with torch.no_grad(), forward_ad.dual_level():
        found = forward_ad.unpack_dual(inner_products(forward_ad.make_dual(a, tangent), a))
    assert torch.allclose(found.tangent, tangent.mT @ a)


def test_many_threads_leave_it_to_torch(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: small.THREADS + 1)
    assert small_product(stack(*MANY_SMALL).mT, stack(*MANY_SMALL)) is None
