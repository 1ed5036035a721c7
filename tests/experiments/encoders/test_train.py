"""The experiments `train` and `compare-encoders`: what trains, what is kept, several processes, refusals, and what a run leaves."""

import copy
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

from grassmann_ssl import cli
from grassmann_ssl.audit import Rule, audit_embeddings
from grassmann_ssl.data.batches import Split, Views, augmentations, load_split
from grassmann_ssl.data.presets import PRESETS
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders import evaluation, fitting, material
from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig
from grassmann_ssl.experiments.encoders.encoder_arms import assemble
from grassmann_ssl.experiments.encoders.material import Pictures
from grassmann_ssl.experiments.encoders.train_config import CHOICES, TrainConfig
from grassmann_ssl.metrics.eigenspaces import eigenspaces
from grassmann_ssl.metrics.probes import ridge_probe
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.nn.joint_embedding import embeddings
from grassmann_ssl.nn.placement import PLACES
from grassmann_ssl.nn.predictors import PREDICTORS, PredictorOptions, matrix_of
from grassmann_ssl.objectives import EMBEDDING_LOSSES, objective
from grassmann_ssl.optim.table import OPTIMIZERS
from grassmann_ssl.report import draw, page_of
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome, unfinished
from grassmann_ssl.runs.folder import write_json
from grassmann_ssl.training import Interrupted
from grassmann_ssl.training.watch import Diverged
from tests.commands import command
from tests.experiments.progress import Interrupting
from tests.readme import BIN, ROOT

ALONE = Process(0, 1, torch.device("cpu"))
LIKE = torch.zeros(2, 1, 8, 8)
QUICK = {"steps": 4, "batch": 32, "records": 4, "objective": "negative_cosine"}


@pytest.fixture(scope="module")
def split():
    whole = load_split("digits", torch.Generator().manual_seed(1))
    return Split(whole.train[:96], whole.train_labels[:96], whole.test[:60], whole.test_labels[:60])


@pytest.fixture
def few(monkeypatch, split):
    """Runs on few images."""
    monkeypatch.setattr(material, "load_split", lambda *_, **__: split)


def fit(config, split, *more):
    """Training on the images of a split."""
    return fitting.fit(config, Pictures(config, split, ALONE), ALONE, *more)


def collapse_verdict(config, arm, split):
    return evaluation.collapse_verdict(arm, Pictures(config, split, ALONE))


def weights(arm):
    return {name: value.detach().clone() for name, value in arm.method.state_dict().items()}


def quick(**settings):
    return TrainConfig.of(**(QUICK | settings))


def rows_of(weight):
    matrix = weight.flatten(1)
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constraint", "optimizer"), [(name, other) for name, one in CONSTRAINTS.items() for other in one.optimizers]
)
def test_constraints_hold_whatever_steps(constraint, optimizer, split):
    config = quick(constraint=constraint, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 0.01)
    before = weights(assemble(config, LIKE, ALONE))
    arm = fit(config, split).arm
    after = weights(arm)
    moved = [
        name for name in after if after[name].dtype.is_floating_point and not torch.equal(after[name], before[name])
    ]
    assert any("online.encoder.0" in name for name in moved) and any("online.projector" in name for name in moved)
    last = arm.method.projector.last.weight.detach()
    error = (rows_of(last) - torch.eye(8)).abs().max()
    declared = CONSTRAINTS[constraint]
    assert (torch.linalg.matrix_rank(last) == 8) or not declared.rank_of_w
    if declared.orthonormal:
        assert error < 50 * torch.finfo(torch.float32).eps
    elif declared.rank_of_z:
        metric = arm.feature_layer.metric
        assert (last @ metric @ last.T - torch.eye(8)).abs().max() < 1e-3  # the condition of the metric, times eps
        assert error > 1e-2
    else:
        assert error > 1e-2
    assert bool(arm.constrained) == (declared.rank_of_w or declared.in_loss) == (constraint != "none")


@pytest.mark.parametrize(
    ("constraint", "optimizer"),
    [(name, other) for name, one in CONSTRAINTS.items() for other in OPTIMIZERS if other not in one.optimizers],
)
def test_optimizers_that_do_not_go_with_a_constraint_are_refused(constraint, optimizer):
    with pytest.raises(
        ConfigError, match=rf"constraint {constraint}, |constraint {constraint} is stepped by|with {constraint}$"
    ):
        quick(constraint=constraint, optimizer=optimizer)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_objectives_predictors_and_places_are_refused_as_the_table_says(constraint):
    declared = CONSTRAINTS[constraint]
    for refused, settings in (
        (declared.subspace, {"objective": "vicreg"}),
        (declared.subspace, {"predictor": "mlp"}),
        (False, {"predictor": "linear"}),
        (False, {"objective": "barlow_twins"}),
        *((place not in declared.places, {"where": place}) for place in PLACES if constraint != "none"),
    ):
        if refused:
            with pytest.raises(ConfigError, match=f"^constraint {constraint}"):
                quick(constraint=constraint, **settings)
        else:
            assert quick(constraint=constraint, **settings).constraint == constraint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"predictor": "linear", "predictor_alpha": 0.7},
            "predictor_alpha = 0.7 .* with predictor linear: .* option of directset$",
        ),
        ({"predictor": "directpred", "predictor_alpha": 0.7}, "option of directset$"),
        (
            {"predictor_rho": 0.7},
            "with predictor none: it is an option of directpred, directpred-code, directset, directcopy$",
        ),
        ({"predictor_rate": 2.0}, "predictor_rate = 2.0 has no effect with predictor none, which is not trained$"),
        ({"predictor": "directcopy", "predictor_rate": 2.0}, "with predictor directcopy, which is not trained$"),
        (
            {"predictor": "linear", "optimizer": "muon", "where": "last", "predictor_rate": 0.0},
            "predictor_rate must be finite and > 0",
        ),
        ({"penalty": 2.0}, "penalty = 2.0 has no effect with constraint none: it is an option of penalty$"),
        ({"constraint": "stiefel", "penalty": 2.0}, "with constraint stiefel: it is an option of penalty$"),
        ({"optimizer": "adam", "momentum": 0.5}, "with optimizer adam: it is an option of sgd, lars, muon$"),
        ({"where": "conv"}, "where = conv has no effect with constraint none"),
        ({"constraint": "grassmann", "init_scale": 0.1}, "init_scale = 0.1 has no effect with constraint grassmann"),
        ({"stem": "stl"}, "stem = stl has no effect with encoder conv"),
        ({"save_every": 0}, "save_every must be finite and >= 1, got 0"),
        ({"width": 0}, "width must be finite and >= 1, got 0"),
        ({"encoder": "torch.nn:Flatten", "width": 4}, "width = 4 has no effect with encoder torch.nn:Flatten"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        quick(**settings)


@pytest.mark.parametrize(("encoder", "features"), [("conv", 16), ("mlp", 3), ("resnet18", 24)])
def test_the_width_is_that_of_the_encoder(encoder, features):
    arm = assemble(quick(encoder=encoder, width=3 if encoder != "conv" else 1), LIKE, ALONE)
    assert arm.method.online.encoder.out_features == features


def test_options_reach_what_they_are_of(split):
    config = quick(predictor="directset", predictor_alpha=0.7, predictor_every=2, momentum=0.5, weight_decay=0.1)
    arm = assemble(config, LIKE, ALONE)
    assert quick(objective="swav:prototypes=30:epsilon=0.1").loss().given == {"prototypes": 30, "epsilon": 0.1}
    seeds = [quick(objective=name, seed=4).loss().options["seed"] for name in ("lejepa", "lejepa:seed=7")]
    assert seeds == [4, 7]  # that of the run, where none is given
    assert (arm.method.predictor.alpha, arm.method.predictor.every, arm.method.predictor.rho) == (0.7, 2, 0.3)
    assert {(g["momentum"], g["weight_decay"]) for g in arm.optimizers[0].param_groups} == {(0.5, 0.1), (0.5, 0.0)}
    trained = quick(predictor="directset", predictor_every=2, predictor_rate=3.0)
    groups = assemble(trained, LIKE, ALONE).optimizers[0].param_groups
    assert [group["lr"] / trained.lr for group in groups if group["params"]] == pytest.approx([1, 1, 3])
    losses = [
        assemble(quick(constraint="penalty", penalty=p), LIKE, ALONE).method(*[split.train[:32] / 255] * 2)
        for p in (1.0, 3.0)
    ]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("where", ["linear", "conv"])
def test_inner_layers_can_be_constrained(where, split):
    arm = fit(quick(constraint="stiefel", where=where), split).arm
    assert len(arm.constrained) == (2 if where == "linear" else 3) and arm.held_last == (where == "linear")
    for name in arm.constrained:
        weight = arm.method.online.get_submodule(name).weight.detach()
        assert (rows_of(weight) - torch.eye(min(weight.flatten(1).shape))).abs().max() < 50 * torch.finfo(
            torch.float32
        ).eps


def test_muon_moves_its_layers_by_equal_singular_values(split):
    config = quick(optimizer="muon", steps=1, lr=0.02, weight_decay=0.0)
    before = weights(assemble(config, LIKE, ALONE))
    after = weights(fit(config, split).arm)
    name = next(name for name in after if after[name].shape == (8, 64))
    values = torch.linalg.svdvals(after[name] - before[name])
    assert values.min() > 0.5 * values.max() > 0


@pytest.mark.long
@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
def test_every_objective_trains(name, split):
    predictor = "directpred" if objective(name).needs_predictor else "none"
    teacher = 0.99 if objective(name).needs_teacher else 0.0
    trained = fit(quick(objective=name, lr=1e-3, predictor=predictor, teacher=teacher, hidden=32, dim=4), split)
    _, values = trained.recorder.stacked()
    assert torch.isfinite(values["loss"][1:]).all() and trained.done == 4 and values["z"].shape == (4, 4)
    assert (values["z"] >= 0).all() and (values["z"][:, :-1] >= values["z"][:, 1:]).all()


@pytest.mark.slow
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("teacher", [0.0, 0.99])
def test_every_predictor_and_a_teacher_train(predictor, teacher, split):
    trained = fit(quick(predictor=predictor, teacher=teacher), split)
    arm, (_, values) = trained.arm, trained.recorder.stacked()
    assert ("predictor_cosine" in values) == (predictor != "mlp")
    if predictor != "mlp":
        assert values["predictor_cosine"].shape == values["z"].shape == (4, 8)
        z = embeddings(arm.method, Pictures(quick(), split, ALONE).watched())["z"].double()
        last = eigenspaces(z.T @ z / len(z), matrix_of(arm.method.predictor).double())
        for name, value in last.items():
            assert (values[f"predictor_{name}"][-1] - value).abs().max() < 1e-9 * (1 + value.abs().max()), name
    matrix = next(p for p in arm.method.predictor.parameters())
    assert torch.isfinite(matrix).all()
    if predictor.startswith("direct"):
        f = arm.method.predictor.correlation
        assert (matrix @ f - f @ matrix).abs().max() < 1e-4 * matrix.norm() * f.norm()  # W is a function of F
    if teacher:
        mine, other = arm.method.teacher.model[1].last.weight, arm.method.projector.last.weight
        assert 0 < (mine - other).norm() < other.norm()


@pytest.mark.parametrize("name", PRESETS)
def test_small_crops_are_seen_beside_the_same_two_views(name, split):
    assert quick(augmentation=name).augmentation == name
    two, more = (Views(split.train, augmentations(name, "digits", 8, crops), 16, 5, ALONE)(3) for crops in (0, 3))
    assert all(torch.equal(a, b) for a, b in zip(two, more[:2], strict=True))
    assert [view.shape for view in more[2:]] == [(16, 1, 4, 4)] * 3
    assert not torch.equal(more[2], more[3]) and not torch.equal(more[3], more[4])


def test_small_crops_are_trained_on(split):
    seen, config = [], quick(crops=2, objective="negative_cosine", predictor="directpred", teacher=0.9)
    steps, arm = fitting.prepare(config, Pictures(config, split, ALONE), ALONE)
    arm.method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    loss = arm.method.train()(*steps(0, 0))
    assert loss.isfinite() and seen == [(8, 8), (8, 8), (4, 4), (4, 4)]


def test_views_do_not_depend_on_the_processes_nor_on_what_ran_before(split):
    pair = augmentations("auto", "digits", 8)
    whole = Views(split.train, pair, 32, 5, ALONE)
    parts = [Views(split.train, pair, 32, 5, Process(rank, 2, torch.device("cpu"))) for rank in (0, 1)]
    for step in (0, 2, 3, 7):
        for view in (0, 1):
            assert torch.equal(whole(step)[view], torch.cat([part(step)[view] for part in parts]))
    again = Views(split.train, pair, 32, 5, ALONE)
    assert torch.equal(again(7)[0], whole(7)[0]) and not torch.equal(whole(7)[0], whole(7)[1])
    assert not torch.equal(whole(0)[0], whole(3)[0])  # another epoch, another order
    seen = torch.cat([whole.chosen(step) for step in range(3)])
    assert sorted(seen.tolist()) == list(range(96))


@pytest.mark.long
def test_a_run_goes_on_from_its_checkpoint(tmp_path, split):
    for extra in (
        {"constraint": "feature-orthonormal"},
        {"predictor": "directset", "teacher": 0.9, "constraint": "grassmann"},
        {"objective": "moco", "teacher": 0.9},
        {"precision": "float16", "optimizer": "lars", "lr": 0.2, "objective": "nt_xent"},
    ):
        whole = fit(quick(steps=6, **extra), split)
        config = quick(steps=6, save_every=3, **extra)
        path = tmp_path / f"{len(extra)}-{next(iter(extra))}.safetensors"
        with pytest.raises(Interrupted, match="after step 4 of 6") as stopped:
            fit(config, split, Interrupting(4).tick, lambda path=path: path)
        assert stopped.value.recorded.done == 4
        rest = fit(config, split, None, lambda path=path: path)
        assert rest.done == 6 and rest.start == 3
        for (name, a), b in zip(weights(whole.arm).items(), weights(rest.arm).values(), strict=True):
            assert torch.equal(a, b), name
        # What was recorded before Ctrl-C is there, and a finished training that is run again has nothing to add.
        for one in (rest, fit(config, split, None, lambda path=path: path)):
            assert one.done == 6 and torch.equal(one.recorder.stacked()[0], whole.recorder.stacked()[0])
            for name, values in whole.recorder.stacked()[1].items():
                assert torch.equal(one.recorder.stacked()[1][name].nan_to_num(-1), values.nan_to_num(-1)), name
    with pytest.raises(
        ConfigError,
        match=r"^out: .* other settings: lr: 0.2 then, 0.1 now; resume = False .--no-resume. starts the run anew",
    ):
        fit(quick(**{**extra, "steps": 6, "lr": 0.1}), split, None, lambda: path)


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path, split, monkeypatch):
    path = tmp_path / "c.safetensors"
    config = quick(steps=8, save_every=2)
    original = fitting.assemble

    def breaking(*arguments):
        arm = original(*arguments)

        def spoil(step):
            if step == 5:
                arm.method.projector.last.weight.data[0, 0] = float("nan")

        arm.followers.append(spoil)
        return arm

    monkeypatch.setattr(fitting, "assemble", breaking)
    with pytest.raises(Diverged, match=r"weights are not finite at step 6: online\.projector\.3\.weight"):
        fit(config, split, None, lambda: path)
    monkeypatch.undo()
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["checkpoint"])["step"] == 4
        kept = [name for name in file.keys() if name != "recording/loss"]  # before the first step there is none
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in kept)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """torchrun on two halves of every batch: the same weights to rounding, written by one of them."""
    digits = load_digits()
    images = (16 * digits.images[:300, None]).clip(max=255).astype(np.uint8)
    data = tmp_path / "few.safetensors"
    save_file({"images": images}, data)  # without labels: no probes, which take longer than the training
    options = (
        "--objective nt_xent --constraint feature-orthonormal",
        "--objective negative_cosine --constraint stiefel --predictor mlp --teacher 0.9",
    )

    def ends(count):
        return [tmp_path / f"{count}-{k}" for k in range(len(options))]

    def lines(count):
        given = zip(options, ends(count), strict=True)
        return [
            f"train --data arrays:{data} --steps 3 --batch 64 --records 3 {line} --out {end}" for line, end in given
        ]

    for line in lines(1):
        done = command(*line.split())
        assert done.returncode == 0 and done.stdout.count("report:") == 1, done.stderr
    launcher = [BIN / "torchrun", "--standalone", "--nproc-per-node", "2", "-m", "tests.commands"]
    done = subprocess.run([*launcher, *lines(2)], capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("report:") == len(options), done.stderr
    for one, two in zip(ends(1), ends(2), strict=True):
        alone, together = (load_file(folder / "weights.safetensors") for folder in (one, two))
        for name, value in alone.items():
            if value.dtype.kind == "f":
                # float32, three steps of momentum and batch norms
                assert np.abs(together[name] - value).max() < 2e-4 * (1 + np.abs(value).max()), (one.name, name)


@pytest.mark.parametrize("constraint", [name for name, one in CONSTRAINTS.items() if one.rank_of_w])
def test_a_verdict_guarantees_what_the_weight_still_has(constraint, split):
    config = quick(constraint=constraint)
    arm = assemble(config, LIKE, ALONE)
    said = collapse_verdict(config, arm, split)["guaranteed"]
    assert said[0] == "W has rank 8 by construction (64 features in)"
    last = arm.method.projector.last
    weight = last.parametrizations.weight.original if constraint == "parametrization" else last.weight
    torch.nn.init.zeros_(weight)  # a parametrization, too, has its singular points
    said = collapse_verdict(config, arm, split)["guaranteed"]
    assert len(said) == 1 and said[0].startswith("nothing: W is off its manifold")


@pytest.mark.slow
def test_the_folder(tmp_path, few):
    config = quick(out=tmp_path / "run", constraint="grassmann")
    outcome = run(config)
    folder = tmp_path / "run"
    record = json.loads((folder / "run.json").read_text())
    assert record["verdict"] == json.loads(json.dumps(outcome.record["verdict"])) and record["constrained"] == [
        "projector.4"
    ]
    assert record["verdict"]["guaranteed"][0] == "W has rank 8 by construction (64 features in)"
    assert outcome.findings[0].predicted == "; ".join(record["verdict"]["guaranteed"])
    assert outcome.findings[0].measured == "; ".join([record["verdict"]["judgement"], *record["verdict"]["observed"]])
    assert set(record["probes"]) == {"knn", "ridge", "logistic"}
    assert all(0 <= p["interval"][0] <= p["accuracy"] <= p["interval"][1] <= 1 for p in record["probes"].values())
    frame = pd.read_parquet(folder / "metrics.parquet")
    assert len(frame) == 4 and {"step", "time", "loss", "z_1", "z_8", "directions_8"} <= set(frame)
    assert {"training.svg", "spectra.svg", "report.html", "arrays.safetensors"} <= {p.name for p in folder.iterdir()}
    assert "http" not in (folder / "report.html").read_text().replace("http://www.w3.org", "")
    again = run(quick(out=tmp_path / "again", constraint="grassmann"))
    assert np.array_equal(outcome.arrays["spectrum_z"], again.arrays["spectrum_z"])
    rates = (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    assert np.allclose(frame["time"], 0.05 * np.concatenate([[0], np.cumsum(rates)])[frame["step"]] / 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "directional"), [({}, True), ({"objective": "vicreg", "lr": 1e-3}, False)])
def test_the_verdict_is_the_audit_of_the_views_that_were_judged(settings, directional, split):
    config = quick(**settings)
    seen = Pictures(config, split, ALONE)
    arm = fit(config, split).arm
    views = [seen.view(k, len(split.train)).stacked() for k in (0, 1)]
    z, z_positive = (embeddings(arm.method, view)["z"] for view in views)
    pixels = float(views[0].flatten(1).double().var(0, correction=0).mean())
    audit = audit_embeddings(
        z, z_positive=z_positive, directions=directional, input_variance=None if directional else pixels
    )
    for verdict in (evaluation.judge(arm, seen).verdict, collapse_verdict(config, arm, split)):
        assert (verdict["kind"], verdict["judgement"]) == (audit.kind, audit.judgement)
        assert verdict["open"] == audit.verdict.open and verdict["rows"] == len(split.train)
        assert verdict["rule"] == str(Rule()) and verdict["thresholds"] == asdict(Rule())
        numbers = {name: (one["value"], one["low"], one["high"]) for name, one in verdict["numbers"].items()}
        assert numbers == {one.name: (one.value, one.low, one.high) for one in audit.numbers}
        assert {"alignment", "uniformity", "lidar"} <= set(numbers)
        used = audit["dimensions_used"]
        what = "z / ||z||" if directional else "z"
        assert verdict["observed"][0].startswith(
            f"{used.value:.3g} [{used.low:.3g}, {used.high:.3g}] of 8 dimensions of {what} used"
        )
        assert any("variance of z / ||z||" in line for line in verdict["observed"]) == directional


@pytest.mark.slow
def test_complete_collapse_of_z_is_relative_to_the_images(split):
    config = quick(objective="vicreg", lr=1e-3)
    arm = fit(config, split).arm
    with torch.no_grad():
        for parameter in arm.method.projector.last.parameters():
            parameter *= 1e-6
    assert collapse_verdict(config, arm, split)["kind"] == "complete"
    assert collapse_verdict(config, fit(quick(), split).arm, split)["kind"] != "complete"


@pytest.mark.slow
def test_few_images_leave_the_verdict_open(split):
    few = Split(split.train[:6], split.train_labels[:6], split.test, split.test_labels)
    config = quick()
    verdict = collapse_verdict(config, fit(config, split).arm, few)
    assert verdict["kind"] == "undecided" and "independent rows" in verdict["open"]["dimensional"]
    assert "open: " in evaluation.verdict_in_words(verdict)


@pytest.mark.slow
def test_the_page_draws_the_threshold_of_the_record(tmp_path, few):
    outcome = run(quick(out=tmp_path / "run"))
    record = copy.deepcopy(outcome.record)
    record["verdict"]["thresholds"]["dead"] = 0.037
    figure = page_of(Outcome(record, outcome.metrics, outcome.arrays)).sections[1].figure
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "dead below"]
    assert set(line.get_ydata()) == {0.037}
    assert str(Rule()) in page_of(outcome).lede and "over 96 rows" in page_of(outcome).sections[0].caption
    del record["verdict"]["thresholds"]
    write_json(tmp_path / "run" / "run.json", record)
    with pytest.raises(ConfigError, match="'thresholds' is not in this run, and its page needs it"):
        draw(tmp_path / "run")


@pytest.mark.slow
def test_records_at_every_step_are_no_trouble(tmp_path, few):
    outcome = run(quick(out=tmp_path / "run", steps=12, records=40))
    time = outcome.metrics["time"]
    assert len(time) == 13 and (np.diff(time) > 0).all()
    for name in ("steps_detected", "steps_of_loss"):
        steps = outcome.record[name]
        assert steps["count"] == len(steps["times"]) and steps["times"] == sorted(steps["times"])


@pytest.mark.slow
def test_unlabelled_images_have_no_probes(tmp_path, monkeypatch, split):
    bare = Split(split.train, None, split.test, None)
    monkeypatch.setattr(material, "load_split", lambda *_, **__: bare)
    outcome = run(quick(out=tmp_path / "run"))
    assert outcome.record["probes"] is None and (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_arms_side_by_side(tmp_path, few):
    arms = (
        "constraint=none",
        "constraint=grassmann,dim=4",
        "objective=vicreg,lr=1e9",
        "objective=negative_cosine,predictor=linear",
    )
    arms = tuple(f"{arm},batch=32" for arm in arms)
    outcome = run(CompareEncodersConfig(out=tmp_path / "run", arms=arms, seeds=2, steps=3, records=3))
    summaries = {one["arm"]: one for one in outcome.record["arms"]}
    assert summaries[arms[2]]["kinds"]["diverged"] == 2 and summaries[arms[2]]["ridge"] is None
    for arm in (arms[0], arms[1], arms[3]):
        assert (
            sum(summaries[arm]["kinds"].values()) == 2
            and min(summaries[arm]["ridge"]["values"]) <= summaries[arm]["ridge"]["mean"]
        )
    runs = [row for row in outcome.record["runs"] if row["arm"] == arms[1]]
    base = [row for row in outcome.record["runs"] if row["arm"] == arms[0]]
    difference = np.mean([a["ridge"] - b["ridge"] for a, b in zip(runs, base, strict=True)])
    assert abs(summaries[arms[1]]["ridge_against_first"]["mean"] - difference) < 1e-15
    assert "ridge_against_first" not in summaries[arms[0]] and len(outcome.findings) == 5
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    assert len(frame) == 8 and (tmp_path / "run" / "arms.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_an_interrupted_training_says_after_which_step(tmp_path, few):
    assert run(quick(out=tmp_path / "whole")).interrupted is None
    outcome = run(quick(out=tmp_path / "run"), Interrupting(2))
    assert outcome.interrupted == "after step 2 of 4" and outcome.metrics["step"][-1] <= 2
    assert "This run was interrupted: after step 2 of 4" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupt_keeps_the_seeds_that_are_whole(tmp_path, few):
    settings = {"arms": ("constraint=none,batch=32", "dim=4,batch=32"), "steps": 3, "records": 3}
    with pytest.raises(KeyboardInterrupt):
        run(CompareEncodersConfig(out=tmp_path / "none", seeds=3, **settings), Interrupting(6))
    assert unfinished(tmp_path / "none") and not (tmp_path / "none" / "run.json").exists()
    outcome = run(CompareEncodersConfig(out=tmp_path / "run", seeds=3, **settings), Interrupting(11))
    whole = run(CompareEncodersConfig(out=tmp_path / "whole", seeds=1, **settings))
    assert outcome.interrupted == "in seed 2, which is left out, part 2 of 3"
    timed = {"seconds_per_step"}
    for one, other in zip(outcome.record["runs"], whole.record["runs"], strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert outcome.arrays.keys() == whole.arrays.keys() and list(outcome.metrics["seed"]) == [1, 1]
    assert "<p>1 seed of 3 steps" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "simsiam"}, f"objective must be one of {', '.join(EMBEDDING_LOSSES)}, got 'simsiam'"),
        ({"objective": "vicregs"}, r"got 'vicregs'; did you mean vicreg\?"),
        ({"constraint": "grassman"}, r"constraint must be one of none, .*, got 'grassman'; did you mean grassmann\?"),
        ({"stem": "cifar10", "encoder": "resnet18"}, r"stem must be one of .* did you mean cifar\?"),
        ({"encoder": "resnet19"}, r"encoder: unknown encoder 'resnet19': known are .*; did you mean resnet18\?"),
        (
            {"constraint": "grassmann", "objective": "vicreg"},
            "vicreg is not rotation-invariant, .* use constraint = stiefel",
        ),
        (
            {"constraint": "grassmann", "where": "conv"},
            "constraint grassmann on the conv layers: .* use constraint = stiefel",
        ),
        ({"constraint": "grassmann", "predictor": "mlp"}, "an mlp predictor is not rotation-equivariant"),
        ({"constraint": "feature-orthonormal", "where": "linear"}, "for the last layer of the head"),
        ({"constraint": "feature-orthonormal", "objective": "w_mse"}, "no function of a subspace"),
        ({"constraint": "geoopt-stiefel", "optimizer": "lars"}, "by sgd or adam, not by lars"),
        ({"constraint": "stiefel", "optimizer": "muon"}, "a comparator for constraints"),
        ({"optimizer": "muon", "where": "conv"}, "muon is for matrices"),
        ({"objective": "nt_xent", "predictor": "linear"}, "takes no predictor and no teacher"),
        ({"objective": "isoloss"}, "isoloss needs a predictor"),
        ({"objective": "dino"}, r"dino needs a momentum teacher: set teacher, its momentum, to 0\.99, say"),
        ({"objective": "isoloss", "predictor": "mlp"}, "isoloss passes no gradient to the predictor"),
        ({"objective": "isoloss_cosine", "predictor": "linear"}, "take one in closed form, directpred"),
        (
            {"objective": "isoloss", "predictor": "directpred", "predictor_options": PredictorOptions(every=2)},
            "which would never be trained",
        ),
        ({"objective": "w_mse", "batch": 8}, "batch must be above dim = 8, got 8"),
        ({"batch": 1}, "batch must be finite and >= 2, got 1"),
        (
            {"objective": "vicreg:temperature=0.1"},
            "^temperature is a setting of infonce, nt_xent, .*; vicreg has none$",
        ),
        (
            {"objective": "vicreg:varianc=1"},
            r"^vicreg has no setting 'varianc': it has .*variance.*; did you mean variance\?$",
        ),
        ({"objective": "nt_xent:temperature=warm"}, "^temperature must be a number, got 'warm'$"),
        ({"objective": "nt_xent:temperature=0"}, "^temperature must be positive, got 0$"),
        ({"objective": "nt_xent:temperature"}, r"^objective must be one of .*; did you mean nt_xent\?$"),
        ({"objective": "nt_xnt:temperature=1"}, r"^objective must be one of .*; did you mean nt_xent\?$"),
        ({"objective": "barlow_twins:normalise=true", "constraint": "grassmann"}, "is not rotation-invariant"),
        ({"dim": 64}, "dim = 64 must be below hidden = 64"),
        ({"warmup": 4, "steps": 4}, "warmup must be below steps = 4, got 4"),
        ({"lr": float("nan")}, "lr must be finite and > 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        quick(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "cifar10"}, "unknown data 'cifar10': give digits, photos, or FORMAT:PATH"),
        ({"data": "cifar10:/nowhere"}, r"data: .*nowhere"),
        ({"data": "digits:here"}, "digits is bundled and takes no path"),
        ({"batch": 2000}, "batch must be at most the 1198 images to train on, got 2000"),
        ({"augmentation": "auto2"}, r"augmentation must be one of .*, got 'auto2'; did you mean auto\?"),
        ({"augmentation": "simcrl"}, r"augmentation must be one of .*, got 'simcrl'; did you mean simclr\?"),
        ({"crops": 1, "encoder": "mlp"}, "encoder mlp cannot take the small crops of 1 x 4 x 4: mat1 and mat2"),
        ({"encoder": "resnet19"}, "encoder: unknown encoder 'resnet19'"),
        ({"data": "digit"}, r"unknown data 'digit': .*; did you mean digits\?"),
    ],
)
def test_what_cannot_be_had_is_refused_before_training(settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "train_encoder", None)
    with pytest.raises(ConfigError, match=message):
        run(quick(out=tmp_path / "run", **settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("encoder=vit", "arm 'encoder=vit': encoder: "),
        ("batch=5000", "arm 'batch=5000': batch must be at most the 1198 images"),
        ("augmentation=blur", "arm 'augmentation=blur': augmentation must be one of"),
        ("crops=2,encoder=linear", "arm 'crops=2,encoder=linear': encoder linear cannot take the small crops"),
    ],
)
def test_an_arm_that_does_not_fit_the_images_is_refused_before_the_first_is_trained(
    arm, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "train_encoder", None)
    with pytest.raises(ConfigError, match=message):
        run(CompareEncodersConfig(arms=("constraint=none", arm), steps=2, records=2, out=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_batches_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match="batch = 33 cannot be shared equally by 2 processes"):
        Process(0, 2, torch.device("cpu")).rows(33)


def test_arms_that_cannot_be_run_are_named():
    for arm, message in (
        ("constraint=grass", "arm 'constraint=grass': constraint must be one of"),
        ("limit=3", "'limit=3' is not NAME=VALUE with NAME one of augmentation, "),
        ("lr=fast", "lr must be a number, got 'fast'"),
        ("steps=3", "'steps=3' is not NAME=VALUE"),
    ):
        with pytest.raises(ConfigError, match=message):
            CompareEncodersConfig(arms=(arm,))
    with pytest.raises(ConfigError, match="names one twice"):
        CompareEncodersConfig(arms=("dim=4", "dim=4"))


def test_directions_of_lejepa_are_those_of_the_step(split):
    config = quick(objective="lejepa", lr=1e-3)
    arm = fit(config, split).arm
    fresh = objective("lejepa", seed=config.seed).loss
    z, z_positive = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0))
    value = arm.loss.loss(z=z, z_positive=z_positive)
    fresh(z=z, z_positive=z_positive)
    assert not torch.equal(arm.loss.loss.directions, fresh.directions)  # the losses may be the same by chance
    fresh.renew(4)
    assert value == fresh(z=z, z_positive=z_positive)
    assert torch.equal(arm.loss.loss.directions, fresh.directions)


@pytest.fixture(scope="module")
def arms_on_digits(tmp_path_factory):
    """What the project claims of collapse on digits: all images, fewer steps and smaller batches than by default."""
    arms = {
        "free": "objective=negative_cosine",
        "grassmann": "objective=negative_cosine,constraint=grassmann",
        "feature": "objective=negative_cosine,constraint=feature-orthonormal",
        "directpred": "objective=negative_cosine,predictor=directpred",
        "vicreg": "objective=vicreg,lr=0.005",
    }
    given = tuple(f"{arm},batch=64" for arm in arms.values())
    folder = tmp_path_factory.mktemp("arms") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluation, "logistic_probe", ridge_probe
        )  # a fifth of the time, and nothing is claimed of it here
        outcome = run(CompareEncodersConfig(out=folder, arms=given, seeds=1, steps=300, records=10))
    return dict(zip(arms, outcome.record["arms"], strict=True))


@pytest.mark.slow
def test_without_predictor_and_constraint_it_collapses(arms_on_digits):
    """The loss sees directions only, and these become alike: a variance of z / ||z|| of 0.006 (0.0075 with seed 2)."""
    assert arms_on_digits["free"]["kinds"]["directional"] == 1 and arms_on_digits["free"]["collapsed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["grassmann", "feature", "directpred", "vicreg"])
def test_with_one_of_them_none_does(arm, arms_on_digits):
    assert arms_on_digits[arm]["kinds"]["none"] == arms_on_digits[arm]["decided"] == 1
    assert arms_on_digits[arm]["ridge"]["mean"] > 0.93


@pytest.mark.slow
def test_a_feature_orthonormal_layer_keeps_all_dimensions_alike(arms_on_digits):
    ranks = {name: one["directions_rank"]["mean"] for name, one in arms_on_digits.items()}
    assert ranks["feature"] > 7.5 and all(ranks["feature"] > ranks[name] for name in ("free", "grassmann"))


def test_the_command_line_shows_choices_and_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grassmann-ssl", "train", "--help"])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr().out
    assert end.value.code == 0
    for name, known in CHOICES.items():
        assert f"--{name} {{{','.join(known)}}}" in shown
    for flag in ("--predictor.alpha", "--predictor.every", "--penalty", "--momentum", "--weight-decay"):
        assert f"{flag} " in shown


def test_the_command_line_says_the_nearest_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grassmann-ssl", "train", "--constraint", "grasmann", "--momentum", "0.8"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.count("\n") == 1 and message.endswith("did you mean grassmann?\n")


def test_options_have_one_name_in_arms_records_and_checkpoints():
    arm = "objective=negative_cosine,predictor=directset,predictor_rho=0.4,predictor.alpha=0.7,momentum=0.5"
    config = CompareEncodersConfig(arms=("penalty=2,constraint=penalty", arm)).train_config(arm, 3)
    assert config.predictor_options == PredictorOptions(rho=0.4, alpha=0.7) and config.optimizer_options.momentum == 0.5
    values = config.values()
    assert (values["predictor_rho"], values["momentum"], values["seed"]) == (0.4, 0.5, 3)
    arms = CompareEncodersConfig(arms=("objective=nt_xent:temperature=0.1|vicreg:variance=10:covariance=2",)).arms
    losses = [CompareEncodersConfig(arms=arms).train_config(one, 3).loss() for one in arms]
    assert [one.label for one in losses] == ["nt_xent:temperature=0.1", "vicreg:variance=10:covariance=2"]
    assert TrainConfig.of(**values) == config and json.dumps(values)


@pytest.fixture
def pictures(tmp_path):
    """Writes pictures of these (height, width) into PART/a and PART/b."""
    generator = np.random.default_rng(1)

    def write(part, shape, each=20):
        for name in "ab":
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for k in range(each):
                Image.fromarray(generator.integers(0, 255, shape, np.uint8)).save(folder / f"{k}.png")
        return f"folder:{tmp_path / 'data'}"

    return write


@pytest.mark.parametrize("encoder", ["linear", "mlp"])
@pytest.mark.parametrize(("train", "test"), [((8, 8), (9, 9)), ((8, 8), (8, 12)), ((8, 12), (8, 12))])
def test_images_that_the_encoder_cannot_take_are_refused_before_training(
    encoder, train, test, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "train_encoder", None)
    pictures("train", train)
    config = quick(data=pictures("test", test), encoder=encoder, batch=16, out=tmp_path / "run")
    kind, shape = ("training", train) if train != (8, 8) else ("test", test)
    with pytest.raises(
        ConfigError, match=f"encoder {encoder} cannot take the {kind} samples of 1 x {shape[0]} x {shape[1]}: "
    ):
        run(config)


@pytest.mark.long
def test_what_was_read_and_passed_over_is_a_finding(pictures, tmp_path):
    pictures("train", (8, 8))
    data = pictures("test", (8, 12), each=3)
    (tmp_path / "data" / "train" / "a" / "notes.txt").write_text("no picture")
    outcome = run(quick(data=data, batch=16, out=tmp_path / "run"))
    assert outcome.findings[-1].quantity == "images" and outcome.findings[-1].measured == (
        "40 to train on (1 x 8 x 8), 6 to test on (1 x 8 x 12); passed over in train: 1 .txt"
    )


def test_options_of_data_reach_it_and_are_refused_elsewhere(pictures, tmp_path):
    pictures("train", (8, 8))
    data = pictures("test", (8, 12), each=3)
    settings = {"encoder": "mlp", "batch": 16, "out": tmp_path / "run"}
    outcome = run(quick(data=data, size=6, **settings))
    assert (
        outcome.findings[-1].measured == "40 to train on (1 x 6 x 6), 6 to test on"
        and outcome.record["config"]["size"] == 6
    )
    with pytest.raises(
        ConfigError, match=r"^size = 6 has no effect with data digits: it is an option of folder, emoji$"
    ):
        quick(size=6)
    with pytest.raises(
        ConfigError, match=r"^labels = y.csv has no effect with data folder: it is an option of arrays$"
    ):
        quick(data=data, labels="y.csv")


def test_images_without_a_difference_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "train_encoder", None)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "data" / name / f"{k}.png")
    config = quick(data=f"folder:{tmp_path / 'data'}", batch=4, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^data: the 8 images to train on are all the same$"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_fewer_images_than_views_of_lidar_are_judged(tmp_path, pictures):
    outcome = run(quick(data=pictures("train", (8, 8), each=4), batch=4, out=tmp_path / "run"))
    assert outcome.record["lidar"]["h"] >= 0 and outcome.record["verdict"]["rows"] < 8


def test_a_path_that_the_system_refuses_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read: File name too long$"):
        run(quick(data="folder:" + "a" * 5000, out=tmp_path / "run"))


@pytest.mark.parametrize("settings", [{"data": "folder:\udcff"}, {"out": Path("runs/\udcff")}])
def test_text_that_is_not_utf8_is_refused(settings):
    with pytest.raises(
        ConfigError, match=r"^(data|out): '.*' is not UTF-8, which the files of a run are written in; rename it$"
    ):
        quick(**settings)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "abc", "RANK": "0"},
            "WORLD_SIZE must be a number of processes, as torchrun sets it, got 'abc'",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "torchrun: .* MASTER_ADDR expected, but not set"),
    ],
)
def test_an_environment_that_torchrun_did_not_make_is_one_line(environment, message, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        run(quick(out=tmp_path / "run"))


@pytest.mark.long
def test_probes_during_a_training_leave_it_as_it_is(few, tmp_path):
    plain = run(quick(out=tmp_path / "plain"))
    probed = run(quick(out=tmp_path / "probed", online_probes=True))
    assert (tmp_path / "plain/weights.safetensors").read_bytes() == (
        tmp_path / "probed/weights.safetensors"
    ).read_bytes()
    assert all(np.array_equal(probed.metrics[name], values, equal_nan=True) for name, values in plain.metrics.items())
    last = {name: probed.metrics[f"probe_{name}"][-1] for name in ("knn", "ridge")}
    assert last == {name: probed.record["probes"][name]["accuracy"] for name in last}  # all images are among the 1024
    assert (tmp_path / "probed/training.svg").read_bytes() != (tmp_path / "plain/training.svg").read_bytes()


def test_probes_during_a_training_need_labels(split, tmp_path, monkeypatch):
    monkeypatch.setattr(material, "load_split", lambda *_, **__: Split(split.train, None, split.test, None))
    with pytest.raises(ConfigError, match="online_probes: the data have no labels to probe with"):
        run(quick(out=tmp_path / "run", online_probes=True))
