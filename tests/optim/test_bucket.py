"""What an optimizer keeps between steps: it changes no number, whatever is done to parameters and states in between."""

import copy
import io

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.optim import RiemannianAdam, RiemannianMuon, RiemannianSGD, base
from grassmann_ssl.optim.bucket import Bucket
from tests.profiles import examples

MAKERS = {
    "momentum": lambda points: RiemannianSGD(points, 0.1, momentum=0.9),
    "no momentum": lambda points: RiemannianSGD(points, 0.1),
    "adam": lambda points: RiemannianAdam(points, 0.1),
    "muon": lambda points: RiemannianMuon(points, 0.1, momentum=0.9),
}


def points():
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 2), (5, 2), (4, 2))
    return [
        geoopt.ManifoldParameter(
            Grassmann().random(*shape, dtype=torch.float64, generator=generator).as_subclass(torch.Tensor),
            manifold=Grassmann(),
        )
        for shape in shapes
    ]


def step(own, optimizer):
    optimizer.step()


def without_gradient(own, optimizer):
    own[1].grad = None
    optimizer.step()


def moved_in_memory(own, optimizer):
    own[0].data = own[0].data.clone()
    own[2].data = own[2].data.clone()


def stored_by_columns(own, optimizer):
    own[0].data = own[0].data.mT.contiguous().mT


def edited(own, optimizer):
    own[0].data.copy_(-own[0].data)


def states_replaced(own, optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file))


def states_dropped(own, optimizer):
    optimizer.state.clear()


def other_retraction(own, optimizer):
    own[0].manifold = Grassmann("polar")


def other_precision(own, optimizer):
    for p in own:
        p.data = p.data.float() if p.dtype == torch.float64 else p.data.double()
        p.grad = None


EVENTS = (
    step, without_gradient, moved_in_memory, stored_by_columns, edited, states_replaced, states_dropped, other_retraction, other_precision,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
@examples(40)
@given(events=st.lists(st.sampled_from(EVENTS), min_size=2, max_size=8))
def test_what_is_kept_between_steps_changes_no_number(name, events):
    ends = []
    for keep in (True, False):
        own = points()
        optimizer = MAKERS[name](own)
        for k, event in enumerate([step, *events, step]):
            for i, p in enumerate(own):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * k + i)).to(p.dtype)
            event(own, optimizer)
            if not keep:
                optimizer = copy.deepcopy((own, optimizer))
                own, optimizer = optimizer
        ends.append(own)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_matrices_of_a_parameter_that_stays_are_found_once(monkeypatch):
    found = []
    monkeypatch.setattr(base, "Bucket", lambda *args: found.append(Bucket(*args)) or found[-1])
    own = points()[:1]
    optimizer = RiemannianSGD(own, 0.1, momentum=0.9)
    for count, manifold in ((1, Grassmann()), (2, Stiefel())):
        own[0].manifold = manifold
        for _ in range(3):
            own[0].grad = torch.ones_like(own[0])
            optimizer.step()
        assert len(found) == count and found[-1].manifold == manifold
