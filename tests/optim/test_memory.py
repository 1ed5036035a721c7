"""Parameters move alike however they lie in memory, and what cannot move is refused by name."""

import copy
import functools
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grassmann_ssl.manifolds import Grassmann
from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import (
    Landing,
    RiemannianAdam,
    RiemannianCG,
    RiemannianLBFGS,
    RiemannianMuon,
    RiemannianSGD,
)
from grassmann_ssl.optim.memory import overlaps, sharing
from tests.optim.problems import parameter
from tests.profiles import examples

OPTIMIZERS = {
    "sgd": functools.partial(RiemannianSGD, lr=0.05),
    "momentum": functools.partial(RiemannianSGD, lr=0.05, momentum=0.8),
    "nesterov": functools.partial(RiemannianSGD, lr=0.05, momentum=0.8, nesterov=True),
    "adam": functools.partial(RiemannianAdam, lr=0.05),
    "adam row": functools.partial(RiemannianAdam, lr=0.05, second_moment="row", amsgrad=True),
    "muon": functools.partial(RiemannianMuon, lr=0.05, momentum=0.8),
    "landing": functools.partial(Landing, lr=0.05),
    "cg": functools.partial(RiemannianCG, max_iter=2),
    "lbfgs": functools.partial(RiemannianLBFGS, max_iter=2),
}
everyone = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 2), (5, 3, 4)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 2), (5, 3, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), (5, 2, 3, 3, 3)),
    "tall": (lambda: nn.Conv2d(2, 9, 2), (5, 2, 4, 4)),
    "embedding": (lambda: nn.Embedding(7, 3), None),
}


def reversed_axes(w):
    axes = tuple(range(w.ndim))[::-1]
    return w.permute(axes).contiguous().permute(axes)


def every_second(w, axis):
    room = w.new_zeros([2 * size if k == axis else size for k, size in enumerate(w.shape)])
    place = room[(slice(None),) * axis + (slice(None, None, 2),)]
    return place.copy_(w)


def part_of_a_larger_one(w):
    return torch.cat([torch.zeros_like(w[:1]), w])[1:]


FORMATS = {
    "channels_last": lambda w: w.contiguous(
        memory_format=torch.channels_last if w.ndim == 4 else torch.channels_last_3d
    ),
    "transposed": reversed_axes,
    "strided": lambda w: every_second(w, w.ndim - 1),
    "strided rows": lambda w: every_second(w, 0),
    "slice": part_of_a_larger_one,
}
kinds = pytest.mark.parametrize(
    ("layer", "shape", "stored"),
    [
        pytest.param(*LAYERS[layer], FORMATS[stored], id=f"{layer}-{stored}")
        for layer, stored in itertools.product(LAYERS, FORMATS)
        if stored != "channels_last" or layer in ("conv2d", "conv3d", "tall")
    ],
)


class Model(nn.Module):
    """A constrained layer, used twice if `tied`, and a free one."""

    def __init__(self, layer, shape, tied=False):
        super().__init__()
        torch.manual_seed(0)
        self.held, self.free = constrain(layer().double()), layer().double()
        self.other = layer().double()
        self.other.weight = self.held.weight if tied else self.other.weight.requires_grad_(False)
        self.x = torch.arange(7) if shape is None else torch.randn(shape, dtype=torch.float64)

    def forward(self):
        return sum((m(self.x) - 1).square().mean() * k for k, m in enumerate((self.held, self.free, self.other), 1))


def train(model, optimizer, steps):
    def closure():
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def store(model, stored):
    """Another place for the weights, and gradients that lie as autograd likes best."""
    for layer in (model.held, model.free):
        layer.weight.data = stored(layer.weight.data)
        layer.weight.grad = None


def assert_moved_alike(model, twin, start):
    assert (twin.held.weight - start.held.weight).abs().max() > 1e-3
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        # A few ulp a step from sums in another order, which Muon can lift 2300-fold.
        assert (p - q).abs().max() <= 1e-9, name


@kinds
@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=[pytest.mark.slow] * (name != "momentum")) for name, make in OPTIMIZERS.items()],
)
def test_a_weight_moves_as_its_contiguous_twin(make, layer, shape, stored):
    start = Model(layer, shape)
    twin, before, after = (copy.deepcopy(start) for _ in range(3))
    train(twin, make(twin), 4)
    store(before, stored)
    train(before, make(before), 4)
    assert_moved_alike(before, twin, start)
    optimizer = make(after)
    train(after, optimizer, 2)
    store(after, stored)  # when states are there already, stored in another way
    train(after, optimizer, 2)
    assert_moved_alike(after, twin, start)
    assert stored is FORMATS["slice"] or not after.held.weight.is_contiguous()


@everyone
def test_whole_models_in_channels_last(make):
    def model(last):
        torch.manual_seed(0)
        body = nn.Sequential(constrain(nn.Conv2d(3, 4, 2)), nn.Conv2d(4, 6, 2), constrain(nn.Conv2d(6, 3, 2))).double()
        return body.to(memory_format=torch.channels_last) if last else body

    ends = []
    for last in (False, True):
        net = model(last)
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        optimizer = make(net)

        def closure(net=net, x=x, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (net(x) - 1).square().mean()
            loss.backward()
            return loss

        for _ in range(4):
            optimizer.step(closure)
        ends.append([p.detach().contiguous() for p in net.parameters()])
        assert last == net[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-9)


@everyone
def test_a_tied_weight_moves_by_the_gradients_of_both(make):
    tied = Model(*LAYERS["linear"], tied=True)
    # The same loss of a weight that is given twice by hand.
    single = Model(*LAYERS["linear"])
    single.load_state_dict({name: value for name, value in tied.state_dict().items()})

    class ByHand(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self):
            m = self.model
            twice = nn.functional.linear(m.x, m.held.weight, m.other.bias)
            first = sum((layer(m.x) - 1).square().mean() * k for k, layer in enumerate((m.held, m.free), 1))
            return first + (twice - 1).square().mean() * 3

    train(tied, make(tied), 4)
    train(ByHand(single), make(single), 4)
    assert (tied.held.weight - single.held.weight).abs().max() <= 1e-12
    assert tied.other.weight is tied.held.weight


@everyone
def test_the_dtype_may_change_after_the_optimizer_was_made(make):
    wide = Model(*LAYERS["conv2d"])
    narrow = copy.deepcopy(wide)
    narrow.float().x = narrow.x.float()
    optimizer = make(narrow)
    train(narrow, optimizer, 2)
    narrow.double().x = narrow.x.double()
    train(narrow, optimizer, 2)
    train(wide, make(wide), 4)
    assert {p.dtype for p in narrow.parameters()} == {torch.float64}
    own = {"step", "count", "guess"}
    kept = {v.dtype for state in optimizer.state.values() for key, v in state.items() if key not in own}
    assert kept <= {torch.float64}
    # Two steps in float32: the rounding of that, which Muon and a line search enlarge.
    assert (narrow.held.weight - wide.held.weight).abs().max() <= 1e-3
    optimizer.stabilize()


@everyone
def test_what_cannot_move_is_refused_by_name(make):
    expanded = parameter((torch.ones(1, 1) / 3).expand(9, 1))
    expanded.data = (torch.ones(1, 1) / 3).expand(9, 1)
    free = nn.Parameter(torch.zeros(1).expand(3))
    w = parameter(Grassmann().random(9, 2))
    for named, message in (
        ([("head", expanded)], "entries of head share memory"),
        ([("head", w), ("bias", free)], "entries of bias share memory"),
    ):
        with pytest.raises(ValueError, match=message):
            make(named)
    # Expanded after the optimizer was made.
    v, bias = parameter(torch.ones(9, 1) / 3), nn.Parameter(torch.zeros(9, 1))
    for p, name in ((bias, "bias"), (v, "head")):
        optimizer = make([("head", v), ("bias", bias)])
        p.data = (torch.ones(1, 1) / 3).expand(9, 1)
        v.grad, bias.grad = torch.zeros(9, 1), torch.zeros(9, 1)
        with pytest.raises(ValueError, match=f"entries of {name} share memory"):
            optimizer.step(lambda: torch.zeros(()))
        p.data = p.data.clone()


def test_parameters_that_share_memory_are_refused_by_name():
    a, b = constrain(nn.Linear(6, 3)), constrain(nn.Linear(6, 3))
    b.weight.data = a.weight.data
    both = [("a", a.weight), ("b", b.weight)]
    with pytest.raises(ValueError, match=r"^a and b share memory"):
        RiemannianSGD(both, lr=1.0)
    bias = nn.Parameter(torch.zeros(3))
    bias.data = a.weight.data[0, :3]
    with pytest.raises(ValueError, match=r"share memory"):
        RiemannianSGD([a.weight, bias], lr=1.0)
    optimizer = RiemannianSGD([a.weight], lr=1.0)
    with pytest.raises(ValueError, match=r"share memory"):
        optimizer.add_param_group({"params": [b.weight]})
    assert len(optimizer.param_groups) == 1
    # Neighbours in one storage share nothing, and what torch's own optimizers take of ordinary parameters is taken here.
    room = torch.zeros(6, 6)
    even, odd = (parameter(torch.eye(3, 6).mT) for _ in range(2))
    even.data, odd.data = room[:, ::2].copy_(even.data), room[:, 1::2].copy_(odd.data)
    one = nn.Parameter(torch.zeros(2))
    other = nn.Parameter(torch.zeros(2))
    other.data = one.data
    RiemannianSGD([even, odd, one, other], lr=1.0)


@examples(200)
@given(st.data())
def test_overlaps_are_found(data):
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    strides = [data.draw(st.integers(0, 6)) for _ in shape]
    room = torch.arange(67)  # 30 + 3 (3 - 1) 6 + 1
    t = room.as_strided(shape, strides)
    # Never one missed; where strides are nested as those of slices are, none too many.
    if len(set(t.flatten().tolist())) < t.numel():
        assert overlaps(t)
    other = room.as_strided(shape[::-1], strides[::-1], data.draw(st.integers(0, 30)))
    meet = bool(set(t.flatten().tolist()) & set(other.flatten().tolist()))
    assert list(sharing([t, other])) == [(0, 1)] * meet or list(sharing([t, other])) == [(1, 0)] * meet


def test_slices_and_transposes_do_not_overlap():
    t = torch.zeros(4, 5, 6, 7)
    for view in (t, t.permute(3, 1, 0, 2), t[::2, :, 1:4], t[:, ::3].mT, t[0, 0, 0], t[:1].expand(1, 5, 6, 7)):
        assert not overlaps(view)
    assert overlaps(t[:1].expand(2, 5, 6, 7))
