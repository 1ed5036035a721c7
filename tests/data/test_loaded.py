"""Batches of views from any iterable: the same from any step on, divided among processes, and refused where they are none."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from grassmann_ssl.data.loaded import Loaded, fingerprint_of, views_of
from grassmann_ssl.data.randomness import GlobalRandomness
from grassmann_ssl.distributed import Process

CPU = torch.device("cpu")
ALONE = Process(0, 1, CPU)
RANDOM = GlobalRandomness(CPU)


class Drawn:
    """Batches that draw from the random states of torch and numpy, of a known length or not."""

    def __init__(self, batches, sized):
        self.batches = batches
        if sized:
            self.__class__ = Sized

    def __iter__(self):
        for _ in range(self.batches):
            x = torch.rand(6, 2) + float(np.random.rand())  # noqa: NPY002
            yield x, x + 1


class Sized(Drawn):
    def __len__(self):
        return self.batches


def disturbed(k):
    """What a training draws between two batches."""
    return torch.rand(k), np.random.rand(k)  # noqa: NPY002


@given(st.integers(1, 4), st.booleans(), st.integers(1, 3), st.integers(0, 9), st.integers(0, 3))
def test_the_batches_from_any_step_on_are_those_of_a_run_that_began_at_the_first(batches, sized, parts, start, seed):
    straight, expected, state = Loaded(Drawn(batches, sized), seed, ALONE).steps(parts), [], None
    with RANDOM.kept():
        RANDOM.seed(seed, 0)
        for step in range(start + 3):
            if step == start:
                state = RANDOM.state()
            expected.append([straight(step, part)[0] for part in range(parts)])
            disturbed(step)
        RANDOM.restore(state)
        rest = Loaded(Drawn(batches, sized), seed, ALONE).steps(parts)
        for step in range(start, start + 3):
            found = [rest(step, part)[0] for part in range(parts)]
            assert all(torch.equal(a, b) for a, b in zip(found, expected[step], strict=True))
            disturbed(step)


def test_epochs_have_an_order_of_their_own_whatever_ran_before():
    rows = TensorDataset(torch.arange(12.0)[:, None], torch.zeros(12, 1))
    orders = []
    for generator in (None, torch.Generator(), torch.Generator()):
        loaded = Loaded(DataLoader(rows, 4, shuffle=True, generator=generator), 3, ALONE)
        with RANDOM.kept():
            orders.append([[int(v) for x, _ in loaded.epoch(k) for v in x] for k in (0, 1, 0)])
        disturbed(2)
    for first, second, again in orders:
        assert first == again != second and sorted(first) == list(range(12))
    assert orders[1] == orders[2]


def test_what_is_looked_at_leaves_no_trace():
    loaded, before = Loaded(Drawn(3, False), 1, ALONE), RANDOM.state()
    seen = [[x for x, _ in loaded.looked_at(8)] for _ in range(2)]
    assert [len(x) for x in seen[0]] == [6, 2] and torch.equal(seen[0][1], seen[1][1])
    assert next(iter(loaded.looked_at(1)))[0].shape == (1, 2)
    after = RANDOM.state()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("python"))


def test_processes_share_the_rows_of_every_batch_and_look_at_all():
    whole = [x for x, _ in Loaded(Drawn(2, True), 1, ALONE).epoch(0)]
    shares = [[x for x, _ in Loaded(Drawn(2, True), 1, Process(rank, 3, CPU)).epoch(0)] for rank in range(3)]
    assert all(torch.equal(torch.cat(parts), x) for *parts, x in zip(*shares, whole, strict=True))
    assert len(next(iter(Loaded(Drawn(2, True), 1, Process(1, 3, CPU)).looked_at(6)))[0]) == 6
    with pytest.raises(ValueError, match="batch = 6 cannot be shared equally by 4 processes"):
        next(iter(Loaded(Drawn(2, True), 1, Process(0, 4, CPU)).epoch(0)))
    sampler = torch.utils.data.DistributedSampler(range(4), num_replicas=1, rank=0)
    with pytest.raises(ValueError, match="it has a DistributedSampler"):
        Loaded(DataLoader(range(4), sampler=sampler), 1, ALONE)


X = torch.rand(4, 3)


@pytest.mark.parametrize(
    ("batch", "pick", "count"),
    [
        ((X, X, torch.arange(4)), None, 2), ([X, X], None, 2), (([X, X, X], torch.arange(4)), None, 3),
        ({"a": X, "b": X, "label": torch.arange(4), "name": "x"}, None, 2), ({"a": X, "b": X, "mask": X}, ("a", "mask"), 2),
        ((X, 3, X), (0, 2), 2), ({"both": torch.stack([X, X])}, lambda batch: batch["both"].unbind(), 2),
    ],
)  # fmt: skip
def test_the_views_of_a_batch(batch, pick, count):
    assert len(views_of(batch, pick)) == count and all(torch.equal(x, X) for x in views_of(batch, pick))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, r"two views or more, tensors \(n, ...\) of two axes or more, got float32 \(4, 3\); `views` says"),
        ((X, torch.arange(4)), r"got \(float32 \(4, 3\), int64 \(4,\)\)"), ("text", "got str"), ({"a": X}, r"got \{a: float32 \(4, 3\)\}"),
        ((X, X.double()), "of one n and one type"), ((X, X[:2]), "of one n and one type"),
        ((X, X[:, :2]), "first two views must have one shape"), ((X, X, X[:, :2]), "and all where rows are vectors"),
        ((X[:1], X[:1]), "a batch has one row"),
    ],
)  # fmt: skip
def test_a_batch_without_two_views_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        views_of(batch)


@pytest.mark.parametrize("one", [X[:, 0], X.to_sparse(), 3])
def test_what_is_picked_and_is_no_view_is_refused(one):
    with pytest.raises(ValueError, match=r"must be tensors \(n, ...\) of one n and one type"):
        views_of((one, one), (0, 1))


def test_a_fingerprint_is_of_numbers_types_and_shapes():
    views = [(X, X + 1)]
    assert fingerprint_of(views) == fingerprint_of([(X.clone(), X + 1)])
    others = [[(X + 1e-7, X + 1)], [(X.double(), X + 1)], [(X.reshape(3, 4), X + 1)], [(X, X)]]
    assert len({fingerprint_of(one) for one in (views, *others)}) == 5


def test_random_states_are_kept_and_restored():
    def draw():
        return random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))  # noqa: NPY002

    with RANDOM.kept():
        RANDOM.seed(1, 2)
        draw()  # one of each pair of Gaussian numbers is held back
        state = RANDOM.state()
        expected = [draw() for _ in range(3)]
        RANDOM.restore(state)
        with RANDOM.kept():
            draw()
        assert [draw() for _ in range(3)] == expected
        RANDOM.seed(1, 2), draw()
        assert draw() == expected[0]
        RANDOM.seed(1, 3), draw()
        assert draw() != expected[0]
    with pytest.raises(ValueError, match="the random states are not whole"):
        RANDOM.restore({name: value for name, value in state.items() if name != "numpy"})
