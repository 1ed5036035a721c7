"""What values print in a notebook: a line; configs as the code that makes them; outcomes with their findings and figures."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from grassmann_ssl import SecondMoments, manifolds, pretrain
from grassmann_ssl.data.sources import triplets
from grassmann_ssl.data.views import View
from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.metrics.ranks import spectral_summary
from grassmann_ssl.nn.constraint_table import ConstraintOptions
from grassmann_ssl.nn.predictors import PredictorOptions
from grassmann_ssl.shown import short


@pytest.fixture(scope="module")
def outcome():
    x = torch.rand(64, 6)
    return pretrain(torch.nn.Linear(6, 16), [(x, x + 0.1)], steps=3, records=2, hidden=8, dim=3, progress=False)


def test_values_are_shown_in_a_line():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(500, 40, generator=generator, dtype=torch.float64)
    mean = manifolds.frechet_mean(manifolds.Grassmann().random(50, 40, 3, dtype=torch.float64))
    for value in (
        SecondMoments.of(x),
        mean,
        spectral_summary(SecondMoments.of(x), center=True),
        triplets("gaussian", View(), generator, [1.0, 0.5], 100),
    ):
        assert len(repr(value)) < 400 and "\n" not in repr(value), repr(value)
    assert repr(SecondMoments.of(x)).startswith("SecondMoments(500 rows of 40 dimensions, total variance 3.")
    assert "mean=float64 (40, 3)" in repr(mean)


@pytest.mark.parametrize(
    ("value", "text"),
    [(torch.zeros(2, 3), "float32 (2, 3)"), (np.zeros(3), "float64 (3,)"), (torch.tensor(0.1), "0.1"), (1 / 3, "0.333333"), ("a", "'a'"),
     (None, "None"), (list(range(99)), "<list of 99>"), ({"x" * 99: 1}, "<dict of 1>")],
)  # fmt: skip
def test_values_in_a_few_words(value, text):
    assert short(value) == text


@pytest.mark.parametrize("kind", EXPERIMENTS, ids=lambda kind: kind.NAME)
def test_a_config_prints_as_the_code_that_makes_it(kind):
    names = {kind.__name__: kind, "PosixPath": Path}
    plain = kind()
    assert repr(plain) == f"{kind.__name__}()" and eval(repr(plain), names) == plain
    changed = replace(plain, seed=7, out=Path("runs/x"))
    assert (
        repr(changed) == f"{kind.__name__}(seed=7, out=PosixPath('runs/x'))" and eval(repr(changed), names) == changed
    )


def test_options_within_a_config_are_printed_too():
    config = TrainConfig.of(
        constraint="penalty", penalty=2.0, objective="negative_cosine", predictor="directset", predictor_alpha=0.7
    )
    names = {one.__name__: one for one in (TrainConfig, ConstraintOptions, PredictorOptions)}
    assert eval(repr(config), names) == config and "penalty=2.0" in repr(config)


def test_an_outcome_shows_its_verdict_its_findings_and_its_figures(outcome):
    assert (
        repr(outcome).startswith(f"Pretrained(pretrain: {outcome.record['verdict']['judgement']}; ")
        and len(repr(outcome)) < 300
    )
    html = outcome._repr_html_()
    assert html.count("<tr>") == len(outcome.findings) + 1 and "&lt;" not in html.split("<table>")[0]
    assert dir(outcome.plot) == ["spectra", "training"] or set(dir(outcome.plot)) == {"training", "spectra"}
    assert isinstance(outcome.plot.training(), Figure)
    assert len({axes.get_position().x0 for axes in outcome.plot.training(columns=1).axes}) == 1
    with pytest.raises(AttributeError, match="the page of pretrain has no figure 'staircase'; it has"):
        outcome.plot.staircase  # noqa: B018
    assert "model" in {one.name for one in fields(outcome)}


def test_what_an_outcome_says_is_escaped(outcome):
    findings = [{"quantity": "<b>x</b>", "predicted": None, "measured": "1 < 2", "agreement": None}]
    html = replace(outcome, record={**outcome.record, "findings": findings})._repr_html_()
    assert "<b>" not in html and "1 &lt; 2" in html
