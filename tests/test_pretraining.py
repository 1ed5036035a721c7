"""`pretrain`: the user's own encoder, data and loss; the same as `train` where both can; resumed to the bit; refused before training."""

import re
import signal
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import grassmann_ssl
from grassmann_ssl import RiemannianAdam, RiemannianCG, load_encoder, pretrain
from grassmann_ssl.audit import CollapseError, CollapseMonitor
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import assemble
from grassmann_ssl.experiments.encoders.pretrain_config import Given, PretrainConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.nn import Teacher
from grassmann_ssl.objectives import objective
from grassmann_ssl.report.encoders.train import page
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome
from tests.commands import command
from tests.processes import start

X = torch.rand(48, 12, generator=torch.Generator().manual_seed(0))
QUICK = {"steps": 7, "records": 3, "hidden": 12, "dim": 4, "progress": False}


class Noisy(Dataset):
    """Rows of X and the same with noise, of the random states of torch and numpy; the type checks of the tests draw from Python's."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        a, b = torch.randn(12), np.random.randn(12).astype("float32")  # noqa: NPY002
        return X[i] + 0.1 * a, X[i] + 0.1 * torch.from_numpy(b), i


def loader(**settings):
    return DataLoader(Noisy(), **{"batch_size": 16, "shuffle": True, **settings})


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))


def pull(a, b):
    """A loss of one's own, invariant under rotations of z."""
    return (a - b).square().sum(1).mean() - (a @ a.T).square().mean().sqrt()


def coordinate(z, z_positive):
    """One that is not."""
    return (z - z_positive).square().mean() - z[:, 0].var()


def weights(outcome):
    return {name: value.clone() for name, value in outcome.model.state_dict().items()}


def assert_same(one, other):
    for name, value in weights(other).items():
        assert torch.equal(one.model.state_dict()[name], value), name
    for name, values in other.metrics.items():
        assert one.metrics[name].tobytes() == values.tobytes(), name


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "run"
    return pretrain(net(), loader(), pull, constraint="grassmann", out=folder, **QUICK)


def test_own_encoder_data_and_loss_leave_a_verdict_a_page_and_the_weights(first):
    assert first.audit.kind in {"none", "dimensional", "undecided"} and first.audit.dimension == 4
    assert list(first.history["step"]) == list(first.metrics["step"]) and len(first.history) >= 3
    assert first.record["own"] == ["data", "encoder", "objective"]
    assert {"objective": "pull", "encoder": "Sequential", "data": "DataLoader"}.items() <= first.record[
        "config"
    ].items()
    assert (first.folder / "report.html").read_text().count("<figure>") == 2 and first.report().name == "report.html"
    last = first.model.projector[-1].weight.detach()
    assert (last @ last.T - torch.eye(4)).abs().max() < 1e-6
    assert not first.model.training


def test_the_encoder_is_brought_back_with_the_modules_of_the_user(first):
    loaded = load_encoder(first.folder, encoder=net(5))
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), weights(first).values(), strict=True))
    assert torch.equal(loaded(X), first.model(X))
    with pytest.raises(ConfigError, match=r"encoder: .* was trained with your own Sequential: give it, encoder="):
        load_encoder(first.folder)
    with pytest.raises(ConfigError, match=r"projector: that of .* is mlp, made from its settings; give none"):
        load_encoder(first.folder, encoder=net(), projector=nn.Linear(16, 4))
    with pytest.raises(ConfigError, match=r"does not fit run.json: encoder.0.bias is"):
        load_encoder(first.folder, encoder=nn.Linear(12, 16))


def test_the_same_call_gives_the_same_bits_and_leaves_the_random_states(first):
    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    state = torch.get_rng_state()
    encoder = net()
    torch.set_rng_state(state)
    again = pretrain(encoder, loader(), pull, constraint="grassmann", **QUICK)
    found = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    assert torch.equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    assert_same(again, first)
    other = pretrain(net(), loader(), pull, constraint="grassmann", seed=2, **QUICK)
    assert not torch.equal(other.model.encoder[0].weight, first.model.encoder[0].weight)


class Stopping(nn.Module):
    """A part of an encoder that fails at its n-th training pass, as a killed process does."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def forward(self, x):
        self.left -= self.training
        if self.left == 0:
            raise ZeroDivisionError
        return x


class Endless:
    """An iterable without a length, whose epochs have two batches."""

    def __iter__(self):
        return (views for views, _ in zip(loader(), range(2), strict=False))


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "at", "settings"),
    [
        (loader, 4, {}),
        (partial(loader, generator=torch.Generator()), 6, {}),
        (Endless, 4, {}),
        (Endless, 5, {"accumulate": 2, "teacher": 0.9, "objective": "negative_cosine"}),
    ],
)
def test_a_run_that_failed_goes_on_to_the_same_bits(data, at, settings, tmp_path):
    settings = {"objective": pull, **settings, **QUICK, "save_every": 1}
    passes = 2 * settings.get("accumulate", 1)

    def call(folder, left):
        encoder = net()
        encoder.append(Stopping(left))
        return pretrain(encoder, data(), out=folder, **settings)

    whole = call(tmp_path / "whole", -1)
    with pytest.raises(ZeroDivisionError):
        call(tmp_path / "run", passes * at + 1)
    rest = call(tmp_path / "run", -1)
    assert rest.resumed == f"at step {at} of 7"
    assert_same(rest, whole)
    stored = [load_file(one.folder / "weights.safetensors") for one in (rest, whole)]
    assert all(np.array_equal(stored[0][name], stored[1][name]) for name in stored[1])


@pytest.mark.long
def test_names_give_what_the_command_gives(tmp_path):
    settings = {"steps": 3, "batch": 32, "records": 2, "constraint": "stiefel"}
    one = pretrain("conv", "digits", "vicreg", progress=False, lr=1e-3, **settings)
    config = TrainConfig.of(objective="vicreg", lr=1e-3, out=tmp_path / "run", **settings)
    assert_same(one, run(config, page=False))


def test_pretrain_without_a_folder_writes_nothing_until_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = pretrain(net(), loader(), pull, **QUICK)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"runs/pretrain holds no run: outcome.save\(folder\) writes one"):
        outcome.report()
    assert outcome.save("kept") == outcome.folder and outcome.report().exists()
    assert Outcome.load(outcome.folder).record["verdict"]["judgement"] == outcome.record["verdict"]["judgement"]
    with pytest.raises(ConfigError, match="kept holds another run"):
        outcome.save("kept")
    outcome.save("kept", overwrite=True)


@pytest.mark.long
def test_parts_as_values(tmp_path):
    """A manifold, a projector, a predictor and an optimizer of one's own; brought back with them."""
    head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    outcome = pretrain(
        net(), loader(), lambda prediction, target: (prediction - target.detach()).square().mean(), projector=head,
        predictor=nn.Linear(3, 3), constraint=Stiefel(), optimizer=lambda p: RiemannianAdam(p, lr=0.01), out=tmp_path / "run",
        steps=5, records=2, progress=False,
    )  # fmt: skip
    assert outcome.record["config"]["dim"] == 3 and outcome.record["constrained"] == ["projector.2"]
    assert np.allclose(outcome.metrics["time"][:2], [0, 0.01])
    given = {"projector": nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))}
    loaded = load_encoder(outcome.folder, encoder=net(1), predictor=nn.Linear(3, 3), constraint=Stiefel(), **given)
    assert torch.equal(loaded.projector(loaded(X)), outcome.model.projector(outcome.model(X)))


def frozen():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def test_a_teacher_of_ones_own_stays_as_it_is_and_comes_back(tmp_path):
    teacher, before = frozen(), frozen().eval()
    settings = {"constraint": "grassmann", "predictor": "directpred", "teacher": teacher}
    outcome = pretrain(net(), loader(), "negative_cosine", out=tmp_path / "run", **settings, **QUICK)
    assert outcome.record["config"]["teacher"] == "Sequential" and outcome.model.teacher is teacher
    assert all(
        torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), before.state_dict().values(), strict=True)
    )
    loaded = load_encoder(
        outcome.folder, encoder=net(1), teacher=nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    )
    assert torch.equal(loaded.teacher(X), before(X))
    with pytest.raises(ConfigError, match=r"teacher: .* was trained with your own Sequential: give it, teacher="):
        load_encoder(outcome.folder, encoder=net())


def test_a_teacher_made_of_the_model_is_told_of_every_step():
    made = []

    class Counting(Teacher):
        def update(self, model):
            made.append(model)
            super().update(model)

    settings = {**QUICK, "constraint": "grassmann"}
    outcome = pretrain(
        net(), loader(), "negative_cosine", teacher=lambda model: Counting(model, momentum=0.0), **settings
    )
    assert len(made) == 7 and made[0][0] is outcome.model.encoder
    a, b = outcome.model.teacher.model[0].state_dict(), outcome.model.encoder.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_layers_by_pattern():
    outcome = pretrain(net(), loader(), pull, constraint="stiefel", where="encoder.*", **QUICK)
    assert outcome.record["constrained"] == ["encoder.0"]
    outcome = pretrain(net(), loader(), pull, constraint="grassmann", where="projector.3", **QUICK)
    assert outcome.record["constrained"] == ["projector.3"] and outcome.record["verdict"]["guaranteed"]
    with pytest.raises(
        ConfigError, match=r"constraint grassmann on the encoder.* layers: .*no function on the Grassmannian"
    ):
        pretrain(net(), loader(), pull, constraint="grassmann", where="encoder.*", **QUICK)


class Recurrent(nn.GRU):
    def __init__(self):
        super().__init__(12, 8, batch_first=True)

    def forward(self, x):
        return super().forward(x)[1][0]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 12)

    def forward(self, tokens):
        return self.table(tokens).mean(1)


def crops(sizes):
    images = torch.rand(len(sizes), 32, 3, 8, 8)
    return [tuple(x[:, :, :size, :size] for x, size in zip(images, sizes, strict=True))] * 3


@pytest.mark.parametrize(
    ("encoder", "data", "count"),
    [
        (Tokens(), [(torch.randint(0, 20, (32, 5)), torch.randint(0, 20, (32, 5)), torch.arange(32))] * 2, 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 8)), [{"x": torch.rand(32, 5, 12), "y": torch.rand(32, 5, 12), "label": 1}] * 2, 2),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), crops([8, 8, 5, 5]), 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 8)), [([torch.rand(32, 12)] * 2, torch.arange(32))] * 2, 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 8)), DataLoader(TensorDataset(X, X + 0.1), 16), 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 8)), lambda: iter([(X, X + 0.1)]), 2),
        (Recurrent(), [tuple(torch.rand(2, 32, length, 12)) for length in (5, 7)], 2),
    ],
)  # fmt: skip
def test_data_of_any_kind(encoder, data, count):
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    outcome = pretrain(encoder, data, "nt_xent", **QUICK)
    # A shift of all rows has no gradient through the batch norm of the projector.
    assert all(not torch.equal(p, before[name]) for name, p in encoder.named_parameters() if not name.endswith("bias"))
    assert any(one.measured.startswith(f"{count} views of a batch") for one in outcome.findings if one.measured)


def test_the_monitor_sees_every_step_and_changes_nothing(first):
    monitor = CollapseMonitor(every=1)
    watched = pretrain(net(), loader(), pull, constraint="grassmann", monitor=monitor, **QUICK)
    assert [one.step for one in monitor.judgements] == list(range(1, 8))
    assert_same(watched, first)
    with pytest.raises(CollapseError):
        collapsing = CollapseMonitor(every=1, patience=1, on_collapse="raise")
        pretrain(nn.Sequential(nn.Linear(12, 16), nn.ReLU()), [(1e-9 * X, X * 0)], lambda a, b: (a - b).square().mean() * 1e9,
                 monitor=collapsing, head="standard", **QUICK)  # fmt: skip


def test_representations_are_probed_where_there_are_labels():
    y = (X[:, 0] > 0.5).long()
    outcome = pretrain(net(), loader(), pull, probe=(X[:32], y[:32], X[32:], y[32:]), **QUICK)
    assert outcome.record["tested"] == 16 and set(outcome.record["probes"]) == {"knn", "ridge", "logistic"}
    drawn, found = page(outcome), [str(one.measured) for one in outcome.findings]
    said = " ".join([drawn.title, drawn.lede, *(one.caption for one in drawn.sections), *found])
    assert "on 16 test samples" in said and not re.search("image|picture|pixel", said)  # rows are vectors here
    assert pretrain(net(), loader(), pull, **QUICK).record["probes"] is None


class Detached(nn.Linear):
    def __init__(self):
        super().__init__(12, 16)

    def forward(self, x):
        return super().forward(x).detach()


def broken():
    layer = nn.Linear(12, 16)
    layer.weight.data[0, 0] = torch.nan
    return layer


def seen():
    monitor = CollapseMonitor()
    monitor.update(X)
    return monitor


BAD = [
    ({"steps": 0}, "steps must be"),
    ({"stepz": 5}, "pretrain has no argument 'stepz'; did you mean steps?"),
    ({"batch": 4}, "batch: your data make the batches"),
    ({"overwrite": True}, "overwrite has no effect without out"),
    ({"crops": 2}, "crops = 2 has no effect with data DataLoader, which are views already"),
    ({"encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), "data": [(torch.rand(9, 8, 8), torch.rand(9, 8, 8), torch.rand(9, 4, 4))]},
     "encoder Sequential cannot take the small crops of 4 x 4: mat1 and mat2"),
    ({"augmentation": "simclr"}, "augmentation = simclr has no effect with data DataLoader"),
    ({"data": (b for b in [])}, "data: a generator can be gone through once only"),
    ({"data": []}, "data: there is no batch in it"),
        ({"data": [X]}, "data: a batch must hold two views or more"),
    ({"data": [(X[:1], X[:1])]}, "data: a batch has one row, which no loss compares: (float32 (1, 12), float32 (1, 12)); leave it out"),
    ({"data": [(X.to_sparse(), X.to_sparse())]}, "got (sparse float32 (48, 12), sparse float32 (48, 12)); `views` says which"),
    ({"data": [(X[:1].expand(9, 12), X[:9])]}, "data: the 9 rows of an epoch that were looked at are all the same"),
    ({"views": lambda batch: batch[0]}, "data: views must return a tuple or list of views, got float32 (16, 12)"),
    ({"views": lambda batch: batch["x"]}, "data: views fails on a batch of (float32 (16, 12), float32 (16, 12), int64 (16,)): TypeError: "),
    ({"data": [(X, X[:5])]}, "data: the views of a batch must be tensors (n, ...) of one n and one type"),
    ({"data": [(X, X[:, :5])]}, "data: the first two views must have one shape"),
    ({"views": ("a", "b")}, "data: views = ['a', 'b'] are not in a batch of ("),
    ({"encoder": nn.Linear(5, 3)}, "encoder Linear cannot take the views of 12: mat1 and mat2"),
    ({"encoder": nn.Unflatten(1, (3, 4))}, "encoder Unflatten must return a tensor (n, k), one row a view, got shape (2, 3, 4)"),
    ({"encoder": Detached()}, "encoder Detached passes no gradient to its weights: is its output detached, or made under no_grad?"),
    ({"encoder": nn.Linear(12, 16, device="meta")}, "device: 'meta' is not supported"),  # it is where the encoder is
    ({"encoder": broken()}, "encoder Linear returns what is not finite, of views that are: look at its weights"),
    ({"encoder": nn.Linear(12, 16).requires_grad_(False), "projector": nn.Identity()}, "there is nothing to train: no weight of"),
    ({"objective": lambda z, labels: z.sum()}, "objective: <lambda> takes labels: a loss gets the embeddings of two views alone"),
    ({"objective": lambda a, b, c: a}, "objective: <lambda> must take the embeddings of two views"),
    ({"objective": lambda a, b: a}, "objective: <lambda> must return one number, a tensor of shape (), got shape (64, 4)"),
    ({"objective": lambda a, b: a.sum() / 0}, "objective: <lambda> is "),
    ({"objective": lambda a, b: a @ b}, "objective: <lambda> fails on embeddings of 64 x 4: RuntimeError: "),
    ({"objective": coordinate, "constraint": "grassmann"}, "constraint grassmann: coordinate is not rotation-invariant"),
    ({"objective": coordinate, "constraint": Grassmann()}, "coordinate is not rotation-invariant"),
    ({"objective": "euclidean", "predictor": nn.Linear(5, 5)}, "predictor cannot take the embeddings of 4: mat1 and mat2"),
    ({"objective": "euclidean", "predictor": nn.Linear(4, 5)}, "predictor: its predictions have 5 dimensions, and the embeddings"),
    ({"encoder": net().half(), "data": [(X.half(), X.half())], "objective": "euclidean", "predictor": "directpred"},
     "predictor directpred needs an encoder in float32 or float64, got float16"),
    ({"predictor": nn.Linear(4, 4)}, "pull compares two embeddings: it takes no predictor"),
    ({"teacher": nn.Linear(12, 4)}, "pull compares two embeddings: it takes no predictor and no teacher"),
    ({"objective": "euclidean", "teacher": nn.Linear(12, 3)}, "teacher: its targets have 3 dimensions, and the embeddings have dim = 4"),
    ({"objective": "euclidean", "teacher": nn.Linear(9, 4)}, "teacher cannot take the views of 12"),
    ({"objective": "euclidean", "teacher": lambda m: m}, "teacher: encoder.0.weight is a weight of the teacher and of the model that is"),
    ({"objective": "euclidean", "teacher": lambda m: 3}, "teacher: <lambda> must make a torch.nn.Module of the model, got int"),
    ({"projector": nn.Linear(9, 4)}, "encoder and projector cannot take the views of 12"),
    ({"projector": nn.Linear(16, 4), "hidden": 32}, "hidden = 32 has no effect with a projector of your own"),
    ({"constraint": "grassmann", "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)},
     "optimizer: online.projector.4.weight is on a manifold, and torch's SGD would take it off"),
    ({"optimizer": lambda p: torch.optim.SGD(p[1:], lr=0.1)}, "optimizer: the optimizer does not step online."),
    ({"optimizer": lambda p: [torch.optim.SGD(p, lr=0.1)] * 2}, "would be stepped twice"),
    ({"optimizer": lambda p: torch.optim.SGD([*p, nn.Parameter(X)], lr=0.1)}, "optimizer: the optimizer steps parameters that are not of"),
    ({"optimizer": lambda p: RiemannianCG(p), "constraint": "grassmann"}, "optimizer: RiemannianCG takes the loss several times a step"),
    ({"optimizer": lambda p: 3}, "optimizer: <lambda> must return an optimizer of torch's kind, got int"),
    ({"constraint": "stiefel", "where": "nothing.*"}, "constraint: the model has no layer for where = 'nothing.*'"),
    ({"probe": (X, X[:, 0], X, X)}, "probe: x_test and y_test must be as many inputs as labels"),
    ({"schedule": lambda step: None}, "schedule: float() argument must be a string or a real number, not 'NoneType'"),
    ({"schedule": lambda step: 1.0, "warmup": 2}, "warmup = 2 has no effect with a schedule of your own"),
    ({"seed": -1}, "seed must be an integer from 0 to 2^63 - 1, got -1"),
    ({"num_epochs": 3}, "pretrain has no argument 'num_epochs'; did you mean epochs?"),
    ({"objective": "dcl", "temperature": 0.2}, "'temperature'; an option follows the name of its objective: dcl:temperature=0.2"),
    ({"epochs": 0}, "epochs must be a whole number from 1 on, got 0"),
    ({"epochs": 1, "accumulate": 5}, "epochs = 1 have 3 batches, fewer than one step takes: accumulate = 5"),
    ({"monitor": seen()}, "monitor: it has seen 1 steps of another training: give a new one"),
    ({"epochs": 2, "steps": 3}, "epochs and steps are both given"),
    ({"objective": lambda a, b: (a - b).detach().sum()}, "objective: <lambda> passes no gradient to the embeddings"),
    ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "lr": 0.1}, "lr = 0.1 has no effect with an optimizer of your own"),
    ({"data": [(X * torch.nan, X)]}, "data: the views of its first batch are not finite"),
    ({"data": [{"input_ids": X, "attention_mask": X}]}, "attention_mask may be no view: say which are, views=(NAME, NAME)"),
    ({"data": [(X, X, X[:, :3])]}, "and all where rows are vectors, got (float32 (48, 12), float32 (48, 12), float32 (48, 3))"),
    ({"data": DataLoader(TensorDataset(X[:33], X[:33]), 16)}, "data: the last batch of an epoch has 1 row, which no loss compares"),
    ({"probe": (X, X[:, 0], X, X[:, 0])}, "probe: labels must be integers and inputs finite, got x and y that are not"),
    ({"probe": (X, torch.zeros(48).long(), X, torch.ones(48).long())}, "probe: y_test has the class 1, which y has not"),
    ({"projector": nn.Sequential(nn.Linear(16, 4), nn.ReLU()), "constraint": "grassmann"},
     "constraint: grassmann is for the layer that makes z, and z is not the output of projector.0, the last linear layer"),
]  # fmt: skip


@pytest.mark.slow  # without the checks of types, which would see them first
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"objective": None},
            "objective must be a function or module of two embeddings, an Objective, or a name, got NoneType",
        ),
        ({"encoder": nn.Linear}, "encoder must be a torch.nn.Module or a name, got type"),
        ({"predictor": 3}, "predictor must be a torch.nn.Module or a name, got int"),
        (
            {"teacher": "ema"},
            "teacher must be a momentum, a torch.nn.Module, or a function from the model to one, got str",
        ),
        ({"teacher": True}, "teacher must be a number, got True"),
        ({"constraint": nn.Linear(3, 3)}, "constraint must be a manifold of geoopt or a name, got Linear"),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(2)], lr=1.0)},
            "optimizer must be a function from the list of all parameters, such as",
        ),
        (
            {"data": TensorDataset(X, X)},
            "data must be batches of views, such as a DataLoader, or a name, got TensorDataset",
        ),
        ({"monitor": True}, "monitor must be a CollapseMonitor, got bool"),
        ({"views": 1}, "data: views must be places or keys of a batch, or a function from a batch to its views, got 1"),
        (
            {"probe": (X, ["a"] * 48, X, ["a"] * 48)},
            "probe must hold tensors or arrays of numbers: too many dimensions 'str'",
        ),
        ({"probe": DataLoader(TensorDataset(X))}, "probe must be (x, y, x_test, y_test), got DataLoader"),
        ({"out": 3}, "out must be a path, got int"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
    ],
)
def test_other_types_are_refused_by_name(change, message):
    settings = {"encoder": net(), "data": loader(), "objective": pull, **QUICK, **change}
    with pytest.raises(ConfigError, match=re.escape(message)):
        pretrain(**settings)


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_does_not_fit_is_refused_before_training_in_one_line(change, message):
    settings = {"encoder": net(), "data": loader(), "objective": pull, **QUICK, **change}
    if "projector" in change and "hidden" not in change:
        settings.pop("hidden"), settings.pop("dim")
    elif "projector" in change:
        settings.pop("dim")
    if "epochs" in change and "steps" not in change:
        settings.pop("steps")
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        pretrain(**settings)
    assert "\n" not in str(refused.value)


def test_it_is_called_where_gradients_are():
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context, pytest.raises(ConfigError, match="call it outside of"):
            pretrain(net(), loader(), pull, **QUICK)


class Tied(nn.Module):
    """Two layers of one weight, of a size that is known from the first input."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.other = nn.LazyLinear(12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(torch.relu(self.one(self.first(x))))


def test_lazy_and_tied_weights_and_a_schedule_of_ones_own(tmp_path):
    outcome = pretrain(
        Tied(),
        loader(),
        pull,
        constraint="stiefel",
        where="encoder.o*",
        schedule=lambda step: 0.5**step,
        **QUICK,
    )
    weight = outcome.model.encoder.one.weight.detach()
    assert outcome.record["constrained"] == ["encoder.one", "encoder.other"]
    assert outcome.model.encoder.other.weight is outcome.model.encoder.one.weight
    assert (weight @ weight.T - torch.eye(12)).abs().max() < 1e-5
    assert outcome.metrics["time"][-1] == pytest.approx(0.05 * (2 - 0.5**6) / (1 - 0.9))
    assert torch.equal(load_encoder(outcome.save(tmp_path / "run"), encoder=Tied())(X), outcome.model(X))


class Crossed(nn.Module):
    """A head whose layers are not used in the order in which they are made."""

    def __init__(self):
        super().__init__()
        self.last, self.first, self.unused = nn.Linear(8, 4, bias=False), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, h):
        return self.last(torch.relu(self.first(h)))


def test_the_last_layer_is_the_one_that_makes_z():
    settings = {"steps": 3, "records": 2, "progress": False}
    outcome = pretrain(net(), loader(), pull, projector=Crossed(), constraint="grassmann", **settings)
    last = outcome.model.projector.last.weight.detach()
    assert outcome.record["constrained"] == ["projector.last"] and (last @ last.T - torch.eye(4)).abs().max() < 1e-6
    assert outcome.findings[0].predicted.startswith("W has rank 4 by construction (8 features in)")
    outcome = pretrain(net(), loader(), pull, projector=nn.Linear(16, 4), constraint="grassmann", **settings)
    assert outcome.record["constrained"] == ["projector"]


def test_muon_steps_the_layer_that_makes_z():
    given = Given(encoder=net(), projector=Crossed())
    config = PretrainConfig.of(encoder="net", given=given, dim=4, optimizer="muon")
    arm = assemble(config, X[:2], Process(0, 1, torch.device("cpu")))
    (lifted,) = arm.optimizers[-1].param_groups[0]["params"]
    assert lifted is arm.method.projector.last.weight


def test_what_is_constrained_already_is_said_and_stays(capsys):
    settings = {"steps": 3, "records": 2, "progress": False}
    head = nn.Linear(16, 4, bias=False)
    for constraint in ("grassmann", "grassmann", "none"):  # a second call finds it where the first one left it
        outcome = pretrain(
            net(),
            loader(),
            pull,
            projector=head,
            constraint=constraint,
            optimizer=lambda p: RiemannianAdam(p, lr=0.01),
            **settings,
        )
        assert outcome.record["constrained"] == ["projector"]
        assert ("constrained already, and stays so: projector" in capsys.readouterr().err) == (constraint == "none")


def test_a_last_layer_that_widens_guarantees_nothing():
    outcome = pretrain(
        net(),
        loader(),
        pull,
        projector=nn.Linear(16, 20, bias=False),
        constraint="stiefel",
        steps=3,
        records=2,
        progress=False,
    )
    assert outcome.record["verdict"]["guaranteed"] == [] and outcome.record["constrained"] == ["projector"]


def test_more_records_than_steps_cost_nothing():
    assert len(pretrain(net(), loader(), pull, **{**QUICK, "records": 10**9}).history) == 8


def test_epochs():
    outcome = pretrain(
        "mlp",
        loader(),
        pull,
        epochs=2,
        lr=np.float32(0.01),
        **{name: value for name, value in QUICK.items() if name != "steps"},
    )
    assert outcome.record["steps_done"] == 6


OWN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
def make(in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 16))
def my_loss(a, b):
    return (a - b).square().sum(1).mean() - (a @ a.T).square().mean().sqrt()
def views():
    x = torch.rand(64, 1, 8, 8)
    return DataLoader(TensorDataset(x, x + 0.1), 16)
broken = 3
"""


@pytest.mark.long
def test_own_parts_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    quick = ("--steps", 3, "--records", 2, "--hidden", 12, "--dim", 4)
    done = command(
        "train",
        "--encoder",
        "mine:make",
        "--objective",
        "mine:my_loss",
        "--constraint",
        "grassmann",
        *quick,
        "--batch",
        32,
    )
    assert done.returncode == 0, done.stderr
    assert Outcome.load(tmp_path / "runs/train").record["own"] == ["encoder", "objective"]
    done = command("train", "--encoder", "mine:make", "--data", "mine:views", *quick, "--out", "own")
    assert done.returncode == 0, done.stderr
    for arguments, message in (
        (("--encoder", "mine:broken"), "encoder: mine:broken must be callable, got int"),
        (("--encoder", "mine:maker"), "encoder: mine:maker: mine has no 'maker'; did you mean make?"),
        (("--objective", "nobody:loss"), "objective: nobody:loss: nobody cannot be imported: ModuleNotFoundError: No module"),
        (("--encoder", "mine:make", "--stem", "stl"), "stem = stl has no effect with encoder mine:make"),
        (("--data", "mine:views", "--augmentation", "simclr"), "augmentation = simclr has no effect with data mine:views"),
    ):  # fmt: skip
        done = command("train", *arguments, *quick, "--out", "bad")
        assert done.returncode == 2 and message in done.stderr, done.stderr
    with pytest.raises(ConfigError, match=r"encoder: .* was trained with your own mine:make: give it"):
        load_encoder("own")


def in_process(rank, world, store, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    encoder = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU())
    torch.manual_seed(0)
    encoder[0].reset_parameters()
    outcome = pretrain(encoder, loader(), objective("nt_xent"), constraint="grassmann", **QUICK)
    assert (outcome is None) == (rank > 0)
    if outcome is not None:
        torch.save(outcome.model.state_dict(), path)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_every_batch(tmp_path):
    for world in (1, 2):
        start(in_process, (world, tmp_path / f"store{world}", tmp_path / f"{world}.pt"), world)
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    for name in one:
        assert torch.allclose(one[name].double(), two[name].double(), rtol=1e-4, atol=1e-5), name


def test_it_is_found_at_the_top():
    assert grassmann_ssl.pretrain is pretrain and signal.getsignal(signal.SIGINT) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constraint": Grassmann(), "objective": coordinate}, "rotation-invariant"),
        ({"constraint": "feature-orthonormal", "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, "optimizer"),
        ({"constraint": "parametrization", "online_probes": True}, "online_probes"),
        ({"constraint": "stiefel", "online_probes": True, "predictor": nn.Linear(4, 4)}, "."),
    ],
)
def test_a_refused_call_leaves_the_modules_as_they_were(settings, message):
    encoder, head = net(), nn.Linear(16, 4)
    head.register_forward_hook(lambda *_: None)
    head.weight.grad = torch.ones_like(head.weight)
    before = {name: value.clone() for name, value in [*encoder.state_dict().items(), *head.state_dict().items()]}
    weight, gradient = head.weight, head.weight.grad
    with pytest.raises(ConfigError, match=message):
        pretrain(encoder, loader(), **{"objective": pull, **settings}, projector=head, steps=3, progress=False)
    assert type(head) is nn.Linear and type(weight) is nn.Parameter and head.weight is weight
    assert weight.grad is gradient and len(head._forward_hooks) == 1 and not head._forward_pre_hooks
    after = dict([*encoder.state_dict().items(), *head.state_dict().items()])
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert list(head.__dict__) == list(nn.Linear(16, 4).__dict__)
    pretrain(encoder, loader(), pull, projector=head, steps=3, records=2, progress=False)


def test_an_encoder_in_float64_gets_a_head_in_float64():
    x = X.double()
    outcome = pretrain(net().double(), [(x, x + 0.1 * torch.rand_like(x))], "vicreg", predictor="none", **QUICK)
    assert {p.dtype for p in outcome.model.parameters()} == {torch.float64}
    outcome = pretrain(net().double(), [(x, x + 0.1)], "tico", predictor="mlp", **QUICK)
    assert {p.dtype for p in outcome.model.parameters()} == {torch.float64}
