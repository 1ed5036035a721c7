"""The loop for encoders: schedules, precision, accumulation, divergence, checkpoints, and several processes."""

import itertools
import math

import pytest
import torch
from torch import nn

from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import assemble
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn import constrain
from grassmann_ssl.nn.feature_orthonormal import FeatureOrthonormalLinear
from grassmann_ssl.nn.joint_embedding import JointEmbedding
from grassmann_ssl.nn.predictors import PREDICTORS
from grassmann_ssl.optim import RiemannianSGD, base
from grassmann_ssl.optim.base import finite_norm
from grassmann_ssl.optim.table import OPTIMIZERS, OptimizerOptions, optimizers
from grassmann_ssl.training import watch as watch_module
from grassmann_ssl.training.checkpoint import load_checkpoint, save_checkpoint
from grassmann_ssl.training.encoders import train_encoder
from grassmann_ssl.training.schedules import log_spaced, warmup_cosine
from grassmann_ssl.training.watch import Diverged, FiniteWatch

CPU = torch.device("cpu")


def distance(*, z, z_positive):
    return (z - z_positive).square().sum(1).mean() + (z.T @ z / len(z) - torch.eye(z.shape[1])).square().sum()


def method(seed=0, loss=distance, **settings):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return JointEmbedding(encoder, constrain(nn.Linear(64, 3)), loss, **settings)


def views(step, part=0, n=16):
    x = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1000 * part + step))
    return x, x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1000 * part + step + 500))


def optimizer_of(model):
    return RiemannianSGD(model, lr=0.05, momentum=0.9)


def run(model, optimizer, steps=6, start=0, **settings):
    rest = {"rate": lambda step: 1.0, "watch": FiniteWatch(CPU)} | settings
    train_encoder(model, views, [optimizer], steps=steps, start=start, **rest)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_a_step_is_the_step_of_a_loop_by_hand():
    one, other = method(), method()
    run(one, optimizer_of(one), rate=lambda step: 0.5**step)
    optimizer = optimizer_of(other)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5**step
        x, y = views(step)
        distance(z=other.online(x), z_positive=other.online(y)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(weights(one), weights(other))


def test_observers_see_every_state_and_followers_follow_every_step():
    seen, followed = [], []
    one = method()
    run(one, optimizer_of(one), steps=3, observers=[seen.append], after_step=[followed.append])
    assert seen == [0, 1, 2, 3] and followed == [0, 1, 2]


def test_parts_of_a_batch_add_up_to_their_mean():
    def mean_distance(*, z, z_positive):
        return (z - z_positive).square().sum(1).mean()

    one = method(loss=mean_distance)
    one.online[0][1].eval()  # statistics of the parts are not those of the whole
    gradient = sum(
        torch.autograd.grad(mean_distance(z=one.online(x), z_positive=one.online(y)), one.projector.bias)[0]
        for x, y in (views(0, part) for part in range(3))
    )
    before = one.projector.bias.detach().clone()
    one.online[0][1].train = lambda mode=True: None
    run(one, optimizer_of(one), steps=1, accumulate=3)
    assert (before - one.projector.bias - 0.05 * gradient / 3).abs().max() < 1e-7


@pytest.mark.long
@pytest.mark.parametrize("teacher", [0.0, 0.9])
@pytest.mark.parametrize("predictor", [name for name, one in PREDICTORS.items() if one.closed_form])
def test_a_step_of_four_parts_is_the_step_of_their_rows(predictor, teacher):
    """Predictors, running covariances and teachers see all 256 rows of a step, once, however many parts they come in."""

    def trained(accumulate):
        config = TrainConfig(objective="negative_cosine",
                             predictor=predictor, teacher=teacher, constraint="feature-orthonormal", batch=256 // accumulate,
                             encoder="linear", accumulate=accumulate, steps=3, records=2)  # fmt: skip
        arm = assemble(config, torch.zeros(2, 1, 6, 6), Process(0, 1, CPU))
        arm.method.double()
        for name, child in arm.method.named_modules():  # statistics of the parts are not those of the whole
            if isinstance(child, nn.BatchNorm1d):
                arm.method.get_submodule(name.rpartition(".")[0])[int(name.rpartition(".")[2])] = nn.Identity()

        def parts(step, part):
            return tuple(x.double().chunk(accumulate)[part] for x in views(step, n=256))

        moves = []
        held = [one for one in arm.method.modules() if isinstance(one, FeatureOrthonormalLinear)]
        for one in held:
            one._move = lambda one=one: moves.append(one) or FeatureOrthonormalLinear._move(one)
        train_encoder(arm.method, parts, arm.optimizers, steps=3, rate=config.rate, watch=FiniteWatch(CPU), accumulate=accumulate,
                      after_step=arm.followers)  # fmt: skip
        assert moves == 3 * [arm.feature_layer] and len(held) == (2 if teacher else 1)
        return arm.method

    whole, apart = trained(1), trained(4)
    assert int(apart.predictor.calls) == 3
    for (name, a), b in zip(whole.state_dict().items(), apart.state_dict().values(), strict=True):
        assert (a.double() - b.double()).abs().max() < 1e-10 * (1 + a.double().abs().max()), name
    assert (whole.predictor.weight - torch.eye(8, dtype=torch.float64)).abs().max() > 0.1


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step():
    def breaks(*, z, z_positive):
        return distance(z=z, z_positive=z_positive) * (float("nan") if float(z.detach().sum()) > limit else 1.0)

    limit = math.inf
    one = method(loss=breaks)
    run(one, optimizer_of(one), steps=2)
    limit = -math.inf
    with pytest.raises(Diverged, match="not finite from step 2 on"):
        run(one, optimizer_of(one), start=2)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_gradient_that_is_not_finite_ends_the_run_whatever_the_optimizer(free, value):
    """Of a constrained weight, whose optimizer would skip every such step, as of a free one; 1e38 has a norm that overflows."""
    one = method()
    if free:
        one.online[1] = nn.Linear(64, 3)
    optimizer = torch.optim.SGD(one.parameters(), lr=0.05) if free else optimizer_of(one)
    passes = []
    one.projector.weight.register_hook(
        lambda g: passes.append(1) or (torch.full_like(g, value) if len(passes) == 3 else g)
    )
    before = []
    what = "the norm of the gradient" if value == 1e38 else "the gradient of online.projector.weight"
    with pytest.raises(Diverged, match=f"^{what} is not finite from step 2 on, while the loss is$"):
        run(one, optimizer, observers=[lambda step: before.append(weights(one))])
    assert all(bool(torch.isfinite(p).all()) for p in one.parameters()) and len(before) == 3


def test_gradients_are_looked_at_once_a_step_and_again_where_a_hook_may_change_them(monkeypatch):
    looked = []
    for module in (watch_module, base):
        monkeypatch.setattr(module, "finite_norm", lambda gradients: looked.append(1) or finite_norm(gradients))
    one = method()
    optimizer = optimizer_of(one)
    run(one, optimizer, steps=3)
    assert len(looked) == 3 and optimizer.report()["skipped"] == 0
    before = [p.detach().clone() for p in one.parameters()]

    def breaks(*_):
        one.projector.weight.grad.fill_(torch.inf)

    optimizer.register_step_pre_hook(breaks)
    run(one, optimizer, start=3, steps=5)
    assert len(looked) == 7 and optimizer.report()["skipped"] == 2
    assert all(map(torch.equal, before, one.parameters()))


def test_parameters_outside_of_the_model_are_stepped_cleared_and_watched():
    weight = nn.Parameter(torch.ones(()))
    seen = []
    model = method(loss=lambda *, z, z_positive: distance(z=z, z_positive=z_positive) + factor * weight)
    optimizer = RiemannianSGD([*model.parameters(), weight], lr=0.01)
    weight.register_hook(lambda gradient: seen.append(float(gradient)))
    factor = 1.0
    run(model, optimizer, steps=3)
    # The gradient of each of the symmetrised halves is that of the whole.
    assert float(weight.detach()) == pytest.approx(1 - 3 * 0.01, abs=1e-6) and weight.grad is None and len(seen) == 3
    weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(Diverged, match=r"the gradient of parameter \d+ of the optimizers"):
        run(model, optimizer, steps=1)


def test_sparse_gradients_are_refused():
    table = nn.Embedding(4, 3, sparse=True)
    table(torch.arange(2)).sum().backward()
    with pytest.raises(TypeError, match="sparse gradients are not supported"):
        FiniteWatch(CPU).note_gradients(0, dict(table.named_parameters()))


def test_optimizers_with_a_step_of_their_own_look_themselves():
    class Own(RiemannianSGD):
        def step(self, closure=None):
            return super().step(closure)

    one, other = method(), method()
    run(one, Own(one, lr=0.05, momentum=0.9))
    run(other, optimizer_of(other))
    assert torch.equal(weights(one), weights(other))


def test_steps_that_float16_skips_are_counted_and_no_scale_saves_a_gradient_that_is_not_finite():
    one, watch = method(), FiniteWatch(CPU)
    passes = []
    one.projector.weight.register_hook(lambda g: passes.append(1) or (g * torch.inf if len(passes) in (3, 4) else g))
    run(one, optimizer_of(one), steps=8, precision="float16", watch=watch)
    early = watch.skipped - 2  # until the scale fits
    assert early >= 0
    again = FiniteWatch(CPU)
    again.restore(watch.state())
    assert again.skipped == watch.skipped
    one, watch = method(), FiniteWatch(CPU)
    one.projector.weight.register_hook(lambda g: g * torch.nan)
    with pytest.raises(Diverged, match=r"the gradient of online.projector.weight is not finite from step 16 on"):
        run(one, optimizer_of(one), steps=40, precision="float16", watch=watch)
    assert watch.skipped == 16  # the scale is 2^16 at first


def test_a_watch_elsewhere_says_later_that_it_was_the_gradient():
    watch, one = FiniteWatch(CPU), method()
    watch.device = torch.device("cuda")
    for step, value in enumerate((1.0, math.nan, math.inf)):
        for p in one.parameters():
            p.grad = torch.full_like(p, value)
        watch.note(step, torch.tensor(1.0))
        watch.note_gradients(step, dict(one.named_parameters()))
    with pytest.raises(Diverged, match=r"^the norm of the gradient is not finite from step 1 on, while the loss is$"):
        watch.check()


def test_a_watch_elsewhere_looks_when_it_is_asked():
    watch = FiniteWatch(torch.device("meta"))
    assert watch.device.type == "meta"  # nothing was read from it
    watch = FiniteWatch(CPU)
    watch.device = torch.device("cuda")
    for step, loss in enumerate((1.0, 3.0, math.nan, 2.0, math.inf)):
        watch.note(step, torch.tensor(loss))
    with pytest.raises(Diverged, match="step 2"):
        watch.check()
    for device in (CPU, torch.device("cuda")):
        watch = FiniteWatch(CPU)
        watch.device = device
        assert watch.mean().isnan()
        for loss in (1.0, 2.0):
            watch.note(0, torch.tensor(loss, requires_grad=True))
        mean = watch.mean()
        assert mean == 1.5 and not mean.requires_grad and watch.mean().isnan()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_keeps_the_constraint(precision):
    one, full = method(), method()
    run(one, optimizer_of(one), precision=precision)
    run(full, optimizer_of(full))
    weight = one.projector.weight.detach()
    assert weight.dtype == torch.float32
    assert (weight @ weight.T - torch.eye(3)).abs().max() < 20 * torch.finfo(torch.float32).eps
    difference = (weights(one) - weights(full)).norm() / weights(full).norm()
    assert 0 < difference < (0.05 if precision == "bfloat16" else 0.5)  # float16 leaves out steps until its scale fits


@pytest.mark.parametrize("name", ["lars", "muon"])
@pytest.mark.parametrize("overflows", ["projector.weight", "encoder.0.weight"])
def test_two_optimizers_take_a_step_both_or_neither(name, overflows):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    last = nn.Linear(64, 3)
    one = JointEmbedding(encoder, constrain(last) if name == "lars" else last, distance)
    parameters = {key: p for key, p in one.named_parameters() if p.requires_grad}
    weight = "online.projector.weight"
    made = optimizers(
        OPTIMIZERS[name], parameters, held=[weight] if name == "lars" else [], lifted=[weight] if name == "muon" else [], lr=0.01,
        options=OptimizerOptions(),
    )  # fmt: skip
    assert len(made) == 2
    passes, ends = [], []
    target = one.get_parameter(overflows.replace("encoder", "online.encoder").replace("projector", "online.projector"))
    target.register_hook(lambda g: passes.append(1) or (g * torch.inf if len(passes) in (3, 4) else g))
    train_encoder(
        one, views, made, steps=6, rate=lambda step: 1.0, watch=FiniteWatch(CPU), precision="float16",
        observers=[lambda step: ends.append({key: p.detach().clone() for key, p in one.named_parameters()})],
    )  # fmt: skip
    moved = [[not torch.equal(a[key], b[key]) for key in a] for a, b in itertools.pairwise(ends)]
    assert all(len(set(step)) == 1 for step in moved)  # all of them or none
    assert [step[0] for step in moved][2:] == [False, False, True, True]


def test_a_run_goes_on_from_its_checkpoint_as_if_nothing_had_been(tmp_path):
    whole = method()
    run(whole, optimizer_of(whole), rate=lambda step: 0.9**step)
    half = method()
    optimizer = optimizer_of(half)
    run(half, optimizer, steps=3, rate=lambda step: 0.9**step)
    save_checkpoint(tmp_path / "half.safetensors", half, [optimizer], 3, {"seed": 1})
    rest = method(seed=7)
    optimizer = optimizer_of(rest)
    step = load_checkpoint(tmp_path / "half.safetensors", rest, [optimizer], {"seed": 1})
    assert step == 3
    run(rest, optimizer, start=step, rate=lambda step: 0.9**step)
    assert torch.equal(weights(rest), weights(whole))
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


def test_checkpoints_of_torch_optimizers(tmp_path):
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        one, other = nn.Linear(3, 2), nn.Linear(3, 2)
        first, second = (kind(model.parameters(), lr=0.1) for model in (one, other))
        one(torch.ones(1, 3)).sum().backward()
        first.step()
        save_checkpoint(tmp_path / "c", one, [first], 1, {})
        load_checkpoint(tmp_path / "c", other, [second], {})
        for model, optimizer in ((one, first), (other, second)):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        assert torch.equal(one.weight, other.weight)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    one = method()
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, one, [], 1, {"seed": 1, "dim": 3})
    with pytest.raises(ValueError, match="other settings: dim: 3 then, 4 now"):
        load_checkpoint(path, one, [], {"seed": 1, "dim": 4})
    with pytest.raises(ValueError, match="does not fit the model"):
        load_checkpoint(path, nn.Linear(2, 2), [], {"seed": 1, "dim": 3})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(path, one, [], {})
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "missing", one, [], {})


def test_schedules():
    factors = [warmup_cosine(step, 11, warmup=3, end=0.1) for step in range(12)]
    assert factors[:3] == [1 / 3, 2 / 3, 1.0] and factors[3] == 1.0
    assert abs(factors[11] - 0.1) < 1e-15 and all(a > b for a, b in itertools.pairwise(factors[3:]))
    assert abs(factors[7] - (0.1 + 0.45)) < 1e-15
    assert warmup_cosine(0, 1) == 1.0
    for steps, count in ((1, 5), (10, 4), (2000, 40)):
        chosen = sorted(log_spaced(steps, count))
        assert chosen[0] == 0 and chosen[-1] == steps and len(chosen) <= count + 1
    late = [b / a for a, b in itertools.pairwise(sorted(log_spaced(10**6, 50))[20:])]
    assert max(late) / min(late) < 1.02


def test_the_symmetrised_predictive_loss():
    calls = []

    def record(*, prediction, target, projection):
        calls.append((prediction, target, projection))
        return (prediction - target.detach()).square().mean()

    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    one = method(loss=record, predictor=nn.Linear(3, 3), teacher=teacher).eval()
    x, y = views(0)
    value = one(x, y)
    z = one.online(x)
    assert (
        torch.equal(calls[0][0], one.predictor(z))
        and torch.equal(calls[0][1], teacher(y))
        and torch.equal(calls[0][2], z)
    )
    assert torch.equal(calls[1][1], teacher(x)) and not calls[0][1].requires_grad
    expected = sum((p - t).square().mean() for p, t, _ in calls[:2]) / 2
    assert torch.equal(value, expected)
    alone = method(loss=record, stop_gradient=True).eval()
    alone(x, y)
    assert torch.equal(calls[2][1], alone.online(y)) and torch.equal(calls[2][0], alone.online(x))


def test_the_orthogonality_penalty_counts_the_shorter_side():
    torch.manual_seed(0)
    wide, tall = nn.Linear(6, 2), nn.Linear(2, 6)
    one = JointEmbedding(nn.Flatten(), nn.Linear(36, 3), distance, orthogonality=(0.5, (wide, tall)))
    x, y = views(0)
    plain = distance(z=one.online(x), z_positive=one.online(y))
    penalty = sum((m - torch.eye(2)).square().sum() for m in (wide.weight @ wide.weight.T, tall.weight.T @ tall.weight))
    assert (one(x, y) - plain - 0.5 * penalty).abs() < 1e-5
