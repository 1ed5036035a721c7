"""What a training keeps: the encoder that comes back from a run folder, and the embeddings of all images."""

import json
import re
import shutil
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from grassmann_ssl import load_encoder
from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.experiments.encoders import fitting, material
from grassmann_ssl.experiments.encoders import train as experiment
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.nn.joint_embedding import embeddings
from grassmann_ssl.runs import ConfigError
from tests.commands import command
from tests.experiments.progress import Interrupting

CASES = [
    *({"constraint": name} for name in CONSTRAINTS),
    {"constraint": "stiefel", "where": "conv", "objective": "vicreg", "lr": 1e-3},
    {"constraint": "grassmann", "predictor": "directpred", "teacher": 0.9},
    {"constraint": "feature-orthonormal", "predictor": "directset", "teacher": 0.9},
    {"predictor": "mlp", "teacher": 0.9, "optimizer": "adam", "lr": 1e-3},
    {"encoder": "linear"},
    {"encoder": "mlp", "precision": "bfloat16"},
    {"optimizer": "muon", "constraint": "none"},
    pytest.param({"encoder": "resnet18", "steps": 2, "constraint": "grassmann"}, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def split():
    whole = load_split("digits", torch.Generator().manual_seed(1))
    return Split(whole.train[:64], whole.train_labels[:64], whole.test[:40], whole.test_labels[:40])


@pytest.fixture
def kept(monkeypatch, split):
    """Runs on few images; the arms that were trained, and the images."""
    monkeypatch.setattr(material, "load_split", lambda *_, **__: split)
    arms, original = [], fitting.assemble

    def kept(*arguments):
        arms.append(original(*arguments))
        return arms[-1]

    monkeypatch.setattr(fitting, "assemble", kept)
    return arms, split


def trained(folder, progress=None, **settings):
    """A training and its files, without the page."""
    config = TrainConfig.of(
        **{"steps": 4, "batch": 32, "records": 4, "objective": "negative_cosine", "out": folder} | settings
    )
    outcome = experiment.train(config, progress)
    folder.mkdir()
    outcome.write(folder)
    return outcome


@pytest.mark.long
@pytest.mark.parametrize("settings", CASES, ids=lambda settings: "-".join(map(str, settings.values())))
def test_the_encoder_of_a_folder_is_the_trained_one_bit_for_bit(settings, tmp_path, kept):
    arms, split = kept
    trained(tmp_path / "run", **settings)
    method, loaded = arms[-1].method.eval(), load_encoder(tmp_path / "run")
    assert not any(part.training for part in loaded.modules())
    rows = embeddings(method, split.test)
    with torch.no_grad():
        for images in (split.test, split.test.float() / 255):
            h = loaded(images)
            assert torch.equal(h, rows["h"]) and torch.equal(loaded.projector(h), rows["z"])
        if method.predictor is not None:
            assert torch.equal(loaded.predictor(rows["z"]), method.predictor(rows["z"]))
        if method.teacher is not None:
            images = split.test.float() / 255
            assert torch.equal(loaded.teacher(images), method.teacher(images))
    renamed = {name.removeprefix("online.") for name in constraints(method)}
    assert set(constraints(loaded)) == renamed
    for name in renamed:
        assert constraints(loaded)[name].check_point_on_manifold(loaded.get_parameter(name), atol=1e-3), name
    state = {name: value for name, value in loaded.state_dict().items() if value.is_floating_point()}
    assert all(torch.isfinite(value).all() for value in state.values())


def test_images_on_another_scale_are_told_once(tmp_path, kept):
    _, split = kept
    trained(tmp_path / "run")
    loaded, bytes_ = load_encoder(tmp_path / "run"), split.test.float()
    with pytest.warns(
        UserWarning, match=r"^the encoder was trained on values up to (1|0\.9\d+) and got values up to 255: "
    ) as told:
        loaded(bytes_)
        loaded(bytes_)
    assert len(told) == 1
    twice = load_encoder(tmp_path / "run")
    torch.vmap(lambda x: twice(x[None]))(split.test.float() / 255)
    with pytest.warns(UserWarning, match="got values up to 0.003"):
        load_encoder(tmp_path / "run")(split.test.float() / 255**2)


def test_what_was_trained_until_an_interrupt_is_kept(tmp_path, kept):
    arms, split = kept
    outcome = trained(tmp_path / "run", Interrupting(2), constraint="grassmann")
    assert outcome.interrupted == "after step 2 of 4"
    rows = embeddings(arms[-1].method, split.test)
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "run")(split.test), rows["h"])


def test_embeddings_are_stored_on_request_and_can_be_audited(tmp_path, kept):
    arms, split = kept
    trained(tmp_path / "without")
    assert not (tmp_path / "without" / "embeddings.safetensors").exists()
    trained(tmp_path / "run", embeddings=True)
    path = tmp_path / "run" / "embeddings.safetensors"
    stored = load_file(path)
    for part, images, labels in (
        ("train", split.train, split.train_labels),
        ("test", split.test, split.test_labels),
    ):
        rows = embeddings(arms[-1].method, images)
        for name in ("h", "z"):
            assert np.array_equal(stored.pop(f"{part}_{name}"), rows[name].numpy())
        assert np.array_equal(stored.pop(f"{part}_labels"), labels.numpy())
    assert not stored
    done = command("audit", path, "--array", "train_z", "--out", tmp_path / "audit")
    assert done.returncode == 0 and "64 rows of 8 dimensions" in done.stdout, done.stderr
    done = command("audit", path, "--out", tmp_path / "other")
    assert done.returncode == 2 and "test_h, test_labels, test_z, train_h" in done.stderr


def test_embeddings_of_images_without_labels(tmp_path, kept, monkeypatch):
    split = kept[1]
    monkeypatch.setattr(material, "load_split", lambda *_, **__: Split(split.train, None, split.test, None))
    trained(tmp_path / "run", embeddings=True)
    assert set(load_file(tmp_path / "run" / "embeddings.safetensors")) == {"train_h", "train_z", "test_h", "test_z"}


def test_whole_images_that_do_not_fit_are_refused_before_training_where_they_are_to_be_embedded(
    tmp_path, kept, monkeypatch
):
    split = kept[1]
    wide = torch.cat([split.test, split.test], 3)
    monkeypatch.setattr(material, "load_split", lambda *_, **__: Split(split.train, None, wide, None))
    trained(tmp_path / "run", encoder="mlp")
    with pytest.raises(ConfigError, match="cannot take the test samples of 1 x 8 x 16"):
        trained(tmp_path / "other", encoder="mlp", embeddings=True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, split):
    folder = tmp_path_factory.mktemp("stored") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "load_split", lambda *_, **__: split)
        trained(folder, constraint="grassmann", steps=2, records=2)
    return folder


def rewritten(change):
    def spoil(folder: Path):
        path = folder / "weights.safetensors"
        content = load_file(path)
        change(content)
        save_file(content, path)

    return spoil


def recorded(change):
    def spoil(folder: Path):
        record = json.loads((folder / "run.json").read_text())
        change(record)
        (folder / "run.json").write_text(json.dumps(record))

    return spoil


LAST = "projector.4.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rewritten(lambda c: c.pop(LAST)), f"weights.safetensors does not fit run.json: {LAST} is missing, and float32 (8, 64) is"),
        (rewritten(lambda c: c.update(more=np.zeros(2))), "more is float64 (2,), and missing is needed"),
        (rewritten(lambda c: c.update({LAST: c[LAST][:4]})), f"{LAST} is float32 (4, 64), and float32 (8, 64) is needed"),
        (rewritten(lambda c: c.update({LAST: c[LAST].astype("float64")})), f"{LAST} is float64 (8, 64), and float32"),
        (rewritten(lambda c: c.update({LAST: 2 * c[LAST]})), f"weights.safetensors: {LAST} in the state_dict is not on"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"abc"), "weights.safetensors cannot be read: "),
        (lambda folder: (folder / "run.json").write_text("[]"), "run.json cannot be read: "),
        (lambda folder: (folder / "run.json").unlink(), "holds no run: there is no run.json in it"),
        (recorded(lambda r: r.update(experiment="compare")), "is a run of compare; encoders are kept by runs of train"),
        (recorded(lambda r: r.pop("input")), "keeps no encoder: an earlier version wrote it; run it again"),
        (recorded(lambda r: r.update(input={"shape": [1, 8, 8]})), "run.json cannot be read: 'dtype'"),
        (recorded(lambda r: r["input"].update(shape=[3, 8, 8])), "does not fit run.json: encoder.0.weight is float32 (16, 1, 3, 3)"),
        (recorded(lambda r: r["config"].update(colour=3)), "run.json has settings that this version does not know: colour"),
        (recorded(lambda r: r["config"].update(hidden=32)), "does not fit run.json: projector.0.weight is float32 (64, 256)"),
        (recorded(lambda r: r["config"].update(lr="fast")), "run.json: lr must be a number, got 'fast'"),
        (recorded(lambda r: r["config"].update(hidden=10**17)), "run.json: Storage size calculation overflowed"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_hold_the_encoder_is_refused_in_one_line(spoil, message, tmp_path, stored):
    # As for users: a setting of another type is found by the config itself.
    jaxtyping.config.update("jaxtyping_disable", True)
    shutil.copytree(stored, tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        load_encoder(tmp_path / "run")
    assert "\n" not in str(refused.value)
