"""Trainings that are killed, interrupted or terminated go on to the same bits; what cannot go on is refused in one line, untouched."""

import json
import signal

import numpy as np
import pytest
import torch

from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders import compare_encoders, evaluation, fitting, material
from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig
from grassmann_ssl.experiments.encoders.fitting import fit
from grassmann_ssl.experiments.encoders.material import Pictures
from grassmann_ssl.experiments.encoders.stepwise_deep import StepwiseDeepConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.interrupt import Terminated
from grassmann_ssl.run import Stopped, Unwritten, run
from grassmann_ssl.runs import ConfigError, Outcome, unfinished
from grassmann_ssl.training import Interrupted
from tests.commands import command
from tests.experiments.progress import Interrupting
from tests.processes import start

ALONE = Process(0, 1, torch.device("cpu"))
QUICK = {
    "steps": 6,
    "batch": 32,
    "records": 4,
    "hidden": 16,
    "dim": 4,
    "constraint": "grassmann",
    "objective": "negative_cosine",
}
TIMES = ("date", "wall_time_s", "seconds_per_step", "resumed")


def some_images():
    whole = load_split("digits", torch.Generator().manual_seed(1))
    return Split(whole.train[:96], whole.train_labels[:96], whole.test[:60], whole.test_labels[:60])


@pytest.fixture(scope="module")
def split():
    return some_images()


@pytest.fixture(autouse=True)
def few(monkeypatch, split):
    """Runs on few images; the default handlers, also where the tests run in the background, which ignores Ctrl-C."""
    monkeypatch.setattr(material, "load_split", lambda *_, **__: split)
    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
            (signal.SIGHUP, signal.SIG_DFL),
        )
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def quick(folder, **settings):
    return TrainConfig.of(**{**QUICK, **settings, "out": folder})


class At:
    """Progress that does something at the tick of this number."""

    def __init__(self, number, act):
        self.left, self.act, self.done = number, act, 0

    def __call__(self, total):
        return self.tick

    def tick(self, label, steps=1):
        self.left -= 1
        self.done += steps
        if not self.left:
            self.act()


def signals(*numbers):
    def raised():
        for number in numbers:
            signal.raise_signal(number)

    return raised


class Killed(Exception):
    """In the place of SIGKILL, where the process shall go on: nothing of the package catches it."""


def kill():
    raise Killed


def compared(record):
    """A record without times, and what says them."""
    kept = {name: value for name, value in record.items() if name not in TIMES}
    kept["config"] = {
        name: value
        for name, value in record["config"].items()
        if name not in ("out", "overwrite", "resume", "save_every")
    }
    kept["findings"] = [one for one in record["findings"] if not one["quantity"].startswith("time per step")]
    for row in kept.get("runs", []) if isinstance(kept.get("runs"), list) else []:
        row.pop("seconds_per_step", None)
    kept.pop("arms", None)
    return json.loads(json.dumps(kept))


def assert_same(folder, other):
    one, two = Outcome.load(folder), Outcome.load(other)
    for name in ("metrics", "arrays"):
        mine, others = getattr(one, name), getattr(two, name)
        assert mine.keys() == others.keys()
        for key in set(mine) - {"seconds_per_step"}:
            assert mine[key].tobytes() == others[key].tobytes(), key
    for at in other.glob("*.safetensors"):
        assert (folder / at.name).read_bytes() == at.read_bytes(), at.name
    if one.name != "compare-encoders":
        assert compared(one.record) == compared(two.record)
    assert sorted(at.name for at in folder.iterdir()) == sorted(at.name for at in other.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, split):
    """The folder of the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "load_split", lambda *_, **__: split)
        run(quick(folder))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("save_every", [2, None])
def test_a_killed_run_goes_on_to_the_same_bits(save_every, tmp_path, whole, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "FIRST_COST", 0.0)  # the first checkpoint at once
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(quick(folder, save_every=save_every), At(3, kill))
    assert {one.name for one in folder.iterdir()} == {"checkpoint.safetensors", "unfinished.json"}
    with pytest.raises(ConfigError, match=r"holds no run: it is unfinished, and the same command continues it"):
        Outcome.load(folder)
    counted = At(0, None)
    outcome = run(quick(folder), counted)
    step = 2 if save_every else 1
    assert outcome.resumed == f"at step {step} of 6" and counted.done == 6
    assert f"resumed at step {step} of 6" in capsys.readouterr().err
    assert f"This run was resumed: at step {step} of 6." in (folder / "report.html").read_text()
    assert_same(folder, whole)


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_terminated_run_saves_the_step_and_goes_on(number, code, tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises(Terminated, match=str(code)) as stopped:
        run(quick(folder), At(3, signals(number)))
    assert stopped.value.where == "after step 4 of 6; the same command continues it"
    assert not (folder / "run.json").exists() and signal.getsignal(number) == signal.SIG_DFL
    assert run(quick(folder)).resumed == "at step 4 of 6"
    assert_same(folder, whole)


@pytest.mark.long
def test_an_interrupted_run_is_judged_and_goes_on(tmp_path, whole):
    folder = tmp_path / "run"
    outcome = run(quick(folder), At(3, signals(signal.SIGINT)))
    assert outcome.interrupted == "after step 4 of 6" and Outcome.load(folder).interrupted == outcome.interrupted
    assert unfinished(folder) and (folder / "report.html").exists()
    outcome = run(quick(folder))
    assert outcome.interrupted is None and outcome.resumed == "at step 4 of 6"
    assert_same(folder, whole)


@pytest.mark.long
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_the_last_checkpoint_stays(second, tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises((Stopped, Terminated)) as stopped:
        run(quick(folder, save_every=2), At(3, signals(signal.SIGINT, second)))
    assert "the same command continues it" in (str(stopped.value) + getattr(stopped.value, "where", ""))
    assert not (folder / "run.json").exists()
    assert run(quick(folder)).resumed == "at step 2 of 6"
    assert_same(folder, whole)


def test_after_an_answered_signal_another_one_does_not_wait(tmp_path, whole, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(evaluation, "judge", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped, match="before anything was judged; the same command continues it"):
        run(quick(folder), At(3, signals(signal.SIGINT)))
    monkeypatch.undo()
    assert unfinished(folder) and not (folder / "run.json").exists()


@pytest.mark.long
def test_the_command_says_how_to_go_on(tmp_path, monkeypatch):
    given = ["train", "--steps", 6, "--batch", 32, "--records", 6, "--out", tmp_path / "run"]
    steps = []

    def after(step, stop):
        def save(self, at):
            steps.append(at)
            if at == step:
                stop()
            return original(self, at)

        return save

    original = fitting.Saver.__call__
    for number, code, said in (
        (signal.SIGTERM, 143, "grassmann-ssl: SIGTERM, after step 2 of 6; the same command continues it"),
        (signal.SIGINT, 130, "grassmann-ssl: interrupted after step 4 of 6; the same command continues it"),
    ):
        monkeypatch.setattr(fitting.Saver, "__call__", after(2 if code == 143 else 4, signals(number)))
        done = command(*given)
        assert done.returncode == code and done.stderr.splitlines()[-1] == said
    monkeypatch.setattr(fitting.Saver, "__call__", original)
    done = command(*given)
    assert done.returncode == 0 and "resumed: at step 4 of 6" in done.stdout and steps == [0, 1, 2, 2, 3, 4]
    assert command(*given).returncode == 2  # it is finished


def test_no_resume_starts_anew(tmp_path, whole):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(quick(folder, save_every=2), At(3, kill))
    assert run(quick(folder, resume=False)).resumed is None
    assert_same(folder, whole)


def test_settings_that_cannot_be_run_throw_nothing_away(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(quick(folder, save_every=2), At(3, kill))
    kept = (folder / "checkpoint.safetensors").read_bytes()
    for bad in ({"batch": 5000}, {"resume": False, "batch": 5000}):
        with pytest.raises(ConfigError, match="batch must be at most"):
            run(quick(folder, overwrite=True, **bad))
        assert (folder / "checkpoint.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[: len(b) // 2], "is not a checkpoint"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "was changed after it was written"),
        (lambda b: b"", "is not a checkpoint"),
    ],
)
def test_a_torn_checkpoint_is_refused_and_untouched(change, message, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(quick(folder, save_every=2), At(3, kill))
    path = folder / "checkpoint.safetensors"
    path.write_bytes(change(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"^out: .*{message}.*; resume = False .--no-resume. starts the run anew$"):
        run(quick(folder))
    assert path.read_bytes() == before


def test_data_that_changed_under_the_same_name_are_refused(tmp_path, split, monkeypatch):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(quick(folder, save_every=2), At(3, kill))
    labels = split.test_labels.clone()
    labels[-1] = (labels[-1] + 1) % 10
    other = Split(split.train, split.train_labels, split.test, labels)
    assert split.fingerprint != other.fingerprint
    monkeypatch.setattr(material, "load_split", lambda *_, **__: other)
    with pytest.raises(
        ConfigError, match=r"other settings: samples of digits: '.{16}' then, '.{16}' now; resume = False .--no-resume."
    ):
        run(quick(folder))
    assert unfinished(folder)


def test_a_checkpoint_that_cannot_be_saved_is_said_once_and_the_last_one_stays(tmp_path, whole, monkeypatch, capsys):
    folder, saved = tmp_path / "run", fitting.save_checkpoint

    def full(path, *given):
        if given[2] > 2:
            raise OSError(28, "No space left on device")
        saved(path, *given)

    monkeypatch.setattr(fitting, "save_checkpoint", full)
    with pytest.raises(Killed):
        run(quick(folder, save_every=1), At(5, kill))
    said = "the checkpoint of step 3 could not be saved: No space left on device"
    assert capsys.readouterr().err.count(said) == 1
    outcome = run(quick(folder, save_every=1))
    assert outcome.resumed == "at step 2 of 6" and outcome.record["unsaved"] == said


@pytest.mark.long
@pytest.mark.parametrize("at", ["numbers", "page"])
def test_a_full_disk_at_the_end_loses_no_training(at, tmp_path, whole, monkeypatch):
    folder = tmp_path / "run"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((Outcome, "write", full) if at == "numbers" else ("grassmann_ssl.run.draw", full)))
        with pytest.raises(Unwritten, match=r"No space left on device; .+") as lost:
            run(quick(folder))
    if at == "page":
        assert f"`grassmann-ssl report {folder}` draws it" in str(lost.value) and not unfinished(folder)
        assert Outcome.load(folder).record["steps_done"] == 6
    else:
        assert "the same command continues it" in str(lost.value) and not (folder / "run.json").exists()
        assert run(quick(folder)).resumed == "at step 6 of 6"
        assert_same(folder, whole)


ARMS = tuple(
    f"objective=negative_cosine,{arm},dim=4,batch=32"
    for arm in ("constraint=grassmann", "predictor=directpred", "lr=1e30")
)


def comparison(folder, **settings):
    return CompareEncodersConfig(**{"arms": ARMS, "seeds": 2, "steps": 3, "records": 3, **settings, "out": folder})


@pytest.fixture(scope="module")
def compared_whole(tmp_path_factory, split):
    folder = tmp_path_factory.mktemp("compared") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "load_split", lambda *_, **__: split)
        run(comparison(folder))
    return folder


def kinds(folder):
    return Outcome.load(folder).metrics["kind"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 5, 8, 11])
def test_a_comparison_goes_on_from_its_parts(at, tmp_path, compared_whole, monkeypatch):
    """Killed in the first, second and third training, one of which diverges, and in the second seed."""
    monkeypatch.setattr(fitting, "FIRST_COST", 0.0)
    monkeypatch.setattr(fitting, "SHARE", 1e9)  # a checkpoint of every step
    folder, trained = tmp_path / "run", []
    with pytest.raises(Killed):
        run(comparison(folder), At(at, kill))
    original = compare_encoders.fit
    monkeypatch.setattr(compare_encoders, "fit", lambda *given: trained.append(given[0].seed) or original(*given))
    outcome = run(comparison(folder))
    finished = 6 - len(trained)
    assert outcome.resumed == f"after {finished} of 6 trainings" and finished == (at - 1) // 3 + (at > 6)
    assert_same(folder, compared_whole)
    assert kinds(folder) == kinds(compared_whole) and kinds(folder)[2] == "diverged"


@pytest.mark.slow
def test_an_arm_that_fails_keeps_those_before_it(tmp_path, compared_whole, monkeypatch):
    folder, original = tmp_path / "run", compare_encoders.fit

    def failing(settings, *given):
        if settings.lr > 1:
            raise ZeroDivisionError("of somebody else")
        return original(settings, *given)

    with monkeypatch.context() as patch:
        patch.setattr(compare_encoders, "fit", failing)
        with pytest.raises(ZeroDivisionError):
            run(comparison(folder))
    assert sorted(one.name for one in (folder / "parts").iterdir()) == [
        "seed1-arm0.safetensors",
        "seed1-arm1.safetensors",
    ]
    assert run(comparison(folder)).resumed == "after 2 of 6 trainings"
    assert_same(folder, compared_whole)


@pytest.mark.slow
def test_an_interrupted_comparison_has_its_complete_seeds_and_goes_on(tmp_path, compared_whole):
    folder = tmp_path / "run"
    with pytest.raises(Stopped, match="before anything was judged; the same command continues it"):
        run(comparison(folder), At(2, signals(signal.SIGINT)))
    outcome = run(comparison(folder), At(10, signals(signal.SIGINT)))
    assert outcome.interrupted == "in seed 2, which is left out, part 2 of 2" and unfinished(folder)
    assert len(Outcome.load(folder).metrics["arm"]) == 3
    with pytest.raises(Terminated) as stopped:
        run(comparison(folder), At(1, signals(signal.SIGTERM)))
    assert stopped.value.code == 143
    assert run(comparison(folder)).interrupted is None
    assert_same(folder, compared_whole)


@pytest.mark.slow
def test_a_broken_part_and_other_data_are_refused(tmp_path, split, monkeypatch):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(comparison(folder), At(5, kill))
    part = folder / "parts" / "seed1-arm0.safetensors"
    whole = part.read_bytes()
    for content in (whole[:40], whole[:-1] + bytes([whole[-1] ^ 1])):
        part.write_bytes(content)
        with pytest.raises(
            ConfigError,
            match=r"^out: .*arm0.safetensors cannot be read: .*; resume = False .--no-resume. starts the run anew$",
        ):
            run(comparison(folder))
        assert part.read_bytes() == content
    part.write_bytes(whole)
    other = Split(split.train.flip(0), split.train_labels, split.test, split.test_labels)
    monkeypatch.setattr(material, "load_split", lambda *_, **__: other)
    with pytest.raises(
        ConfigError,
        match=r"arm0.safetensors is of other samples of digits: .{16} then, .{16} now; resume = False .--no-resume.",
    ):
        run(comparison(folder))


@pytest.mark.slow
def test_stepwise_deep_goes_on_from_its_objectives(tmp_path):
    settings = {
        "objectives": ("vicreg",),
        "init_scales": (0.01, 1.0),
        "dim": 2,
        "batch": 32,
        "steps": 16,
        "records": 16,
        "pairs": 4,
    }
    run(StepwiseDeepConfig(**settings, out=tmp_path / "whole"))
    with pytest.raises(Killed):
        run(StepwiseDeepConfig(**settings, out=tmp_path / "run"), At(20, kill))
    assert run(StepwiseDeepConfig(**settings, out=tmp_path / "run")).resumed == "after 1 of 2 trainings"
    assert_same(tmp_path / "run", tmp_path / "whole")


def in_process(rank, world, store, path, at):
    """A training that is interrupted at this tick."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    config = TrainConfig.of(**QUICK, save_every=3)
    process = Process(rank, world, torch.device("cpu"))
    try:
        fit(config, Pictures(config, some_images(), process), process, Interrupting(at).tick, lambda: path)
    except Interrupted:
        pass
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_one_process_goes_on_after_two_and_two_after_one(first, tmp_path, split):
    path, config = tmp_path / "c.safetensors", TrainConfig.of(**QUICK, save_every=3)
    whole = fit(config, Pictures(config, split, ALONE), ALONE)
    if first == 1:
        with pytest.raises(Interrupted):
            fit(config, Pictures(config, split, ALONE), ALONE, Interrupting(4).tick, lambda: path)
        start(in_process, (2, tmp_path / "store", path, 9), 2)
    else:
        start(in_process, (2, tmp_path / "store", path, 4), 2)
    rest = fit(config, Pictures(config, split, ALONE), ALONE, None, lambda: path)
    assert rest.start == (6 if first == 1 else 3)
    for a, b in zip(whole.arm.method.state_dict().values(), rest.arm.method.state_dict().values(), strict=True):
        assert torch.allclose(
            a.double(), b.double(), rtol=2e-4, atol=2e-4
        )  # float32, six steps of momentum and batch norms
    assert np.allclose(whole.recorder.stacked()[1]["z"], rest.recorder.stacked()[1]["z"], rtol=1e-3, atol=1e-5)
