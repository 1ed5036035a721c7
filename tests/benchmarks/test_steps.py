"""The benchmark of the detection of steps on few curves: its labels, its counts, and whether it notices a worse detector."""

import json

import numpy as np
import pytest
import torch

from benchmarks import steps
from benchmarks.steps import Curve, matched
from grassmann_ssl.metrics.steps import Steps

TIME = np.geomspace(0.1, 100, 60)
CURVE = Curve(TIME, np.ones(60), (1.0, 10.0), (50.0,))


def recorded(seeds=3):
    return {row["set"]: row for row in steps.run(torch.device("cpu"), 1, seeds)}


def totals(rows, name):
    chosen = [row for key, row in rows.items() if key.startswith(name)]
    return [sum(row[key] for row in chosen) for key in ("labelled", "found", "right")]


def test_steps_are_found_and_little_else():
    rows = recorded()
    for name, least in (("deep runs", 0.9), ("exact eigenvalues", 0.9)):
        labelled, found, right = totals(rows, name)
        assert labelled > 20 and right >= least * labelled and right >= 0.9 * found
    smooth = rows["smooth curves without steps"]
    assert smooth["curves"] == 24 and smooth["labelled"] == smooth["found"] == 0
    lines = steps.markdown([{"records": list(rows.values())}])
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + len(rows)


def moved(right):
    return lambda *values, **options: tuple(
        Steps(tuple(1.3 * t for t in one.times), one.heights) for one in right(*values, **options)
    )


def silent(right):
    return lambda *values, **options: tuple(Steps((), ()) for _ in right(*values, **options))


def eager(right):
    """A step of every eigenvalue, at the middle record."""
    return lambda time, spectra, **options: (Steps((float(time[len(time) // 2]),), (1.0,)),) * spectra.shape[1]


@pytest.mark.parametrize("worse", [moved, silent, eager])
def test_a_worse_detector_is_noticed(worse, monkeypatch):
    monkeypatch.setattr(steps, "eigenvalue_steps", worse(steps.eigenvalue_steps))
    labelled, _, right = totals(recorded(1), "deep runs")
    assert right < 0.2 * labelled


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        ([1.0, 10.0], (2, 2)),
        ([1.1, 11.0], (2, 2)),
        ([1.2], (0, 1)),
        ([0.95, 1.05], (1, 2)),  # one label, once
        ([50.0, 60.0], (0, 0)),  # neither right nor wrong
        ([], (0, 0)),
    ],
)
def test_steps_are_matched_once_within_the_tolerance(found, counts):
    right, all_found, errors = matched(CURVE, found)
    assert (right, all_found) == counts and len(errors) == right


def test_labels_of_exact_curves_are_their_half_rises():
    for seed in range(6):
        eigenvalues, loss = steps.exact(seed, 0.0, 0.0)
        assert loss.loss and len(loss.curves) == 1
        for curve in eigenvalues.curves:
            for t in curve.steps:
                assert np.interp(t, curve.time, curve.values) == pytest.approx(0.5, abs=0.08)
                assert curve.values[-3] > 0.9 and curve.values[2] < 0.1


def test_every_stored_run_has_a_label_for_each_eigenvalue():
    paths = sorted(steps.CURVES.glob("*.json"))
    assert {path.name.startswith(steps.MADE_ON) for path in paths} == {True, False}
    for path in paths:
        content = json.loads(path.read_text())
        spectra = np.array(content["spectra"])
        assert spectra.shape == (len(content["time"]), len(content["steps"])) and content["run"].startswith(
            "stepwise-deep"
        )
        assert len(content["unclear"]) == len(content["steps"]) and all(len(one) <= 1 for one in content["steps"])
        assert not any(one and other for one, other in zip(content["steps"], content["unclear"], strict=True))
