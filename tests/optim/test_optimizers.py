"""The optimizers: independent of the basis, equal to their textbook forms, at the known optima, and careful with bad input."""

import copy
import functools
import itertools

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, Validated
from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import (
    Landing,
    RiemannianAdam,
    RiemannianCG,
    RiemannianLBFGS,
    RiemannianMuon,
    RiemannianSGD,
    clip_grad_norm_,
)
from grassmann_ssl.optim import base as optim_base
from tests.manifolds.cases import Case, cases, orthonormality_error, subspace_error
from tests.optim.problems import parameter, quartic, rayleigh, run, spectrum
from tests.oracles import optimizers as oracle
from tests.profiles import examples

SGD = functools.partial(RiemannianSGD, lr=0.03)
FIRST_ORDER = {
    "sgd": SGD,
    "momentum": functools.partial(SGD, momentum=0.8),
    "nesterov": functools.partial(SGD, momentum=0.8, nesterov=True),
    "adam": functools.partial(RiemannianAdam, lr=0.03),
    "adam row": functools.partial(RiemannianAdam, lr=0.03, second_moment="row"),
    "amsgrad": functools.partial(RiemannianAdam, lr=0.03, amsgrad=True),
    "muon": functools.partial(RiemannianMuon, lr=0.03, momentum=0.8, nesterov=True),
    "landing": functools.partial(Landing, lr=0.03),
}
FULL_BATCH = {"cg": RiemannianCG, "lbfgs": RiemannianLBFGS}
RETRACTIONS = ("cholesky-qr", "polar", "exponential")
first_order = pytest.mark.parametrize("make", FIRST_ORDER.values(), ids=FIRST_ORDER)
everyone = pytest.mark.parametrize("make", (FIRST_ORDER | FULL_BATCH).values(), ids=FIRST_ORDER | FULL_BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("retraction", RETRACTIONS)
@everyone
@examples(5)
@given(cases(dtypes=(torch.float64, torch.complex128)))
def test_a_trajectory_does_not_see_the_basis(make, retraction, case):
    loss, manifold = quartic(spectrum(case.n)[0]), Grassmann(retraction)
    ends = [
        run(loss, [w], make([w]), 1 if make in FULL_BATCH.values() else 15)[0]
        for w in (parameter(case.point(), manifold), parameter(case.point() @ case.rotation(), manifold))
    ]
    # Where p > n - p some singular values of a step are zero, and Muon lifts what rounding leaves of them by up to 3.4^5 1.5^4 = 2300 a
    # step; a line search divides by differences.
    exact = make not in (*FULL_BATCH.values(), FIRST_ORDER["muon"])
    assert subspace_error(*ends) <= (1e-12 if exact else 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(9,), ()], ids=["batch", "single"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("retraction", RETRACTIONS)
@first_order
def test_rounding_is_no_direction(make, retraction, dtype, batch):
    # On one point and for a constant loss every gradient is normal, and what is left of it rounding.
    for n, p, loss in (
        (5, 5, quartic(spectrum(5)[0])),
        (1, 1, quartic(spectrum(1)[0])),
        (2, 1, lambda x: 10 * x.abs().square().sum()),
        (6, 4, lambda x: 10 * x.abs().square().sum()),
    ):
        start = Case(batch, n, p, dtype, 0).point()
        w = parameter(start, Grassmann(retraction))
        optimizer = make([w])
        end = run(loss, [w], optimizer, 20)[0]
        # a few eps from each of 20 steps, which the retractions of steps of length 0 leave too
        assert max(orthonormality_error(end), subspace_error(end, start)) <= 20 * torch.finfo(dtype).eps, (n, p)
        assert not optimizer.state[w].get("exp_avg_sq", torch.zeros(1)).any()


@pytest.mark.parametrize("second_moment", ["matrix", "row"])
def test_adam_without_eps_rests_where_there_is_no_gradient(second_moment):
    w = parameter(Grassmann().random(2, 6, 2))
    start, optimizer = w.detach().clone(), RiemannianAdam([w], eps=0.0, second_moment=second_moment)
    w.grad = torch.zeros_like(start)
    w.grad[0] = 1.0  # the other matrix of the batch has none
    optimizer.step()
    assert torch.isfinite(w).all() and (w[0] - start[0]).abs().max() > 1e-4
    assert (w[1] - start[1]).abs().max() <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("retraction", RETRACTIONS)
@first_order
def test_retractions_agree_on_small_steps(make, retraction):
    matrix, _ = spectrum(9)
    ends = []
    for chosen in ("polar", retraction):
        w = parameter(
            Grassmann().random(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), Grassmann(chosen)
        )
        ends.append(run(rayleigh(matrix), [w], make([w], lr=1e-4), 50)[0])
    # Third order in the step for each of 50 steps; with momentum 0.8 and a gradient of at most 2 * 3 * 3^(1/2) a step is below 0.0055.
    assert subspace_error(*ends) <= 50 * 0.0055**3


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_sgd_equals_the_textbook(momentum, nesterov):
    matrix, _ = spectrum(8)
    start = Grassmann().random(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = parameter(start, Grassmann("polar"))
    nesterov = nesterov and momentum > 0
    run(rayleigh(matrix), [w], RiemannianSGD([w], lr=0.05, momentum=momentum, nesterov=nesterov), 60)
    expected = oracle.sgd(start.numpy(), lambda x: 2 * matrix.numpy() @ x, 60, 0.05, momentum, nesterov)
    assert np.abs(w.detach().numpy() - expected).max() <= 1e-12


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("second_moment", ["matrix", "row"])
def test_adam_equals_the_textbook(second_moment, amsgrad):
    matrix, _ = spectrum(8)
    start = Grassmann().random(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = parameter(start, Grassmann("polar"))
    made = RiemannianAdam([w], lr=0.05, betas=(0.8, 0.95), second_moment=second_moment, amsgrad=amsgrad)
    run(rayleigh(matrix), [w], made, 60)
    settings = 60, 0.05, (0.8, 0.95), 1e-8, second_moment == "row", amsgrad
    expected = oracle.adam(start.numpy(), lambda x: 2 * matrix.numpy() @ x, *settings)
    assert np.abs(w.detach().numpy() - expected).max() <= 1e-12


# Constant learning rates: Adam and Muon keep a distance of about lr times the number of rows; line searches and gradient descent converge.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "limit"),
    [("sgd", 1500, 1e-12), ("momentum", 400, 1e-12), ("nesterov", 400, 1e-12), ("adam", 600, 0.1), ("adam row", 600, 0.2),
     ("amsgrad", 1200, 0.1), ("muon", 300, 0.3), ("landing", 1200, 1e-6), ("cg", 5, 1e-7), ("lbfgs", 5, 1e-7)],
)  # fmt: skip
@pytest.mark.parametrize("maximize", [False, True])
def test_known_optimum(name, steps, limit, maximize):
    matrix, vectors = spectrum(10)
    if name in FULL_BATCH:
        if maximize:
            return  # the line searches minimise the loss they are given
        make = functools.partial(FULL_BATCH[name], max_iter=50)
    else:
        make = functools.partial(FIRST_ORDER[name], maximize=maximize)
    w = parameter(Grassmann().random(2, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    optimizer = make([w])
    run(rayleigh(matrix), [w], optimizer, steps)
    expected = vectors[:, -3:] if maximize else vectors[:, :3]
    assert subspace_error(torch.linalg.qr(w.detach())[0], expected) <= limit
    assert orthonormality_error(w.detach()) <= (1e-6 if name == "landing" else 1e-14 * 30)


def test_momentum_pays_where_curvatures_are_far_apart():
    """As docs/choosing.md says: at the minimum of tr(X^T diag(c) X) they are 2 (c_j - c_i), from 2 gap to 2."""
    start = Grassmann().random(32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def left(gap, momentum, steps):
        c = torch.cat([torch.linspace(0, 0.3, 4), torch.linspace(0.3 + gap, 1, 28)]).double()
        w = parameter(start)
        optimizer = RiemannianSGD([w], lr=1.0, momentum=momentum)  # the best rate of all four
        (x,) = run(rayleigh(torch.diag(c)), [w], optimizer, steps)
        return float((c[:, None] * x * x).sum() - c[:4].sum())

    assert left(0.2, 0.0, 30) < left(0.2, 0.9, 30) / 3 and left(0.01, 0.9, 90) < left(0.01, 0.0, 90) / 3


@first_order
def test_same_shapes_are_stacked_and_a_batch_is_a_loop(make):
    matrix, _ = spectrum(7)
    starts = [
        Grassmann().random(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(3)
    ]
    together = [parameter(s) for s in starts]
    run(rayleigh(matrix), together, make(together), 20)
    batch = parameter(torch.stack(starts))
    run(rayleigh(matrix), [batch], make([batch]), 20)
    for i, start in enumerate(starts):
        alone = parameter(start)
        run(rayleigh(matrix), [alone], make([alone]), 20)
        assert (alone - together[i]).abs().max() <= 1e-13
        assert (alone - batch[i]).abs().max() <= 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@first_order
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_noisy_steps_stay_orthonormal(make, dtype, retraction):
    generator = torch.Generator().manual_seed(0)
    w = parameter(Grassmann().random(24, 6, dtype=dtype, generator=generator), Grassmann(retraction))
    optimizer = make([w])
    for _ in range(200):
        w.grad = torch.randn(24, 6, dtype=dtype, generator=generator)
        optimizer.step()
    limit = 0.5 if isinstance(optimizer, Landing) else 8 * torch.finfo(dtype).eps
    assert orthonormality_error(w.detach()) <= limit and w.dtype == dtype


@pytest.mark.parametrize("lr", [1e-3, 100.0])
@pytest.mark.parametrize("attraction", [0.3, 2.0])
def test_a_landing_step_equals_the_textbook(lr, attraction):
    generator = torch.Generator().manual_seed(0)
    w = parameter(Grassmann().random(9, 3, dtype=torch.float64, generator=generator))
    optimizer = Landing([w], lr=lr, attraction=attraction, safety=0.4)
    for size in (1.0, 1.05, 0.95):
        with torch.no_grad():
            w.copy_(size * torch.linalg.qr(w)[0])
        x, w.grad = w.detach().numpy().copy(), torch.randn(9, 3, dtype=torch.float64, generator=generator)
        optimizer.step()
        expected = oracle.landing(x, w.grad.numpy(), lr, attraction, 0.4)
        assert np.abs(w.detach().numpy() - expected).max() <= 1e-14


@pytest.mark.long
def test_landing_stays_in_its_neighbourhood_and_lands():
    matrix, _ = spectrum(12)
    w = parameter(Grassmann().random(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    optimizer = Landing([w], lr=10.0, safety=0.3)  # far above what is stable: the safeguard has to act
    for _ in range(200):
        run(rayleigh(matrix), [w], optimizer, 1)
        assert torch.linalg.matrix_norm(w.detach().mT @ w.detach() - torch.eye(4)) <= 0.3 + 1e-12
    w = parameter(torch.linalg.qr(w.detach())[0])
    run(rayleigh(matrix), [w], Landing([w], lr=0.05), 800)
    assert orthonormality_error(w.detach()) <= 1e-12


@pytest.mark.long
def test_layers_move_like_points():
    torch.manual_seed(0)
    layer = constrain(nn.Linear(9, 3, bias=False).double())
    conv = constrain(nn.Conv2d(2, 3, 2, bias=False).double())
    target = torch.randn(9, 9, dtype=torch.float64)
    for make in FIRST_ORDER.values():
        for module, n in ((layer, 9), (conv, 8)):
            module = copy.deepcopy(module)
            point = parameter(module.weight.detach().as_subclass(torch.Tensor).flatten(1).mT)
            matrix = (target @ target.mT)[:n, :n]

            def of_weight(w, matrix=matrix):
                return quartic(matrix)(w.flatten(1).mT)

            run(of_weight, [module.weight], make(module), 10)
            run(quartic(matrix), [point], make([point]), 10)
            assert (module.weight.flatten(1).mT - point).abs().max() <= 1e-12


def test_one_optimizer_for_a_whole_model():
    torch.manual_seed(0)
    model = nn.Sequential(constrain(nn.Linear(6, 3)), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(20, 6)
    for make, peer in (
        (functools.partial(RiemannianSGD, momentum=0.9, weight_decay=0.1, nesterov=True),
         functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1, nesterov=True)),
        (functools.partial(RiemannianAdam, weight_decay=0.1, amsgrad=True),
         functools.partial(torch.optim.AdamW, weight_decay=0.1, amsgrad=True)),
    ):  # fmt: skip
        ours = copy.deepcopy(model)
        optimizer = make(ours, lr=0.01)
        theirs = copy.deepcopy(model[2])
        reference = peer(theirs.parameters(), lr=0.01)
        for _ in range(10):
            hidden = ours[1](ours[0](x)).detach()
            for m, inputs, o in ((theirs, hidden, reference), (ours, x, optimizer)):
                o.zero_grad()
                m(inputs).square().mean().backward()
                o.step()
        for a, b in zip(ours[2].parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)  # fused and plain updates round differently
        assert orthonormality_error(ours[0].weight.detach().mT) <= 1e-6


@pytest.mark.parametrize("make", [SGD, FIRST_ORDER["adam"], FIRST_ORDER["landing"]])
def test_maximize_is_for_ordinary_parameters_too(make):
    w, v = parameter(Grassmann().random(6, 2)), nn.Parameter(torch.zeros(3))
    optimizer = make([w, v], maximize=True)
    w.grad, v.grad = torch.zeros(6, 2), torch.ones(3)
    optimizer.step()
    assert (v > 0).all()


def test_groups_and_schedulers():
    w, v = parameter(Grassmann().random(6, 2)), nn.Parameter(torch.ones(3))
    optimizer = RiemannianSGD([{"params": [w], "lr": 0.1}, {"params": [v], "weight_decay": 0.5}], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    w.grad, v.grad = torch.zeros(6, 2), torch.zeros(3)
    optimizer.step()
    assert torch.equal(v, torch.full((3,), 0.5))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]


@pytest.mark.parametrize("device_side", [False, True])
@first_order
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_step_with_a_bad_gradient_is_left_out_and_counted(make, bad, device_side, monkeypatch):
    monkeypatch.setattr(optim_base, "device_side", lambda flag: device_side)
    torch.manual_seed(0)
    w, many = parameter(Grassmann().random(8, 2)), [parameter(Grassmann().random(6, 3)) for _ in range(2)]
    free = nn.Parameter(torch.randn(4))
    everything = [w, *many, free]
    optimizer = make(everything)

    def step(value=None):
        for p in everything:
            p.grad = torch.randn(p.shape)
        if value is not None:
            many[1].grad[0, 0] = value
        optimizer.step()

    step()
    step()
    before = copy.deepcopy([optimizer.state_dict()["state"], [p.data for p in everything]])
    step(bad)
    after = [optimizer.state_dict()["state"], [p.data for p in everything]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert optimizer.report()["skipped"] == 1 and optimizer.report()["steps"] == 3
    step()
    assert all(torch.isfinite(p).all() for p in everything)
    assert not torch.equal(w.data, before[1][0])


@pytest.mark.parametrize("told", [False, torch.tensor(False)])
def test_a_step_believes_what_it_is_told_of_its_gradients(told):
    w = parameter(Grassmann().random(8, 2))
    optimizer, before = RiemannianSGD([w], lr=0.1), w.detach().clone()
    w.grad = torch.ones(8, 2)
    optimizer.step(finite=told)
    assert torch.equal(w, before) and optimizer.report()["skipped"] == 1
    optimizer.step(finite=~told if isinstance(told, torch.Tensor) else True)
    assert not torch.equal(w, before) and optimizer.report()["skipped"] == 1


@first_order
def test_masked_and_direct_writes_agree(make, monkeypatch):
    matrix, _ = spectrum(7)
    ends = []
    for device_side in (False, True):
        monkeypatch.setattr(optim_base, "device_side", lambda flag, answer=device_side: answer)
        ws = [
            parameter(Grassmann().origin(7, 2, dtype=torch.float64)),
            parameter(Grassmann().origin(7, 3, dtype=torch.float64)),
        ]
        ends.append(run(lambda x: quartic(matrix)(x) + x[0].sum(), ws, make(ws), 10))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-13)


def test_a_bad_gradient_can_be_an_error_that_names_the_parameter():
    model = nn.Sequential(constrain(nn.Linear(6, 3)), nn.Linear(3, 2))
    optimizer = RiemannianSGD(model, lr=0.1, nonfinite="raise")
    model(torch.randn(4, 6)).sum().backward()
    model[1].weight.grad[0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"the gradient of 1\.weight is not finite"):
        optimizer.step()
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.long
@first_order
def test_no_step_reads_a_value(make):
    # Tensors on the meta device have no values: reading one, as .item() or an if does on a GPU, raises.
    manifolds = (Grassmann(), Grassmann("polar"), Stiefel())
    for manifold in manifolds[:1] if make.func is Landing else manifolds:
        real = [parameter(manifold.random(*shape), manifold) for shape in ((8, 3), (8, 3), (4, 9, 2))]
        optimizer = make(real)
        with_values = []
        for p in real:
            q = nn.Parameter(torch.empty(p.shape, device="meta"))
            q.grad, q.manifold = torch.empty(p.shape, device="meta"), manifold
            with_values.append(q)
        optimizer.param_groups[0]["params"] = with_values
        for _ in range(2):
            clip_grad_norm_(with_values, 1.0)
            optimizer.step()
        with pytest.raises(RuntimeError, match="meta"):
            optimizer.report()  # the test can fail


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@first_order
def test_no_step_waits_on_cuda(make):
    points = [parameter(Grassmann().random(*shape, device="cuda")) for shape in ((64, 8), (64, 8), (4, 32, 4))]
    free = nn.Parameter(torch.zeros(5, device="cuda"))
    optimizer = make([*points, free])

    def step():
        for p in (*points, free):
            p.grad = torch.ones_like(p.detach())
        clip_grad_norm_([*points, free], 1.0)
        optimizer.step()

    step()  # makes the states
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(orthonormality_error(p.detach().cpu()) <= 1e-5 or isinstance(optimizer, Landing) for p in points)


@everyone
def test_state_survives_its_round_trips(make, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(constrain(nn.Linear(8, 3, bias=False)).double())
    loss = quartic(spectrum(8)[0])

    def advance(model, optimizer, steps):
        def closure():
            optimizer.zero_grad()
            value = loss(model[0].weight.mT)
            value.backward()
            return value

        for _ in range(steps):
            optimizer.step(closure)
        return model[0].weight.detach().clone()

    optimizer = make(model) if make not in FULL_BATCH.values() else make(model, max_iter=2)
    advance(model, optimizer, 3)
    if isinstance(optimizer, Landing):
        optimizer.stabilize()  # its points are off the manifold by design
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    copies = copy.deepcopy((model, optimizer))
    expected = advance(model, optimizer, 4)
    assert torch.equal(advance(*copies, 4), expected)
    stored = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = nn.Sequential(constrain(nn.Linear(8, 3, bias=False)).double())
    fresh.load_state_dict(stored["model"], assign=True)
    again = make(fresh) if make not in FULL_BATCH.values() else make(fresh, max_iter=2)
    again.load_state_dict(stored["optimizer"])
    assert torch.equal(advance(fresh, again, 4), expected)


@first_order
def test_memory_is_the_momentum_and_a_number_per_row(make):
    w = parameter(Grassmann().random(2, 50, 4))
    optimizer = make([w])
    w.grad = torch.randn(2, 50, 4)
    optimizer.step()
    extra = sum(value.numel() for value in optimizer.state[w].values()) - w.numel()
    assert extra <= (2 * 50 + 2 if isinstance(optimizer, RiemannianAdam) else 0)


def test_a_validated_manifold_checks_every_step():
    matrix, _ = spectrum(8)
    w = parameter(Grassmann().origin(8, 2, dtype=torch.float64), Validated(Grassmann()))
    run(quartic(matrix), [w], RiemannianSGD([w], lr=0.03, momentum=0.8), 20)
    plain = parameter(Grassmann().origin(8, 2, dtype=torch.float64))
    run(quartic(matrix), [plain], RiemannianSGD([plain], lr=0.03, momentum=0.8), 20)
    assert subspace_error(w.detach(), plain.detach()) <= 1e-12


@pytest.mark.parametrize("device_side", [False, True])
def test_steps_beyond_the_injectivity_radius_are_reported(device_side, monkeypatch):
    monkeypatch.setattr(optim_base, "device_side", lambda flag: device_side)
    w = parameter(Grassmann().random(3, 6, 2, dtype=torch.float64))
    optimizer = RiemannianSGD([w], lr=1.0)
    u = Grassmann().random_tangent(w.detach())
    u = u / torch.linalg.matrix_norm(u, keepdim=True) * torch.tensor([1.5, 1.6, 4.0])[:, None, None]
    w.grad = u
    optimizer.step()
    assert optimizer.report() == {"steps": 1, "skipped": 0, "beyond_injectivity": pytest.approx(2 / 3)}
    w.grad = torch.full_like(u, torch.inf)  # a step that is left out does not count
    optimizer.step()
    assert optimizer.report() == {"steps": 2, "skipped": 1, "beyond_injectivity": pytest.approx(2 / 3)}


def test_clipping_counts_the_tangent_part_only():
    w, v = parameter(Grassmann().random(6, 2, dtype=torch.float64)), nn.Parameter(torch.zeros(2, dtype=torch.float64))
    u = Grassmann().random_tangent(w.detach())
    w.grad = u + 100 * w.detach()
    v.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    norm = clip_grad_norm_([w, v], 1.0)
    assert norm == pytest.approx(float((u.square().sum() + 25).sqrt()))
    assert clip_grad_norm_([w, v], 1.0) == pytest.approx(1.0)
    assert clip_grad_norm_([w, v], 3.0) == clip_grad_norm_([w, v], 3.0)  # shorter ones are left alone
    w.grad[0, 0] = float("nan")
    kept = v.grad.clone()
    assert not torch.isfinite(clip_grad_norm_([w, v], 1.0)) and torch.equal(v.grad, kept)
    with pytest.raises(ValueError, match="max_norm must be positive"):
        clip_grad_norm_([w], 0.0)


@pytest.mark.parametrize("make", [FIRST_ORDER["momentum"], FIRST_ORDER["adam"], FIRST_ORDER["nesterov"]])
def test_the_metric_of_b_is_that_of_whitened_weights(make):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(8, 20, dtype=torch.float64, generator=generator)
    b = a @ a.mT / 20
    factor = torch.linalg.cholesky(b)
    generalized, matrix = GeneralizedGrassmann(b), spectrum(8)[0]
    start = generalized.random(8, 3, generator=generator)
    w, white = parameter(start, generalized), parameter(factor.mT @ start.as_subclass(torch.Tensor))
    run(rayleigh(matrix), [w], make([w]), 30)
    back = torch.linalg.inv(factor.mT)
    run(lambda y: rayleigh(matrix)(back @ y), [white], make([white]), 30)
    assert (factor.mT @ w.detach() - white.detach()).abs().max() <= 1e-12
    # Another B: the same subspace in a basis that is orthonormal for it, and the momentum tangent there.
    span = torch.linalg.qr(w.detach())[0]
    optimizer = make([w])
    run(rayleigh(matrix), [w], optimizer, 1)
    span = torch.linalg.qr(w.detach())[0]
    generalized.replace(b + torch.eye(8))
    optimizer.stabilize()
    assert (
        generalized.check_point_on_manifold(w.detach()) and subspace_error(torch.linalg.qr(w.detach())[0], span) < 1e-13
    )
    (key,) = optimizer.momentum_keys
    assert generalized.check_vector_on_tangent(w.detach(), optimizer.state[w][key], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_keep_their_precision(dtype):
    manifold = Grassmann("polar")
    matrix, vectors = spectrum(10, torch.float32)
    w = parameter(manifold.random(10, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)), manifold)
    optimizer = RiemannianSGD([w], lr=0.1, momentum=0.8)
    for _ in range(300):
        w.grad = (2 * matrix @ w.detach().as_subclass(torch.Tensor).float()).to(dtype)
        optimizer.step()
    eps = torch.finfo(dtype).eps
    assert w.dtype == dtype and orthonormality_error(w.detach()) <= 2 * eps
    assert subspace_error(w.detach(), vectors[:, :3]) <= 8 * eps  # rounding of entries below 1
    with pytest.raises(TypeError, match="polar"):
        Grassmann().random(4, 2, dtype=dtype)
    with pytest.raises(TypeError, match="second moments stand still"):
        RiemannianAdam([w])


@pytest.mark.parametrize("make", [FIRST_ORDER["momentum"], FIRST_ORDER["amsgrad"]])
def test_states_follow_their_parameters(make):
    # The meta device stands for another one: a state that was loaded elsewhere is taken there.
    w, v = parameter(Grassmann().random(6, 2)), nn.Parameter(torch.zeros(3))
    optimizer = make([w, v])
    for p in (w, v):
        p.grad = torch.ones_like(p.detach())
    optimizer.step()
    moved = nn.Parameter(torch.empty(6, 2, device="meta"))
    moved.manifold, moved.grad = Grassmann(), torch.empty(6, 2, device="meta")
    optimizer.state[moved] = optimizer.state.pop(w)
    optimizer.param_groups[0]["params"] = [moved]
    optimizer.step()
    assert {value.device.type for value in optimizer.state[moved].values()} == {"meta"}


@pytest.mark.parametrize("make", [FIRST_ORDER["sgd"], FIRST_ORDER["muon"]])
def test_momentum_may_be_switched_on_and_off(make):
    ends = []
    for schedule in ((0.8, 0.8, 0.8), (0.0, 0.8, 0.8), (0.8, 0.8, 0.0), (0.0, 0.0, 0.0)):
        w, v = parameter(Grassmann().origin(6, 2)), nn.Parameter(torch.zeros(3))
        optimizer = make([w, v], momentum=0.5, nesterov=False)
        for k, momentum in enumerate(schedule):
            optimizer.param_groups[0]["momentum"] = momentum
            w.grad, v.grad = torch.full((6, 2), 1.0 + k), torch.full((3,), 1.0 + k)
            w.grad[0, 0] = -1.0
            optimizer.step()
        ends.append(torch.cat([w.detach().flatten(), v.detach()]))
    # A buffer that starts with the second gradient does not hold the first; one that is left alone acts no more.
    assert all((a - b).abs().max() > 1e-4 for a, b in itertools.combinations(ends, 2))


def test_settings_have_the_order_of_torch_and_geoopt():
    w = parameter(Grassmann().random(6, 2))
    for kind, settings in (("SGD", (0.1, 0.5, 0.0, 0.0, True)), ("Adam", (0.1, (0.5, 0.6), 1e-3, 0.0, True))):
        ours = {"SGD": RiemannianSGD, "Adam": RiemannianAdam}[kind]([w], *settings)
        theirs = getattr(torch.optim, kind)([w], *settings), getattr(geoopt.optim, f"Riemannian{kind}")([w], *settings)
        for other in theirs:
            shared = ours.defaults.keys() & other.defaults.keys() - {"maximize", "stabilize"}
            assert len(shared) >= 4 and all(ours.defaults[k] == other.defaults[k] for k in shared)
    assert torch.equal(
        w, run(rayleigh(spectrum(6, torch.float32)[0]), [w], RiemannianSGD([w], 0.0, foreach=True), 1)[0]
    )


def test_points_are_put_back_every_so_many_steps():
    w = parameter(Grassmann().random(6, 2, dtype=torch.float64), Grassmann("exponential"))
    optimizer = RiemannianSGD([w], lr=0.1, stabilize=3)
    errors = []
    for _ in range(6):
        with torch.no_grad():
            w.mul_(1.1)  # a geodesic removes little of it
        w.grad = torch.zeros_like(w)
        optimizer.step()
        errors.append(orthonormality_error(w.detach()))
    assert [error < 1e-14 for error in errors] == [False, False, True, False, False, True]


def test_settings_that_cannot_work_are_refused():
    w, v = parameter(Grassmann().random(6, 2)), nn.Parameter(torch.zeros(3))
    for chosen, message in (
        ({"lr": -1.0}, "lr must be at least 0, got -1"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": 1.0, "momentum": -0.1}, "momentum must be"),
        ({"lr": 1.0, "nesterov": True}, "nesterov needs momentum > 0"),
        ({"lr": 1.0, "weight_decay": 0.1}, "weight_decay has no effect"),
        ({"lr": 1.0, "nonfinite": "ignore"}, "nonfinite must be"),
    ):
        with pytest.raises(ValueError, match=message):
            RiemannianSGD([w], **chosen)
    for chosen, message in (
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and below 1, got 1"),
        ({"second_moment": "column"}, "second_moment must be 'matrix' or 'row', got 'column'"),
    ):
        with pytest.raises(ValueError, match=message):
            RiemannianAdam([w], **chosen)
    for make in (RiemannianSGD, RiemannianAdam, RiemannianMuon):
        with pytest.raises(ValueError, match="foreach must be None or True, got False"):
            make([w], lr=1.0, foreach=False)
        with pytest.raises(ValueError, match="stabilize must be at least 1, got 0"):
            make([w], lr=1.0, stabilize=0)
    with pytest.raises(ValueError, match=r"dampening must be 0, got 0\.1"):
        RiemannianSGD([w], lr=1.0, momentum=0.5, dampening=0.1)
    with pytest.raises(ValueError, match=r"none of the parameters has a manifold.*torch\.optim"):
        RiemannianSGD([v], lr=1.0)
    with pytest.raises(ValueError, match=r"is not on Grassmann.*largest entry of X"):
        RiemannianSGD([parameter(1.1 * w.detach())], lr=1.0)
    with pytest.raises(ValueError, match="Landing needs parameters on Grassmann"):
        Landing([parameter(Stiefel().random(5, 2), Stiefel())], lr=1.0)
    metric = GeneralizedGrassmann(torch.eye(5))
    with pytest.raises(ValueError, match=r"RiemannianMuon needs parameters on Grassmann\(\) or Stiefel\(\), but"):
        RiemannianMuon([parameter(metric.random(5, 2), metric)], lr=1.0)
    with pytest.raises(ValueError, match="safety must be"):
        Landing([w], lr=1.0, safety=1.0)
    model = nn.Sequential(constrain(nn.Linear(6, 3)), constrain(nn.Linear(3, 2)))
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"constrains 0\.weight, but no trainable parameter"):
        RiemannianSGD(model, lr=1.0)
    sparse = parameter(Grassmann().random(6, 2))
    sparse.grad = torch.zeros(6, 2).to_sparse()
    with pytest.raises(TypeError, match="sparse"):
        RiemannianSGD([sparse], lr=1.0).step()
    with pytest.raises(ValueError, match="second_moment 'row' needs"):
        run(
            lambda x: x.sum(),
            [s := parameter(geoopt.Sphere().random(4), geoopt.Sphere())],
            RiemannianAdam([s], second_moment="row"),
            1,
        )
    optimizer = RiemannianSGD([w], lr=1.0)
    with pytest.raises(ValueError, match="momentum must be"):
        optimizer.add_param_group({"params": [v], "momentum": -1.0})
    assert len(optimizer.param_groups) == 1


def test_hooks_and_the_profiler_see_every_step():
    """Steps are not wrapped as torch wraps them, but go the same way where somebody looks."""
    p = parameter(Case((), 8, 2, torch.float64, 0).point())
    p.grad = torch.ones_like(p)
    optimizer = RiemannianSGD([p], lr=0.1)
    seen = []
    optimizer.step()
    handles = [
        optimizer.register_step_pre_hook(lambda one, args, kwargs: seen.append(("before", one, p.detach().clone()))),
        optimizer.register_step_post_hook(lambda one, args, kwargs: seen.append(("after", one, p.detach().clone()))),
        register_optimizer_step_pre_hook(lambda one, args, kwargs: seen.append(("any", one, None))),
        register_optimizer_step_post_hook(lambda one, args, kwargs: seen.append(("any", one, None))),
    ]
    for handle in handles:
        optimizer.step()
        handle.remove()
    assert [name for name, *_ in seen].count("any") == 7 and all(one is optimizer for _, one, _ in seen)
    before, after = (next(x for name, _, x in seen if name == kind) for kind in ("before", "after"))
    assert not torch.equal(before, after)
    count = len(seen)
    optimizer.step()
    assert len(seen) == count
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#RiemannianSGD.step" in {event.key for event in profile.key_averages()}


def test_a_step_leaves_the_gradient_mode_as_it_was():
    p = parameter(Case((), 8, 2, torch.float64, 0).point())
    optimizer = RiemannianSGD([p], lr=0.1, nonfinite="raise")
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            p.grad = torch.ones_like(p)
            optimizer.step(lambda: p.square().sum() if torch.is_grad_enabled() else pytest.fail("without gradients"))
            assert torch.is_grad_enabled() == enabled
            p.grad = torch.full_like(p, torch.inf)
            with pytest.raises(FloatingPointError):
                optimizer.step()
            assert torch.is_grad_enabled() == enabled
