"""Logs of a training while it goes on: what they are told, and that none ends a run."""

from pathlib import Path

import pytest
import torch

from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.experiments.encoders import material
from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig
from grassmann_ssl.experiments.encoders.stepwise_deep import StepwiseDeepConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.interrupt import Terminated
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, LoggedConfig
from grassmann_ssl.runs.logs import LOGS, Logs, Open

QUICK = {"steps": 6, "batch": 32, "records": 4, "hidden": 16, "dim": 4, "objective": "negative_cosine"}
FAKE = "json"  # a log is called as the package that it needs, and this one is always there


class Told:
    """A log that keeps what it is told, and fails where that is asked for."""

    def __init__(self):
        self.trainings, self.closed, self.fails = {}, [], lambda when: None

    def open(self, folder, name, settings):
        self.fails("open")
        told = self.trainings.setdefault(name, {})

        def write(step, numbers):
            self.fails(step)
            told[step] = dict(numbers)

        def close():
            self.closed.append(name)
            self.fails("close")

        return Open(f"{folder.parent}/{name}", write, close)


@pytest.fixture
def told(monkeypatch):
    told = Told()
    monkeypatch.setitem(LOGS, FAKE, told.open)
    return told


@pytest.fixture
def few(monkeypatch):
    whole = load_split("digits", torch.Generator().manual_seed(1))
    split = Split(whole.train[:96], whole.train_labels[:96], whole.test[:60], whole.test_labels[:60])
    monkeypatch.setattr(material, "load_split", lambda *_, **__: split)


class Killed(Exception):
    """In the place of SIGKILL: nothing of the package catches it."""


def killing(at):
    """Progress that ends the run at its tick of this number."""
    left = iter(range(1, at))

    def tick(label, steps=1):
        if next(left, None) is None:
            raise Killed

    return tick


def failing(at, error):
    def fails(when):
        if when == at:
            raise error

    return fails


def test_a_run_logs_the_numbers_that_it_records(few, told, tmp_path):
    outcome = run(TrainConfig.of(**QUICK, log=(FAKE,), out=tmp_path / "one"), page=False)
    ((name, rows),) = told.trainings.items()
    assert name.startswith("one-") and told.closed == [name]
    assert outcome.record["logs"] == {FAKE: [f"{tmp_path}/{name}"]} and outcome.unlogged is None
    assert list(rows) == outcome.metrics["step"].tolist() and "loss" not in rows[0]  # there is none before the first
    for k, (step, row) in enumerate(rows.items()):
        for column in ("loss", "z_1", "directions_4"):
            if step or column != "loss":
                assert row[column.replace("_", "/")] == outcome.metrics[column][k]
        p = outcome.arrays["spectrum_h"][k] / outcome.arrays["spectrum_h"][k].sum()
        rank = torch.distributions.Categorical(torch.as_tensor(p)).entropy().exp()
        assert row["effective_rank/h"] == pytest.approx(float(rank), rel=1e-9)


def test_a_run_that_goes_on_logs_what_was_recorded_before(few, told, tmp_path):
    config = TrainConfig.of(**QUICK, save_every=1, out=tmp_path / "one")
    with pytest.raises(Killed):
        run(config, lambda total: killing(4), page=False)
    outcome = run(TrainConfig.of(**QUICK, log=(FAKE,), out=tmp_path / "one"), page=False)  # a log may be asked for then
    assert outcome.resumed
    (rows,) = told.trainings.values()
    assert list(rows) == outcome.metrics["step"].tolist() and next(iter(rows)) == 0


@pytest.mark.slow
def test_a_run_whose_log_fails_is_the_same_and_says_so(few, told, tmp_path, capsys):
    told.fails = failing(6, OSError(28, "No space left\x1b on device"))
    outcome = run(TrainConfig.of(**QUICK, log=(FAKE,), out=tmp_path / "one"))
    reason = "json: nothing is logged from step 6 on: [Errno 28] No space left\\x1b on device"
    assert outcome.unlogged == reason
    assert capsys.readouterr().err == f"{reason}; the run goes on\n"
    assert f"Not all is in the logs: {reason}. The run" in (tmp_path / "one" / "report.html").read_text()
    other = run(TrainConfig.of(**QUICK, out=tmp_path / "none"), page=False)
    assert not {"logs", "unlogged"} & other.record.keys()
    assert all(outcome.arrays[name].tobytes() == values.tobytes() for name, values in other.arrays.items())


@pytest.mark.parametrize(("at", "step"), [("open", 0), (0, 0), (5, 5), ("close", 7)])
def test_a_log_that_fails_is_said_once_and_not_asked_again(at, step, told, tmp_path, capsys):
    told.fails = failing(at, RuntimeError("down.\nmore"))
    logs = Logs(TrainConfig(log=(FAKE,), out=tmp_path / "one"))
    for training in ("first", "second"):
        with logs.of(training) as log:
            for now in (0, 5, 7):
                log(now, {"loss": 1.0})
    reason = f"first, json: nothing is logged from step {step} on: down"
    assert logs.record()["unlogged"] == reason and capsys.readouterr().err == f"{reason}; the run goes on\n"
    assert all("-first" in name for name in told.trainings)


@pytest.mark.slow
def test_every_training_of_a_comparison_has_a_log(few, told, tmp_path):
    arms = ("batch=32", "batch=32,constraint=grassmann")
    config = CompareEncodersConfig.of(arms=arms, seeds=1, steps=2, log=(FAKE,), out=tmp_path / "two")
    outcome = run(config, page=False)
    ends = ("-seed-1-batch=32", "-seed-1-batch=32,constraint=grassmann")
    assert all(name.endswith(end) for name, end in zip(told.trainings, ends, strict=True))
    assert len(outcome.record["logs"][FAKE]) == 2 and told.closed == list(told.trainings)


def test_ctrl_c_and_termination_pass_through_a_log(told, tmp_path):
    logs = Logs(TrainConfig(log=(FAKE,), out=tmp_path / "one"))
    for error in (KeyboardInterrupt(), Terminated(15)):
        told.fails = failing(1, error)
        with pytest.raises(type(error)):
            with logs.of() as log:
                log(1, {})
    assert not logs.lost and len(told.closed) == 2


def test_no_other_process_of_torchrun_logs(told, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    logs = Logs(TrainConfig(log=(FAKE,), out=tmp_path / "one"))
    with logs.of() as log:
        log(0, {"loss": 1.0})
    assert not told.trainings and logs.record() == {}


def test_a_missing_extra_is_refused_before_anything_is_done(monkeypatch):
    monkeypatch.setattr("grassmann_ssl.runs.logs.find_spec", lambda name: None)
    for config_type in (TrainConfig, CompareEncodersConfig, StepwiseDeepConfig):
        with pytest.raises(ConfigError, match=r"^log: wandb is not installed: pip install 'grassmann_ssl\[wandb\]'$"):
            config_type.of(log=("wandb",))
    with pytest.raises(ConfigError, match=r"log must be one of tensorboard, wandb, got 'tensorbord'.*tensorboard"):
        LoggedConfig(log=("tensorbord",))


@pytest.mark.slow
def test_tensorboard_reads_what_was_logged(few, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = run(TrainConfig.of(**QUICK, log=("tensorboard",), out=tmp_path / "one"), page=False)
    (at,) = outcome.record["logs"]["tensorboard"]
    events = EventAccumulator(at)
    events.Reload()
    steps = outcome.metrics["step"].tolist()
    for tag, column, first in (("loss", "loss", 1), ("z/1", "z_1", 0), ("directions/4", "directions_4", 0)):
        found = [(one.step, one.value) for one in events.Scalars(tag)]
        wanted = outcome.metrics[column].astype("float32").tolist()
        assert found == list(zip(steps, wanted, strict=True))[first:]


@pytest.mark.slow
def test_wandb_keeps_what_was_logged(few, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = run(TrainConfig.of(**QUICK, log=("wandb",), out=tmp_path / "one"), page=False)
    (at,) = outcome.record["logs"]["wandb"]
    assert outcome.unlogged is None
    (file,) = Path(at).glob("*.wandb")
    content = file.read_bytes()
    assert all(name in content for name in (b"effective_rank/h", b"directions/4", b"batch"))
