"""Ctrl-C in every experiment: what was recorded until then is kept, equal to that of the whole run, and its page is drawn."""

import json
import re
import signal
from functools import cache

import numpy as np
import pytest

from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.encoders.audit import AuditConfig
from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig
from grassmann_ssl.experiments.encoders.directpred_table import DirectPredTableConfig
from grassmann_ssl.experiments.encoders.stepwise_deep import StepwiseDeepConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.experiments.linear.collapse import CollapseConfig
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.experiments.linear.stepwise import StepwiseConfig
from grassmann_ssl.experiments.networks.kernel_change import KernelChangeConfig
from grassmann_ssl.experiments.networks.ntk import NtkConfig
from grassmann_ssl.experiments.networks.width import WidthConfig
from grassmann_ssl.experiments.phase.alignment import AlignmentConfig
from grassmann_ssl.experiments.phase.basin import BasinConfig
from grassmann_ssl.experiments.phase.commutator import CommutatorConfig
from grassmann_ssl.experiments.phase.directpred import DirectPredConfig
from grassmann_ssl.experiments.phase.ema import EmaConfig
from grassmann_ssl.experiments.phase.fixed_points import FixedPointsConfig
from grassmann_ssl.experiments.phase.flow_fields import FlowFieldsConfig
from grassmann_ssl.experiments.phase.portraits import PortraitsConfig
from grassmann_ssl.experiments.phase.sweeps import SweepsConfig
from grassmann_ssl.experiments.phase.symmetry import SymmetryConfig
from grassmann_ssl.run import Stopped, run
from grassmann_ssl.runs import Outcome, Run, unfinished
from tests.experiments.progress import Counted, Interrupting

SETTINGS = {
    CompareConfig: {
        "data": "gaussian", "objectives": ("barlow_twins",), "seeds": 2, "steps": 20, "dim": 2, "init_scales": (1e-1, 1e-2),
        "spectrum": (1.0, 0.6, 0.2),
    },
    TrainConfig: {"steps": 6, "batch": 32, "records": 6, "hidden": 16, "dim": 4},
    CompareEncodersConfig: {"arms": ("batch=32,dim=4",), "seeds": 2, "steps": 2, "records": 2},
    DirectPredTableConfig: {
        "predictors": ("linear",), "teacher": 0.0, "weight_decay": 0.0, "rates": (), "batch": 32, "dim": 4, "seeds": 2, "steps": 2,
        "records": 2,
    },
    StepwiseDeepConfig: {
        "objectives": ("vicreg", "barlow_twins"), "init_scales": (0.01,), "dim": 2, "batch": 32, "steps": 16, "records": 16, "pairs": 4,
    },
    StepwiseConfig: {
        "data": "gaussian", "seeds": 2, "dim": 2, "share": 0.1, "init_scale": 1e-2, "spectrum": (1.0, 0.6, 0.2),
    },
    AlignmentConfig: {"seeds": 2, "dim": 2, "inputs": 3, "until": 1.0, "learning_rate": 0.05},
    PortraitsConfig: {"eta": (0.15, 0.3), "starts": (2, 2)},
    FixedPointsConfig: {"tau": (1.0,), "alpha_p": (1.0, 2.0), "etas": 4},
    SweepsConfig: {"until": 1.0, "learning_rate": 0.05},
    EmaConfig: {"runs": 2, "until": 1.0, "eta": (0.01,), "gamma_a": (0.9,)},
    SymmetryConfig: {"seeds": 2, "dim": 2, "inputs": 3, "until": 1.0, "eta": (0.01, 0.05)},
    CommutatorConfig: {"seeds": 2, "dim": 2, "inputs": 3, "until": 1.0, "eta": (0.05,), "tau": (1.0,)},
    FlowFieldsConfig: {"eta": (0.1, 0.2), "starts": (2, 2)},
    BasinConfig: {"cells": 4},
    DirectPredConfig: {"seeds": 2, "eta": (0.05, 0.15), "until": 5.0, "batch": 8},
    WidthConfig: {"data": "gaussian", "dim": 2, "hidden": (2, 4), "seeds": 2, "rates": (0.4, 0.2), "horizon": 4.0},
    KernelChangeConfig: {
        "dim": 2, "widths": (8, 16, 32), "triplets": 4, "seeds": 2, "horizon": 1.0, "free_time": 0.5, "spectrum": (1.0, 0.5, 0.2),
    },
    NtkConfig: {"pairs": 8, "dim": 2, "widths": (8, 32), "seeds": 2, "init_scale": 1e-2},
    CollapseConfig: {
        "objectives": ("linear_contrastive", "squared_noncontrastive"), "constraints": ("free", "predictor"), "seeds": 2, "dim": 2,
        "spectrum": (1.0, 0.7, 0.4), "noise": (0.2, 1.5), "steps": 20,
    },
    AuditConfig: {},
}  # fmt: skip
NAMES = {config.NAME: config for config in EXPERIMENTS}
# What is said of an interrupt at the last tick; None where nothing is kept: the parts mean nothing alone.
LAST = {
    "compare": "in initialisation scales, which is left out",
    "train": "after step 6 of 6",
    "compare-encoders": "in seed 2, which is left out, part 2 of 2",
    "directpred-table": "in seed 2, which is left out, part 2 of 2",
    "stepwise-deep": "in barlow_twins from 0.01, which is left out, part 2 of 2",
    "stepwise": r"after step (\d+) of (\d+)",
    "phase-alignment": "in learning rate 0.025, which is left out, part 2 of 2",
    "phase-portraits": "in panel 2, which is left out, part 2 of 2",
    "phase-fixed-points": "in panel 2, which is left out, part 2 of 2",
    "phase-sweeps": "after step 59 of 60",
    "phase-ema": "after step 59 of 60",
    "phase-symmetry": "after step 59 of 60",
    "phase-commutator": "after step 59 of 60",
    "phase-flow-fields": "in panel 4, which is left out, part 4 of 4",
    "phase-basin": None,
    "phase-directpred": "in directcopy, which is left out, part 4 of 4",
    "width": "in h = 4, which is left out, part 2 of 2",
    "kernel-change": "in width 32, which is left out, part 3 of 3",
    "ntk": "in width 32, which is left out, part 2 of 2",
    "collapse": "in squared_noncontrastive under predictor, which is left out, part 3 of 3",
    "audit": None,
}
# Arrays that are of the end of the run, or of its widest networks: another end, another array.
OF_THE_END = {
    "compare": "weights/barlow_twins/grassmann",
    "ntk": "(grouped|independent)_",
    "phase-commutator": "bound",
    "stepwise": "measured_times",
}


@pytest.fixture(scope="module")
def config_of(tmp_path_factory):
    """The small config of an experiment, by name."""
    rows = tmp_path_factory.mktemp("audit") / "z.npy"
    np.save(rows, np.random.default_rng(0).normal(size=(40, 4)))
    files = {"audit": {"file": str(rows)}}
    return lambda name: NAMES[name].of(**SETTINGS[NAMES[name]], **files.get(name, {}))


@pytest.fixture(scope="module")
def whole(config_of):
    """The outcome and the progress of every experiment that comes to its end, each run once, without a page."""

    @cache
    def outcome(name):
        progress = Counted()
        return EXPERIMENTS[NAMES[name]](config_of(name), progress), progress

    return outcome


def stopped(config, folder, at):
    """The outcome of a run that is interrupted at this tick, as stored; None if nothing was kept."""
    try:
        run(type(config).of(**config.values() | {"out": folder}), Interrupting(at))
    except KeyboardInterrupt:
        assert not folder.exists() or unfinished(folder)
        return None
    return Outcome.load(folder)


def is_leading_block(part, of, exactly):
    """Whether an array is the first entries of another along every axis: those of completed parts, widths, steps."""
    if part.ndim != of.ndim or any(a > b for a, b in zip(part.shape, of.shape, strict=True)):
        return False
    block = of[tuple(slice(n) for n in part.shape)]
    # Theory is integrated until the last time, with other steps until another.
    return (
        np.array_equal(part, block, equal_nan=True)
        if exactly
        else np.allclose(part, block, rtol=1e-6, atol=1e-9, equal_nan=True)
    )


def test_every_experiment_is_interrupted_here():
    assert set(SETTINGS) == set(EXPERIMENTS) and set(LAST) == set(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("name", LAST)
def test_an_interrupt_at_the_first_tick_leaves_nothing(name, config_of, tmp_path):
    if name == "train":  # its first tick comes after a step
        pytest.skip("a step is done and recorded")
    assert stopped(config_of(name), tmp_path / "run", 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", LAST)
def test_progress_counts_every_step(name, whole):
    outcome, progress = whole(name)
    assert progress.totals == [sum(progress.done)] and outcome.interrupted is None


@pytest.mark.slow
@pytest.mark.parametrize("when", [0.6, 1.0])
@pytest.mark.parametrize("name", LAST)
def test_an_interrupt_keeps_what_was_recorded(name, when, config_of, whole, tmp_path):
    outcome, progress = whole(name)
    kept = stopped(config_of(name), tmp_path / "run", round(when * len(progress.done)))
    if when == 1:
        assert kept is None if LAST[name] is None else re.fullmatch(LAST[name], kept.interrupted)
    if kept is None:
        return
    page = (tmp_path / "run" / "report.html").read_text().replace("<wbr>", "")
    assert kept.interrupted and f"This run was interrupted: {kept.interrupted}" in page
    asked = config_of(name).values() | {"out": str(tmp_path / "run")}
    assert kept.record["config"] == json.loads(json.dumps(asked))
    for array, values in kept.arrays.items():
        if not re.match(OF_THE_END.get(name, "$"), array):
            exactly = not re.search("predicted|exact|curves|margin", array)
            assert is_leading_block(values, outcome.arrays[array], exactly), array
    assert kept.metrics.keys() == outcome.metrics.keys() and kept.findings
    said = " ".join(str(cell) for one in kept.findings for cell in vars(one).values())
    assert not re.search(r"\bnan\b", said)


@pytest.fixture
def answered():
    """Ctrl-C is answered as on a terminal, also where these tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pressing(times, finish=Run.finish):
    """What a run does at its end, with Ctrl-C pressed just before: all is trained, and not yet compared in full."""

    def pressed(*given):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return finish(*given)

    return pressed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare", "train", "stepwise", "phase-sweeps", "phase-basin", "ntk"])
def test_after_the_last_training_an_interrupt_waits_until_all_is_written(
    name, config_of, whole, tmp_path, monkeypatch, capsys, answered
):
    """One experiment of every way to train: parts that keep what they recorded, one training, one simulation, indivisible ones, widths."""
    outcome = whole(name)[0]
    monkeypatch.setattr(Run, "finish", pressing(1))
    config = type(config_of(name)).of(**config_of(name).values() | {"out": tmp_path / "run"})
    with pytest.raises(Stopped, match=r"^while it was compared and written, which is done; report: .*report.html"):
        run(config)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "press it again to lose that" in capsys.readouterr().err
    kept = Outcome.load(tmp_path / "run")
    assert kept.interrupted is None and (tmp_path / "run" / "report.html").exists()
    for array, values in outcome.arrays.items():
        assert np.array_equal(kept.arrays[array], values, equal_nan=values.dtype.kind == "f"), array


@pytest.mark.long
def test_pressed_twice_it_does_not_wait(tmp_path, monkeypatch, answered):
    monkeypatch.setattr(Run, "finish", pressing(2))
    config = PortraitsConfig.of(**SETTINGS[PortraitsConfig], out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt) as stop:
        run(config)
    assert not isinstance(stop.value, Stopped) and not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.long
def test_an_interrupt_between_two_trainings_keeps_the_first(tmp_path, monkeypatch, answered):
    """The final angle is fitted over initialisation scales after all arms are trained."""
    parts = Run.parts

    def pressed(self, items, *given, **more):
        found = parts(self, items, *given, **more)
        if self._depth == 0 and self.interrupted is None:
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Run, "parts", pressed)
    try:
        outcome = run(CompareConfig(**SETTINGS[CompareConfig], out=tmp_path / "run"))
    except Stopped:
        outcome = Outcome.load(tmp_path / "run")
    assert outcome.interrupted == "before initialisation scales"
