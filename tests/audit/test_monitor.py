"""The monitor: it judges the last rows as the audit of an array does, tells growth from collapse, and acts when it should."""

import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import theory
from grassmann_ssl.audit import CollapseError, CollapseMonitor, CollapseWarning, audit_embeddings
from grassmann_ssl.audit.buffer import RowBuffer
from grassmann_ssl.audit.trend import trend_of
from grassmann_ssl.data.sources import gaussian_pairs
from tests.nn.test_distributed import run_in
from tests.profiles import examples


def rows_of(n, d=6, seed=0, live=None, dtype=torch.float64, offset=1.0):
    """Gaussian rows with variances 1/k, of which `live` are not 0."""
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1.0 + np.arange(d)) * (np.arange(d) < (d if live is None else live))
    return torch.tensor(rng.standard_normal((n, d)) * scale + offset).to(dtype)


def assert_is_the_audit(found, rows, directions=False):
    """Equal to the last digit: the same function of the same rows in the same order."""
    audit = audit_embeddings(rows, directions=directions)
    used, live = audit["dimensions_used"], audit["live_dimensions"]
    assert (found.rows, found.dimension, found.kind, found.kinds) == (len(rows), rows.shape[1], audit.kind, audit.kinds)
    value = np.nan if used.value is None else used.value
    assert np.array_equal((found.dimensions_used, found.low, found.high), (value, used.low, used.high), equal_nan=True)
    assert (found.live_least, found.live_most) == (live.low, live.high)
    assert found.total_variance == audit["total_variance"].value
    # Rows in float64; unit vectors of float32 rows are rounded, and so is their mean.
    assert found.concentration == pytest.approx(
        audit["concentration"].value, abs=1e-12 if rows.dtype == torch.float64 else 1e-6
    )


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("live", [None, 3])
def test_it_is_the_audit_of_the_last_rows(dtype, directions, live):
    rows = rows_of(300, live=live, dtype=dtype)
    monitor = CollapseMonitor(rows=100, every=3, directions=directions)
    for batch in rows.split(20):
        monitor.update(batch)
    assert [one.step for one in monitor.judgements] == [1, 4, 7, 10, 13]
    for one in monitor.judgements:
        assert_is_the_audit(one, rows[: 20 * one.step][-100:], directions)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_scale_of_the_rows_does_not_matter(size):
    rows = rows_of(60) * size
    monitor = CollapseMonitor()
    monitor.update(rows)
    assert_is_the_audit(monitor.judgements[0], rows)


@pytest.mark.slow
@examples(8)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=8), st.lists(st.integers(1, 40), max_size=8), st.integers(0, 9)
)
def test_any_split_into_batches_is_the_same(sizes, cuts, seed):
    """The rows of a step in one batch or in several, longer than the ring or shorter: the history is the same to the last digit."""
    rows = rows_of(sum(sizes), 4, seed)
    whole, parts = CollapseMonitor(rows=50, every=1), CollapseMonitor(rows=50, every=1)
    for batch in rows.split(sizes):
        whole.update(batch)
        for piece in batch.tensor_split(sorted(cut for cut in set(cuts) if cut < len(batch))):
            parts.add(piece)
        parts.end_step()
    assert whole.history.equals(parts.history) and len(whole.history) == len(sizes)
    seen = np.cumsum(sizes)
    for one, count in zip(whole.judgements, seen, strict=True):
        if count > 1:
            assert_is_the_audit(one, rows[:count][-50:])


def test_steps_may_be_numbered_by_hand():
    rows = rows_of(400)
    one, two = CollapseMonitor(rows=64, every=100), CollapseMonitor(rows=64, every=100)
    for monitor, batch in ((one, 10), (two, 50)):
        for end in range(batch, 401, batch):
            monitor.update(rows[end - batch : end], step=end)
    for monitor in (one, two):
        for each in monitor.judgements:
            assert_is_the_audit(each, rows[: each.step][-64:])
    assert [each.step for each in two.judgements] == [50, 150, 250, 350]


@pytest.mark.long
def test_judgements_are_evenly_spaced_in_log_steps():
    monitor = CollapseMonitor(rows=8)
    batch = rows_of(8)
    for step in range(1, 2001):
        monitor.update(batch, step=10_000 + step)
    steps = np.array([one.step for one in monitor.judgements]) - 10_000
    assert steps[:10].tolist() == list(range(1, 11)) and len(steps) < 70
    ratios = steps[1:] / steps[:-1]
    assert (ratios[20:] >= 1.1).all() and (ratios[20:] < 1.14).all()


def test_memory_is_constant():
    buffer = RowBuffer(100)
    sizes = set()
    for _ in range(50):
        buffer.add(rows_of(70, 32, dtype=torch.float32))
        sizes.add(sum(x.untyped_storage().nbytes() for x in vars(buffer).values() if isinstance(x, torch.Tensor)))
    assert sizes == {100 * 32 * 4 + 100 * 8}


class Largest(TorchDispatchMode):
    """Entries of the largest tensor made inside."""

    entries = 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        made = function(*given, **(named or {}))
        sizes = [x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return made


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(40, 2000), (400, 30)])
def test_a_judgement_forms_no_matrix_of_the_larger_side(n, d):
    monitor = CollapseMonitor(rows=n)
    monitor.add(rows_of(n, d, dtype=torch.float32))
    with Largest() as largest:
        monitor.judge()
    assert largest.entries <= max(n * d, 20 * min(n, d) ** 2)


def test_keeping_rows_never_waits_for_the_device():
    monitor = CollapseMonitor(rows=5)
    for _ in range(3):  # on the meta device there are no values to wait for
        monitor.add(torch.ones(3, 4, device="meta"))


def test_gradients_and_later_changes_do_not_enter():
    monitor = CollapseMonitor(rows=50)
    z = rows_of(50).requires_grad_()
    with torch.inference_mode():
        monitor.add(z[:10])
    monitor.add(z[10:])
    rows = z.detach().clone()
    z.data.zero_()
    assert_is_the_audit(monitor.judge(), rows)


def test_rows_that_are_not_finite_are_left_out():
    rows = rows_of(40)
    rows[3, 1], rows[7, 0] = torch.nan, torch.inf
    monitor = CollapseMonitor(every=1)
    with pytest.warns(CollapseWarning, match="2 of 40 rows left out, which are not finite"):
        found = monitor.update(rows)
    assert found.left_out == 2
    assert_is_the_audit(found, torch.cat([rows[:3], rows[4:7], rows[8:]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.update(rows)  # said once
    lost = CollapseMonitor(every=1, on_collapse="raise", patience=3)
    for _ in range(2):
        found = lost.update(torch.full((5, 4), torch.nan))
    assert (found.kind, found.rows, found.left_out) == ("undecided", 0, 10) and np.isnan(found.dimensions_used)
    with pytest.raises(CollapseError, match=r"^step 3: undecided: none of 15 rows is finite$"):
        lost.update(torch.full((5, 4), torch.nan))
    assert repr(lost) == "CollapseMonitor(step 3: undecided: none of 15 rows is finite)"


def test_tokens_are_averaged():
    z = torch.randn(40, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    monitor = CollapseMonitor()
    assert_is_the_audit(monitor.update(z), z.mean(1))


# acting

LATE = 200  # first step of a monitor that has seen enough


def warmed(live=None, **options):
    """A monitor past the steps in which it is too early to tell, on rows of so many live dimensions of 40."""
    monitor = CollapseMonitor(rows=64, every=10, **options)
    for step in range(0, LATE, 10):
        monitor.update(rows_of(64, 40, seed=step, live=live), step=step)
    return monitor


@pytest.mark.long
@pytest.mark.parametrize("patience", [1, 3])
def test_it_acts_after_patience_once_and_again_after_recovery(patience):
    acted = []
    monitor = warmed(on_collapse=lambda one: acted.append(one.step), patience=patience)
    # judgements at 200, 210, ...: collapsed, one good one, collapsed, good, collapsed
    plan = [*"c" * (patience - 1), "n", *"c" * 6, *"nn", *"c" * 6]
    for k, kind in enumerate(plan):
        found = monitor.update(rows_of(64, 40, seed=k, live=2 if kind == "c" else None), step=LATE + 10 * k)
        assert found.kind == ("dimensional" if kind == "c" else "none")
    first = LATE + 10 * (patience + patience - 1)
    assert acted == [first, first + 80]


def test_a_warning_says_how_and_whether_it_still_changes():
    monitor = warmed()
    with pytest.warns(
        CollapseWarning,
        match=r"^step 220: dimensional: 1\.8.* of 40 dimensions used, .*; (settled|still changing, falling)",
    ) as seen:
        for step in range(LATE, LATE + 60, 10):
            monitor.update(rows_of(64, 40, seed=step, live=2), step=step)
    assert len(seen) == 1


def test_raising_names_the_numbers():
    monitor = warmed(on_collapse="raise")
    with pytest.raises(CollapseError, match=r"step 220: dimensional: 1.8"):
        for step in range(LATE, LATE + 60, 10):
            monitor.update(rows_of(64, 40, seed=step, live=2), step=step)
    assert len(monitor.judgements) == 23  # the last one is in the history


def test_complete_collapse_does_not_wait():
    monitor = CollapseMonitor(every=1, on_collapse="raise")
    monitor.update(torch.ones(8, 4))
    monitor.update(torch.ones(8, 4))
    with pytest.raises(CollapseError, match=r"step 3: complete"):
        monitor.update(torch.ones(8, 4))


def test_complete_collapse_settles():
    monitor = warmed(on_collapse=lambda one: None)
    for step in range(LATE, 1500, 50):
        monitor.update(torch.ones(64, 40), step=step)
        if 350 < step < 600:
            assert monitor.state == "changing" and not monitor.judgements[-1].growing
    assert monitor.state == "settled"
    assert str(monitor.judgements[-1]).startswith("step 1450: complete: total variance 0 in 40 dimensions; settled")


def test_a_rank_that_is_low_at_the_start_is_too_early_to_judge():
    """ResNet-18 uses 3 of its 512 dimensions before it has learned anything."""
    monitor = CollapseMonitor(rows=64, on_collapse="raise")
    for step in range(1, 95):
        monitor.update(rows_of(64, 40, seed=step, live=2))
    assert monitor.state == "too early" and "dimensional" in monitor.judgements[-1].kinds
    with pytest.raises(CollapseError, match="settled"):
        for step in range(95, 130):
            monitor.update(rows_of(64, 40, seed=step, live=2))


# staircases

TIMES = (50, 120, 260, 600, 1400)


def stairs(step, d=64, rising=TIMES, heights=(0.9, 0.8, 0.7, 0.65, 0.6), power=12):
    """Variances of d dimensions: noise, and modes that rise one after the other as s^p / (s^p + t^p)."""
    variances = np.full(d, 1e-5)
    for k, (time, height) in enumerate(zip(rising, heights, strict=True)):
        variances[k] += height / (1 + (time / step) ** power)
    return variances


def climb(monitor, steps, d=64, seed=0, n=512):
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((d, d)))
    for step in steps:
        monitor.update(torch.tensor(rng.standard_normal((n, d)) * np.sqrt(stairs(step, d)) @ turn).float(), step=step)


def spaced(start, stop):
    """Steps 10 % apart: those of a monitor's judgements."""
    at = [start]
    while at[-1] < stop:
        at.append(max(at[-1] + 1, int(np.ceil(1.1 * at[-1]))))
    return at


@pytest.mark.parametrize("d", [64, pytest.param(600, marks=pytest.mark.slow)])
def test_growth_in_steps_is_changing_and_its_modes_are_counted(d):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the rank is low enough for a verdict all the time, but it grows
        monitor = CollapseMonitor(rows=512)
        climb(monitor, spaced(1, 2000), d)
    for one in monitor.judgements:
        # Not in the middle of a rise; and before the first is over, the largest eigenvalue is not known yet.
        if one.step < 20 or (one.step > 50 and all(abs(np.log(one.step / time)) > 0.2 for time in TIMES)):
            assert one.modes == sum(one.step > time for time in TIMES), one
        if 150 < one.step:
            assert one.state == "changing" and one.growing, one
        if 150 < one.step < 1000:
            assert "dimensional" in one.kinds
    assert monitor.modes == 5


@pytest.mark.slow
def test_modes_of_a_training_come_when_theory_says():
    """Linear Barlow Twins from small weights, full batch by SGD, watched through a hook; theory knows the moments and the start only."""
    generator = torch.Generator().manual_seed(0)
    drawn = gaussian_pairs([1.0, 0.6, 0.36, 0.22, 0.13, 0.08, 0.0, 0.0], 0.2, 1024, generator)
    x, positive = drawn.x, drawn.x_positive
    model = torch.nn.Sequential(torch.nn.Linear(8, 6, bias=False, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.copy_(1e-4 * torch.randn(6, 8, generator=generator, dtype=torch.float64))
    gamma = (x.T @ positive + positive.T @ x) / (2 * len(x))
    start = theory.stepwise.aligned_initialisation(model[0].weight.T.detach().numpy(), gamma.numpy())
    rate = 0.01
    times = np.sort(theory.stepwise.step_times(start.singular_values, start.gamma)) / rate
    optimizer = torch.optim.SGD(model.parameters(), rate)
    with CollapseMonitor(on_collapse="raise").attach(model, "0") as monitor:
        for _ in range(int(1.5 * times[-1])):
            z, other = model(torch.cat([x, positive])).chunk(2)
            c = (z.T @ other + other.T @ z) / (2 * len(z))
            optimizer.zero_grad()
            (c - torch.eye(6, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
    assert any("dimensional" in one.kinds and one.step > 150 for one in monitor.judgements)
    # A step time is that of half the height, a dimension has risen at a tenth of the largest seen: before the first is over, of itself.
    judged = [one for one in monitor.judgements if one.step > times[0] and np.abs(np.log(one.step / times)).min() > 0.2]
    assert [one.modes for one in judged] == [int((one.step > times).sum()) for one in judged]
    assert len({one.modes for one in judged}) >= 5 and monitor.modes == 6


@pytest.mark.long
def test_what_does_not_grow_any_more_is_settled():
    monitor = CollapseMonitor(rows=512)
    with pytest.warns(CollapseWarning, match=r"settled, 2 dimensions have risen so far$") as seen:
        rng = np.random.default_rng(0)
        for step in spaced(1, 1500):
            variances = stairs(step, rising=TIMES[:2], heights=(0.9, 0.8))
            monitor.update(torch.tensor(rng.standard_normal((512, 64)) * np.sqrt(variances)).float(), step=step)
    assert monitor.state == "settled" and monitor.modes == 2 and len(seen) == 1


@pytest.mark.parametrize(
    ("slope", "state", "growing"),
    [(0.0, "settled", False), (0.3, "changing", True), (-0.3, "changing", False), (0.03, "settled", False)],
)
def test_the_trend_is_that_of_a_power_law(slope, state, growing):
    """Dimensions used ~ s^slope with 2 % noise; over three quarters of the steps a slope of 0.03 makes 4 %."""
    steps = np.array(spaced(1, 1000))
    used = 10 * steps**slope * np.exp(0.02 * np.random.default_rng(0).standard_normal(len(steps)))
    found = trend_of(steps, used, [0] * len(steps), [1.0] * len(steps))
    assert (found.state, found.growing) == (state, growing)
    assert (
        trend_of(steps, 10 * steps**slope, [0] * len(steps), [1.0] * len(steps)).state == state
    )  # however clear a trend is, 4 % is no change
    recent = steps[steps > 0.25 * steps[-1]]
    assert found.change == pytest.approx((recent[-1] / recent[0]) ** slope, rel=0.05)


def test_too_few_judgements_are_too_early():
    steps = np.arange(1, 9) * 1000
    assert trend_of(steps[:4], np.ones(4), [0] * 4, [1.0] * 4).state == "too early"
    assert trend_of(np.arange(1, 90), np.ones(89), [0] * 89, [1.0] * 89).state == "too early"
    assert trend_of(np.arange(1, 120), np.ones(119), [0] * 119, [1.0] * 119).state == "settled"


@pytest.mark.long
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_settled_noise_is_rarely_called_changing(noise):
    """White noise, as wide as a jackknife's interval or wider: one run in twenty, the level of the test, and three deviations."""
    rng = np.random.default_rng(0)
    steps = np.array(spaced(1, 1000))
    runs = [
        trend_of(steps, np.exp(noise * rng.standard_normal(len(steps))), [0] * len(steps), [1.0] * len(steps))
        for _ in range(300)
    ]
    assert [run.state for run in runs].count("changing") <= 15 + 3 * np.sqrt(300 * 0.05 * 0.95)


# attached to a module


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 8)
        self.projector = nn.Sequential(nn.Linear(8, 5), nn.Identity())
        self.pair = Pair()

    def forward(self, x):
        return self.projector(self.encoder(x))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_it_takes_the_outputs_of_a_submodule_in_training():
    model, x = Model(), rows_of(40, dtype=torch.float32)
    monitor = CollapseMonitor()
    with monitor.attach(model, "projector.1") as same:
        assert same is monitor
        z = model(x)
        model.eval()
        model(x)
        model.train()
        with pytest.raises(ValueError, match=r"^the monitor is attached already: detach\(\) it first$"):
            monitor.attach(model, "encoder")
    model(x)
    assert len(monitor.judgements) == 1
    assert_is_the_audit(monitor.judgements[0], z.detach())
    monitor.detach()  # nothing happens
    assert not model.projector[1]._forward_hooks
    with monitor.attach(model, "projector"), pytest.raises(KeyError):
        raise KeyError
    assert not model.projector._forward_hooks


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own, where a graph ends at a hook
def test_a_compiled_model_is_watched_too():
    """Whatever is compiled, the monitor is not: one graph before it, none of its own, and none anew at later steps."""
    torch._dynamo.reset()
    model, x = Model(), rows_of(40, dtype=torch.float32)
    monitor = CollapseMonitor(every=1)
    graphs = []
    with monitor.attach(model, "projector"):
        compiled = torch.compile(model, backend=lambda graph, given: graphs.append(graph) or graph.forward)
        for _ in range(10):
            z = compiled(x)
    assert len(monitor.judgements) == 10 and len(graphs) <= 2
    assert_is_the_audit(monitor.judgements[0], z.detach())


@pytest.mark.slow
def test_rows_are_only_kept_where_steps_end_by_hand():
    model, x = Model(), rows_of(40, dtype=torch.float32)
    monitor = CollapseMonitor()
    with monitor.attach(model, "projector", judge=False):
        z = torch.cat([model(x), model(-x)])
        assert not monitor.judgements
        assert_is_the_audit(monitor.end_step(7), z.detach())


def test_what_cannot_be_attached_is_named():
    model, monitor = Model(), CollapseMonitor()
    with pytest.raises(ValueError, match=r"^the model has no submodule 'projecter'; did you mean projector\?$"):
        monitor.attach(model, "projecter")
    with (
        monitor.attach(model, "pair"),
        pytest.raises(
            ValueError,
            match=r"^the output of 'pair' must be a tensor, got tuple: attach to a submodule that returns one$",
        ),
    ):
        model.pair(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 1}, "rows must be at least 2, got 1: one row has no variance"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        # Shape and type checks are for quick tests alone.
        pytest.param(
            {"on_collapse": "stop"},
            "on_collapse must be 'warn', 'raise' or a function, got 'stop'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        CollapseMonitor(**options)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.ones(4), r"z must have shape \(n, D\), or \(n, T, D\) with T tokens, got \(4,\)"),
        (torch.ones(2, 3, 4, 4), r"z must have shape \(n, D\), or \(n, T, D\) with T tokens, got \(2, 3, 4, 4\)"),
        (torch.ones(2, 3, dtype=torch.int64), r"z must be of float16, .*, got torch.int64: convert it with .float\(\)"),
        (torch.ones(0, 3), r"z must have at least one row and one dimension, got shape \(0, 3\)"),
        (torch.ones(2, 4), "z must have the 3 columns of the batches before, got 4"),
        ([[1.0]], "z must be an array of numpy or torch or a frame of pandas, got list: convert it with np.asarray"),
    ],
)
def test_bad_batches_are_named(z, message):
    monitor = CollapseMonitor(every=10**9)
    monitor.update(torch.eye(3))
    with pytest.raises(ValueError, match=f"^{message}$"):
        monitor.update(z)


def test_bad_steps_are_named():
    monitor = CollapseMonitor()
    with pytest.raises(ValueError, match=r"^nothing to judge: no rows have come yet$"):
        monitor.judge()
    monitor.update(torch.eye(3), step=5)
    with pytest.raises(ValueError, match=r"^step must not be before the last one, 5, got 4$"):
        monitor.update(torch.eye(3), step=4)


# whole training


def train(monitor, loss, rate, steps=400):
    """Two views of noise through a small network, plain torch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with monitor.attach(model, "2", judge=False):
        for _ in range(steps):
            x = torch.randn(64, 32)
            a, b = (model(x + 0.3 * torch.randn(64, 32)) for _ in range(2))
            optimizer.zero_grad()
            loss(a, b).backward()
            optimizer.step()
            monitor.end_step()


def whitened(a, b):
    """Alignment, and covariances near the identity: squared VICReg."""
    off = [
        (((v - v.mean(0)).T @ (v - v.mean(0))) / (len(v) - 1) - torch.eye(v.shape[1])).square().sum() for v in (a, b)
    ]
    return (a - b).square().sum(1).mean() + sum(off)


@pytest.mark.slow
def test_a_training_that_collapses_is_stopped_within_patience():
    """Negative cosine without predictor or stopped gradient, and without anything that keeps embeddings apart."""
    monitor = CollapseMonitor(rows=512, on_collapse="raise")
    with pytest.raises(CollapseError, match="dimensional"):
        train(monitor, lambda a, b: -torch.cosine_similarity(a, b).mean(), 0.5)
    last = [one.kinds for one in monitor.judgements]
    assert all(last[-3:]) and len(last) < 40


@pytest.mark.slow
@pytest.mark.parametrize("directions", [False, True])
def test_a_training_that_does_not_collapse_is_left_alone(directions):
    monitor = CollapseMonitor(rows=512, on_collapse="raise", directions=directions)
    train(monitor, whitened, 0.003)
    assert {one.kind for one in monitor.judgements[-10:]} == {"none"} and monitor.judgements[-1].dimensions_used > 12


# several processes


def _share(rows, uneven, rank, world):
    """The part of every batch that a process gets."""
    cut = len(rows) // 4 if uneven else len(rows) // world
    return rows[:cut] if rank == 0 else rows[cut:]


def _batches(dtype):
    rows = torch.cat([rows_of(400, 24, 1, dtype=dtype), rows_of(600, 24, 2, live=2, dtype=dtype)])
    return rows.split(40)


def _watch(monitor, batches, share):
    acted = []
    monitor.on_collapse = lambda one: acted.append(one.step)
    for step, batch in enumerate(batches):
        monitor.update(share(batch), step=10 * step)
    return acted


def _together(references, rank, world):
    for (dtype, uneven, size), (history, acted) in references.items():
        monitor = CollapseMonitor(rows=size, every=10)
        assert (
            _watch(monitor, _batches(dtype), functools.partial(_share, uneven=uneven, rank=rank, world=world)) == acted
        )
        assert monitor.history.equals(history), (dtype, uneven, size)
    # Where rounding would part them, the first process decides.
    monitor = CollapseMonitor(rows=32, every=1, on_collapse="raise", patience=1 if rank else 3)
    steps = 0
    with pytest.raises(CollapseError):
        while True:
            monitor.update(torch.ones(4, 3))
            steps += 1
    assert steps == 2


@pytest.mark.slow
def test_two_processes_are_one_with_all_rows(tmp_path):
    """The same rows in the same order, so the same numbers to the last digit; shared evenly or not, with a ring of whole batches or not."""
    references = {}
    for dtype, sizes in ((torch.float64, (80, 130, 1024)), (torch.float32, (80,)), (torch.bfloat16, (130,))):
        for uneven in (False, True):
            for size in sizes:
                monitor = CollapseMonitor(rows=size, every=10)
                acted = _watch(monitor, _batches(dtype), lambda batch: batch)
                assert len(acted) == (size < 1024)  # a ring of all rows keeps those before the collapse
                references[dtype, uneven, size] = monitor.history, acted
    run_in(2, tmp_path, functools.partial(_together, references))


def test_rows_whose_squares_leave_float64_are_judged():
    monitor = CollapseMonitor(every=1)
    for power in (0, 100, 200, 300):
        monitor.update(10.0**power * torch.randn(64, 4, dtype=torch.float64))
    assert [one.kind for one in monitor.judgements[:1]] == ["none"]
    assert monitor.judgements[-1].total_variance == float("inf")
