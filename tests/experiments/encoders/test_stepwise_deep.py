"""Stepwise learning of encoders: the experiment on few images and steps, its overlap, and bad settings."""

import itertools
import json

import numpy as np
import pytest
import torch

from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.experiments.encoders import material
from grassmann_ssl.experiments.encoders import stepwise_deep as experiment
from grassmann_ssl.experiments.encoders.stepwise_deep import StepwiseDeepConfig, apart, overlap
from grassmann_ssl.report.encoders.stepwise_deep import steps as drawn
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError
from grassmann_ssl.training.schedules import log_spaced
from tests.experiments.progress import Interrupting


@pytest.fixture
def few(monkeypatch):
    whole = load_split("digits", torch.Generator().manual_seed(1))
    split = Split(whole.train[:256], whole.train_labels[:256], whole.test[:60], whole.test_labels[:60])
    monkeypatch.setattr(material, "load_split", lambda *_, **__: split)


@pytest.mark.slow
def test_the_first_eigenvalues_rise_one_by_one_and_the_kernel_after_training_tells_them(tmp_path, few):
    config = StepwiseDeepConfig(
        objectives=("barlow_twins",),
        init_scales=(0.01,),
        dim=4,
        batch=256,
        steps=150,
        records=50,
        pairs=24,
        out=tmp_path / "run",
    )
    outcome = run(config)
    one = outcome.record["runs"]["barlow_twins from 0.01"]
    times = one["steps_of_z"]
    assert len(times) >= 3 and all(b > 1.05 * a for a, b in itertools.pairwise(times))
    # The loss falls where an eigenvalue rises.
    falls = np.array(one["steps_of_loss"])
    assert len(falls) >= 2 and sum(np.abs(np.log(falls / t)).min() < 0.1 for t in times) >= 2
    assert one["overlap"]["after"] > max(0.6, one["overlap"]["before"]) and outcome.record["chance"] == 4 / 48
    verdict, said = one["verdict"], outcome.findings[3]
    assert verdict["rows"] == 256 and verdict["dimensions"] == 4 and verdict["kind"] == "none"
    assert said.quantity == "barlow_twins from 0.01: collapse" and said.predicted is None
    assert (
        said.measured.startswith("no collapse; ")
        and "of 4 dimensions of z used, 4 live, over 256 rows" in said.measured
    )
    folder = tmp_path / "run"
    assert json.loads((folder / "run.json").read_text())["runs"] == outcome.record["runs"]
    assert {"steps.svg", "kernel.svg", "report.html"} <= {p.name for p in folder.iterdir()}


@pytest.mark.slow
def test_an_interrupt_keeps_the_objectives_that_are_whole(tmp_path, few):
    settings = {"init_scales": (0.01,), "dim": 4, "batch": 64, "steps": 30, "records": 20, "pairs": 12}
    both = StepwiseDeepConfig(objectives=("vicreg", "barlow_twins"), out=tmp_path / "run", **settings)
    outcome = run(both, Interrupting(36))
    whole = run(StepwiseDeepConfig(objectives=("vicreg",), out=tmp_path / "whole", **settings))
    assert (
        outcome.interrupted == "in barlow_twins from 0.01, which is left out, part 2 of 2" and whole.interrupted is None
    )
    assert outcome.record["runs"] == whole.record["runs"] and outcome.arrays.keys() == whole.arrays.keys()
    assert set(outcome.metrics["objective"]) == {"vicreg"}
    assert "This run was interrupted: in barlow_twins from 0.01" in (tmp_path / "run" / "report.html").read_text()


def test_steps_that_come_together_are_one():
    assert apart([]) == 0 and apart([1.0, 1.1, 1.2, 1.4]) == 3 and apart([0.41, 0.42, 0.43]) == 1


@pytest.mark.long
def test_batch_normalisation_begins_with_the_statistics_of_the_images(tmp_path, few):
    """Otherwise the representations seem to rise while the statistics catch up: from a hundredth of their variance."""
    given = {"objectives": ("barlow_twins",), "init_scales": (1.0,), "dim": 2, "batch": 64, "records": 10, "pairs": 4}
    outcome = run(StepwiseDeepConfig(steps=20, out=tmp_path / "run", **given))
    total = outcome.arrays["barlow_twins from 1_h"].sum(1)
    assert 0.5 < total[0] / total[1] < 2 and total[0] > 0.2 * total[-1]


def test_overlap_of_subspaces():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(40, 3))
    turn = generator.normal(size=(3, 3))
    assert abs(overlap(a, a @ turn) - 1) < 1e-12
    basis = np.linalg.qr(generator.normal(size=(40, 40)))[0]
    assert overlap(basis[:, :3], basis[:, 3:6]) < 1e-28
    assert abs(overlap(basis[:, :3], basis[:, 1:5]) - 2 / 3) < 1e-12
    chance = np.mean([overlap(a, generator.normal(size=(40, 3))) for _ in range(200)])
    assert abs(chance - 3 / 40) < 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": ("byol",)}, "objectives must be some of barlow_twins, nt_xent, vicreg, got byol"),
        ({"objectives": ()}, "got none"),
        ({"pairs": 4}, "pairs must be above dim / 2 = 4, got 4"),
        ({"init_scales": (0.0,)}, "init_scales must be finite and > 0"),
        ({"init_scales": (0.1, 0.1)}, "init_scales must differ from each other, got 0.1 0.1"),
        ({"records": 5}, "records must be finite and >= 10"),
        ({"steps": 12, "records": 10}, "steps = 12 and records = 10 leave 7 records after the start, .* at least 8"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        StepwiseDeepConfig(**settings)


@pytest.mark.long
def test_the_fewest_records_that_are_accepted_are_enough(tmp_path, few):
    """What is refused before training is what would be refused after it, and no more."""
    given = {
        "objectives": ("barlow_twins",),
        "init_scales": (1.0, 0.01),
        "dim": 2,
        "batch": 64,
        "records": 10,
        "pairs": 4,
    }
    steps = min(n for n in range(8, 100) if len(log_spaced(n, 10)) == 9)
    with pytest.raises(ConfigError, match="leave 7 records"):
        StepwiseDeepConfig(steps=steps - 1, **given)
    outcome = run(StepwiseDeepConfig(steps=steps, out=tmp_path / "run", **given))
    # One column a start: the loss above the eigenvalues of z and of the representations, over the same times.
    loss, other, eigenvalues, _, _, _, _, hidden = drawn(outcome).axes
    (line,) = loss.lines
    assert loss.get_title() == "barlow_twins from 1" and other.get_title() == "barlow_twins from 0.01"
    assert loss.get_ylabel() == "loss" and line.get_ydata() == pytest.approx(
        outcome.arrays["barlow_twins from 1_loss"][1:]
    )
    assert line.get_xdata() == pytest.approx(eigenvalues.lines[0].get_xdata())
    largest = outcome.arrays["barlow_twins from 0.01_h"][1:, 0]
    assert len(hidden.lines) == 2 and hidden.lines[0].get_ydata() == pytest.approx(largest)
    # The usual start is a hundred times as large, its variances ten thousand times.
    starts = [outcome.arrays[f"barlow_twins from {scale}_z"][0, 0] for scale in ("1", "0.01")]
    assert starts[0] == pytest.approx(1e4 * starts[1], rel=1e-3) and set(outcome.metrics["init_scale"]) == {1.0, 0.01}
    falls = next(one for one in outcome.findings if one.quantity == "barlow_twins from 0.01: falls of the loss")
    assert falls.measured == "0" and outcome.record["runs"]["barlow_twins from 0.01"]["steps_of_loss"] == []


def test_more_pairs_than_images_are_refused_before_training(tmp_path, few, monkeypatch):
    monkeypatch.setattr(experiment, "fit", None)
    with pytest.raises(ConfigError, match="pairs must be at most 256, got 300"):
        run(StepwiseDeepConfig(pairs=300, out=tmp_path / "run"))
