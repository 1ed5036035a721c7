"""Constrained layers: the same forward and checkpoint as torch's own, and a manifold that nothing torch does to a parameter takes away."""

import contextlib
import copy
import math

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.optim.swa_utils import AveragedModel

from grassmann_ssl.manifolds import GeneralizedGrassmann, Grassmann, Stiefel, principal_angles
from grassmann_ssl.manifolds.layout import WeightLayout
from grassmann_ssl.nn import GrassmannLinear, constrain, constraints

OPTIMIZERS = [geoopt.optim.RiemannianSGD, geoopt.optim.RiemannianAdam]


def network(seed=0):
    """Orthonormal rows, orthonormal columns, a convolution and an ordinary layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        constrain(nn.Conv1d(2, 4, 3)), nn.Flatten(), GrassmannLinear(16, 4), nn.Tanh(), constrain(nn.Linear(4, 9)), nn.Linear(9, 1)
    )  # fmt: skip


INPUT = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0))
NAMES = {"0.weight", "2.weight", "4.weight"}


def assert_constrained(model):
    """Every constrained parameter is a ManifoldParameter of that name, on its manifold to rounding."""
    parameters = dict(model.named_parameters())
    found = constraints(model)
    assert {name.removeprefix("module.").removeprefix("_orig_mod.") for name in found} == NAMES
    for name, manifold in found.items():
        assert type(parameters[name]) is geoopt.ManifoldParameter and parameters[name].manifold is manifold
        assert parameters[name].is_contiguous()
        if not parameters[name].is_meta:
            assert error(parameters[name], manifold) <= 20 * torch.finfo(parameters[name].dtype).eps
    assert not isinstance(parameters[next(n for n in parameters if n.endswith("5.weight"))], geoopt.ManifoldParameter)


def error(weight, layout):
    x = layout.to_point(weight.detach()).double()
    return float((x.mT @ x - torch.eye(x.shape[-1])).abs().max())


def train(model, optimizer, steps=20, autocast=False):
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            output = model(INPUT.to(next(model.parameters()).dtype))
        (output.float() - 3).square().mean().backward()
        optimizer.step()


@contextlib.contextmanager
def swapping():
    """Conversions and loading swap the content of parameters, as torch will do by default one day."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


# What becomes of the weight


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([(), (1,), (3,), (2, 3), (1, 2, 2)]), st.booleans())
def test_the_longer_side_is_n(out, inputs, kernel, double):
    kinds = [nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d]
    arguments = (inputs, out, kernel) if kernel else (inputs, out)
    layer = kinds[len(kernel)](*arguments, dtype=torch.float64 if double else torch.float32)
    columns = inputs * math.prod(kernel)
    if out == columns:
        with pytest.raises(ValueError, match=rf"Gr\({out}, {out}\) is a single point"):
            constrain(layer)
        return
    before = layer.weight.detach().flatten(1).double()
    assert constrain(layer) is layer
    after = layer.weight.detach().flatten(1).double()
    rows = out <= columns
    gram = after @ after.T if rows else after.T @ after
    assert (gram - torch.eye(min(out, columns))).abs().max() <= 20 * torch.finfo(layer.weight.dtype).eps
    # The projection keeps the row or column space. arcsin of rounding errors, divided by the conditioning of a random weight.
    angles = (
        principal_angles(after.T, torch.linalg.qr(before.T)[0])
        if rows
        else principal_angles(after, torch.linalg.qr(before)[0])
    )
    assert angles.max() <= 1e3 * torch.finfo(layer.weight.dtype).eps * torch.linalg.cond(before)
    assert layer.weight.manifold == WeightLayout(Grassmann(), rows, kernel)


def test_the_side_can_be_stated():
    square = constrain(nn.Linear(4, 4), manifold=Stiefel(), transpose=False)
    assert square.weight.manifold == WeightLayout(Stiefel(), False)
    assert constrain(nn.Linear(4, 4), manifold=Stiefel()).weight.manifold.transpose
    assert constrain(nn.Linear(4, 3), transpose=True).weight.manifold.transpose
    with pytest.raises(
        ValueError, match=r"5 orthonormal rows with 4 entries, but weight of shape \(5, 4\) is a 5 x 4 matrix"
    ):
        constrain(nn.Linear(4, 5), transpose=True)
    with pytest.raises(ValueError, match=r"18 orthonormal columns with 5 entries"):
        constrain(nn.Conv2d(2, 5, 3), transpose=False)


def test_other_modules_with_a_matrix():
    attention = constrain(nn.MultiheadAttention(4, 2), "in_proj_weight")
    embedding = constrain(nn.Embedding(10, 3))
    for weight in (attention.in_proj_weight, embedding.weight):
        assert error(weight, weight.manifold) <= 1e-6 and not weight.manifold.transpose
    assert set(constraints(attention)) == {"in_proj_weight"}


def test_several_parameters_of_one_module():
    cell = nn.RNNCell(3, 5)
    constrain(constrain(cell, "weight_ih"), "weight_hh", Stiefel())
    assert {name: str(layout.manifold.name) for name, layout in constraints(cell).items()} == {
        "weight_ih": "Grassmann", "weight_hh": "Stiefel"
    }  # fmt: skip
    assert type(cell) is type(constrain(nn.RNNCell(3, 5), "weight_ih"))


def test_identity_of_the_parameter_is_kept():
    layer = nn.Linear(5, 3)
    weight, optimizer = layer.weight, geoopt.optim.RiemannianSGD(layer.parameters(), lr=0.1)
    layer(torch.randn(2, 5)).sum().backward()
    constrain(layer)
    assert layer.weight is weight is optimizer.param_groups[0]["params"][0]
    assert weight.grad is None and weight.requires_grad


def test_refusals():
    tied = nn.Module()
    tied.first = tied.second = nn.Parameter(torch.randn(3, 2))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    cases = [
        (TypeError, "got torch.int64", _with_parameter(nn.Parameter(torch.zeros(3, 2, dtype=torch.int64), requires_grad=False)), "weight"),
        (TypeError, "got torch.float16", nn.Linear(3, 2, dtype=torch.float16), "weight"),
        (TypeError, "got torch.bfloat16", nn.Linear(3, 2, dtype=torch.bfloat16), "weight"),
        (ValueError, r"one of \['bias', 'weight'\], got 'kernel'", nn.Linear(3, 2), "kernel"),
        (ValueError, "got 'bias'", nn.Linear(3, 2, bias=False), "bias"),
        (ValueError, r"2-d.*got shape \(2,\)", nn.Linear(3, 2), "bias"),
        (ValueError, "already on a manifold", constrain(nn.Linear(3, 2)), "weight"),
        (ValueError, "tied.*first, second", tied, "second"),
        (ValueError, "parametrized", normed, "weight"),
        (ValueError, "groups = 2", nn.Conv2d(4, 4, 3, groups=2), "weight"),
        (ValueError, "2-d", nn.ConvTranspose2d(4, 4, 3), "weight"),
        (ValueError, "no shape yet", nn.LazyLinear(3), "weight"),
    ]  # fmt: skip
    for kind, message, module, name in cases:
        before = type(module)
        with pytest.raises(kind, match=message):
            constrain(module, name)
        assert type(module) is before
    with pytest.raises(TypeError, match="ndim 2"):
        constrain(nn.Linear(3, 2), manifold=geoopt.Sphere())
    with pytest.raises(ValueError, match="B of order 4"):
        constrain(nn.Linear(3, 2), manifold=GeneralizedGrassmann(torch.eye(4)))


def _with_parameter(weight):
    module = nn.Module()
    module.weight = weight
    return module


# The layer itself


def test_grassmann_linear_is_a_linear_layer_on_gr():
    layer = GrassmannLinear(7, 3, bias=False, dtype=torch.float64)
    assert isinstance(layer, nn.Linear) and layer.bias is None
    assert layer.weight.shape == (3, 7) and layer.weight.manifold == WeightLayout(Grassmann(), True)
    assert error(layer.weight, layer.weight.manifold) <= 1e-14
    assert repr(layer).startswith("GrassmannLinear(in_features=7, out_features=3, bias=False, weight: Grassmann")
    for sizes in [(3, 7), (3, 3), (3, 0)]:
        with pytest.raises(ValueError, match=f"in_features = {sizes[0]}, out_features = {sizes[1]}"):
            GrassmannLinear(*sizes)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["born", "reset"])
def test_grassmann_linear_is_drawn_uniformly(again):
    torch.manual_seed(0)
    layers = [GrassmannLinear(4, 2, bias=False, dtype=torch.float64) for _ in range(600)]
    if again:
        for layer in layers:
            layer.reset_parameters()
            assert error(layer.weight, layer.weight.manifold) <= 1e-14
    points = torch.stack([layer.weight.detach().T for layer in layers])
    p = points @ points.mT
    # Entries of a uniform projector: E P_ii = p/n = 1/2, E P_ij = 0, E P_ij^2 = p (n - p) / (n - 1)(n + 2) / n = 4/72;
    # var P_ii = 2 p (n - p) / n^2 (n + 2) = 1/12 and so on: tolerances of four standard errors of 600 draws.
    assert (p.mean(0) - torch.eye(4) / 2).abs().max() < 4 * (1 / 12 / 600) ** 0.5
    off = p[:, ~torch.eye(4, dtype=torch.bool)].square().mean()
    assert abs(off - 4 / 72) < 4 * 4 / 72 * (2 / 600) ** 0.5


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Conv2d(2, 3, 3)])
def test_reset_parameters_stays_on_the_manifold(make):
    layer = constrain(make())
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert error(layer.weight, layer.weight.manifold) <= 1e-6 and (layer.weight - before).abs().max() > 0.01
    assert not hasattr(constrain(_with_parameter(nn.Parameter(torch.randn(3, 2)))), "reset_parameters")


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_forward_is_that_of_the_plain_layer(kind):
    layer = constrain(kind(2, 4, 3, padding=1, stride=2))
    plain = kind(2, 4, 3, padding=1, stride=2)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 2, *[6] * (layer.weight.ndim - 2))
    assert torch.equal(layer(x), plain(x))
    assert type(layer).forward is kind.forward  # nothing is added to it
    rows = layer.weight.detach().flatten(1)
    assert (rows @ rows.T - torch.eye(4)).abs().max() <= 1e-6
    assert repr(layer).startswith(f"Constrained{kind.__name__}(2, 4, ") and "orthonormal rows" in repr(layer)


# What optimizers do with it


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("autocast", [False, True])
def test_training_stays_on_the_manifold(make, autocast):
    model = network()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, make(model.parameters(), lr=0.05), autocast=autocast)
    assert_constrained(model)
    assert all((p - start[name]).abs().max() > 1e-4 for name, p in model.named_parameters())


def test_adam_trains_a_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(
        constrain(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    x, label = torch.randn(32, 3, 6, 6), torch.arange(32) % 2
    x[label == 1] += x[label == 1].roll(1, dims=-1)  # class 1 is smoother along rows
    optimizer = geoopt.optim.RiemannianAdam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert error(model[0].weight, model[0].weight.manifold) <= 1e-6
    assert losses[-1] < 0.6 * losses[0]


# What torch does to modules and parameters


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_state_dict_round_trip(assign, swap, tmp_path):
    source, target = network(0), network(1)
    state = source.state_dict()
    assert state.keys() == {f"{i}.{kind}" for i in (0, 2, 4, 5) for kind in ("weight", "bias")}
    assert {type(value) for value in state.values()} == {torch.Tensor}
    torch.save(state, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    with swapping() if swap else contextlib.nullcontext():
        target.load_state_dict(loaded, assign=assign)
    assert_constrained(target)
    assert torch.equal(source(INPUT), target(INPUT))
    train(target, geoopt.optim.RiemannianSGD(target.parameters(), lr=0.05))
    assert_constrained(target)


def test_checkpoints_are_those_of_plain_layers():
    plain = nn.Sequential(nn.Linear(6, 3))
    plain.load_state_dict(nn.Sequential(GrassmannLinear(6, 3)).state_dict())
    assert nn.Sequential(GrassmannLinear(6, 3)).load_state_dict(plain.state_dict()) == ([], [])


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_off_the_manifold_is_refused(assign):
    model = network()
    good = {name: value.clone() for name, value in model.state_dict().items()}
    bad = {**good, "4.weight": 1.1 * good["4.weight"]}
    with pytest.raises(ValueError, match=r"^4\.weight in the state_dict .*X\^T X - I is 0\.21, above"):
        model.load_state_dict(bad, assign=assign)
    assert torch.equal(model[4].weight, good["4.weight"])
    with pytest.raises(ValueError, match=r"^4\.weight"):
        model.load_state_dict({**good, "4.weight": torch.full_like(good["4.weight"], torch.nan)}, assign=assign)
    # Rounded to bfloat16 it is off by what the next step removes.
    model.load_state_dict({name: value.bfloat16() for name, value in good.items()})
    assert error(model[4].weight, model[4].weight.manifold) > 1e-4
    train(model, geoopt.optim.RiemannianSGD(model.parameters(), lr=0.05), steps=1)
    assert_constrained(model)


def test_torch_reports_other_faults_of_a_checkpoint():
    model = network()
    state = model.state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for 2\.weight"):
        model.load_state_dict({**state, "2.weight": torch.zeros(2, 2)})
    del state["4.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).missing_keys == ["4.weight"]
    assert_constrained(model)


@pytest.mark.parametrize("swap", [False, True])
def test_conversion_of_dtype(swap):
    model = network()
    weight = model[0].weight
    with swapping() if swap else contextlib.nullcontext():
        model.double()
    assert model[0].weight is weight and weight.dtype == torch.float64  # an optimizer made before still holds it
    assert type(weight) is geoopt.ManifoldParameter and weight.manifold is constraints(model)["0.weight"]
    assert error(weight, weight.manifold) < 1e-6
    train(model, geoopt.optim.RiemannianAdam(model.parameters(), lr=0.01))
    assert_constrained(model)


@pytest.mark.parametrize("swap", [False, True])
def test_meta_and_back(swap):
    source, model = network(), network(1)
    with swapping() if swap else contextlib.nullcontext():
        model.to("meta")
        assert_constrained(model)
        model.load_state_dict(source.state_dict(), assign=True)
    assert_constrained(model)
    assert torch.equal(model(INPUT), source(INPUT))
    model.to("meta").to_empty(device="cpu").load_state_dict(source.state_dict())
    assert_constrained(model)


def test_born_on_meta():
    with torch.device("meta"):
        layer, convolution = GrassmannLinear(6, 3), constrain(nn.Conv2d(2, 3, 3))
    for module in (layer, convolution):
        assert module.weight.is_meta and module.weight.manifold is constraints(module)["weight"]
        module.load_state_dict(module.state_dict(), assign=True)  # nothing to check
        module.to_empty(device="cpu").reset_parameters()
        assert type(module.weight) is geoopt.ManifoldParameter and error(module.weight, module.weight.manifold) <= 1e-6


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda model: AveragedModel(model)], ids=["deep", "shallow", "average"]
)
def test_copies(copied):
    model = network()
    twin = copied(model)
    assert_constrained(twin)
    assert torch.equal(twin(INPUT), model(INPUT))
    if copied is copy.copy:
        return
    assert [type(m) for m in twin.modules() if m is not twin][-6:] == [type(m) for m in model.modules()][-6:]
    train(twin, geoopt.optim.RiemannianSGD(twin.parameters(), lr=0.05))
    assert_constrained(twin)
    # A copy shares nothing with its source, constraints included.
    assert not {id(value) for value in constraints(twin).values()} & {
        id(value) for value in constraints(model).values()
    }
    assert not torch.equal(twin(INPUT), model(INPUT))
    twin.to("meta")
    assert not model[0].weight.is_meta


def test_whole_modules_travel_to_other_processes(tmp_path):
    # Process launchers and torch.save of a whole module store it by its class, and that class has no name of its own.
    model = network()
    torch.save(model, tmp_path / "model.pt")
    twin = torch.load(tmp_path / "model.pt", weights_only=False)
    assert_constrained(twin)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(twin(INPUT), model(INPUT))


def test_functional_transforms():
    models = [network(seed) for seed in range(3)]
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")

    def loss(weights, x):
        return functional_call(skeleton, (weights, buffers), (x,)).square().mean()

    stacked = vmap(grad(loss), (0, None))(parameters, INPUT)
    for i, model in enumerate(models):
        model(INPUT).square().mean().backward()
        alone = grad(loss)(dict(model.named_parameters()), INPUT)
        for name, p in model.named_parameters():
            # Float32 sums of up to 100 terms of size 1, in another order.
            torch.testing.assert_close(alone[name], p.grad, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(stacked[name][i], p.grad, atol=1e-5, rtol=1e-5)
    assert_constrained(skeleton)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend):
    model, plain = network(), network()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for module in (compiled, plain):
        module(INPUT).square().mean().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-5)  # float32, in another order of summation
    assert set(constraints(compiled)) == {f"_orig_mod.{name}" for name in NAMES}
    train(compiled, geoopt.optim.RiemannianSGD(compiled.parameters(), lr=0.05), steps=3)
    assert_constrained(compiled)


def test_constraints_of_a_model():
    assert constraints(nn.Linear(3, 2)) == {}
    assert constraints(GrassmannLinear(3, 2)) == {"weight": WeightLayout(Grassmann(), True)}
    expected = {"0.weight": WeightLayout(Grassmann(), True, (3,)), "2.weight": WeightLayout(Grassmann(), True),
                "4.weight": WeightLayout(Grassmann(), False)}  # fmt: skip
    assert constraints(network()) == expected
    shared = GrassmannLinear(4, 2)
    assert set(constraints(nn.Sequential(shared, nn.Linear(2, 4), shared))) == {"0.weight"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_what_a_manifold_holds_moves_with_the_weight():
    b = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    layer = constrain(nn.Linear(3, 2), manifold=GeneralizedGrassmann(b)).to("cuda")
    optimizer = geoopt.optim.RiemannianSGD(layer.parameters(), lr=0.1)
    layer(torch.randn(4, 3, device="cuda")).square().mean().backward()
    optimizer.step()
    assert layer.weight.manifold.check_point_on_manifold(layer.weight)
