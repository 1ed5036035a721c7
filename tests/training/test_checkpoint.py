"""Checkpoints: exact, whole or not at all, and refused in one line before anything of a wrong one is loaded."""

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from grassmann_ssl.nn import constrain
from grassmann_ssl.optim import LARS, RiemannianAdam, RiemannianSGD
from grassmann_ssl.training.checkpoint import checksum, load_checkpoint, save_checkpoint


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "riemannian sgd": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    "riemannian adam": lambda p: RiemannianAdam(p, lr=0.1),
    "lars": lambda p: LARS(p, lr=0.1, momentum=0.9),
}


def stepped(kind, seed=0):
    """A constrained model and its optimizer after two steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 2))
    if "riemannian" in kind:
        constrain(model[0])
    optimizer = OPTIMIZERS[kind](model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(4, 6)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def rewritten(path, change):
    """The checkpoint with its tensors and its content changed, and a checksum that fits."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()
    content = json.loads(metadata["checkpoint"])
    change(tensors, content)
    text = json.dumps(content)
    save_file(tensors, path, metadata={"checkpoint": text, "checksum": checksum(tensors, text)})


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_goes_on_from_its_checkpoint_to_the_bit(kind, tmp_path):
    model, optimizer = stepped(kind)
    save_checkpoint(tmp_path / "c", model, [optimizer], 2, {})
    other, second = stepped(kind, seed=1)
    assert load_checkpoint(tmp_path / "c", other, [second], {}) == 2
    # Views of the file's buffer lie at any address, where products may round in another order.
    loaded = [value for own in second.state.values() for value in own.values() if isinstance(value, torch.Tensor)]
    assert loaded and all(value.data_ptr() % 64 == 0 for value in loaded)
    for one, own in ((model, optimizer), (other, second)):
        own.zero_grad()
        one(torch.ones(4, 6)).square().sum().backward()
        own.step()
    assert torch.equal(weights(model), weights(other))


def test_one_optimizer_and_a_path_in_letters_are_enough(tmp_path):
    model, optimizer = stepped("riemannian sgd")
    save_checkpoint(f"{tmp_path}/c", model, optimizer, 3)
    assert load_checkpoint(f"{tmp_path}/c", model, optimizer) == 3


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("size", [0, 1, 9])
def test_a_state_of_another_size_never_reaches_the_kernels(kind, size, tmp_path):
    model, optimizer = stepped(kind)
    save_checkpoint(tmp_path / "c", model, [optimizer], 2, {})
    key = next(name for name in load_file(tmp_path / "c") if name.startswith("optimizer0/0/") and "step" not in name)
    rewritten(tmp_path / "c", lambda tensors, content: tensors.update({key: torch.zeros(size)}))
    before = weights(model).clone()
    with pytest.raises(
        ValueError, match=rf"does not fit optimizer 0: {key.removeprefix('optimizer0/')} is float32 \({size},\)"
    ):
        load_checkpoint(tmp_path / "c", model, [optimizer], {})
    rewritten(tmp_path / "c", lambda tensors, content: tensors.pop(key))
    if any(name.startswith("optimizer0/0/") for name in load_file(tmp_path / "c")):
        with pytest.raises(ValueError, match="is missing, and float32"):
            load_checkpoint(tmp_path / "c", model, [optimizer], {})
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: c["groups"][0][0].update(lr=float("nan")), "lr is nan, and 0.1 is there"),
        (lambda t, c: c["groups"][0][0].update(lr="0.1"), "lr is '0.1'"),
        (lambda t, c: c["groups"][0][0].update(momentum=0.5), "momentum is 0.5, and 0.9 is there"),
        (lambda t, c: c["groups"][0].append({}), "it has 2 groups, and 1 are there"),
        (lambda t, c: c["groups"].append([]), "it has 2 optimizers, and 1 are there"),
        (lambda t, c: t.pop("model/0.weight"), "does not fit the model: 0.weight is missing"),
        (lambda t, c: t.update({"model/0.weight": t["model/0.weight"].double()}), "0.weight is float64"),
        (lambda t, c: t.update({"model/more": torch.ones(2)}), "more is float32 .* and missing is needed"),
    ],
)
def test_an_altered_checkpoint_is_refused_and_nothing_is_loaded(change, message, tmp_path):
    model, optimizer = stepped("riemannian sgd")
    save_checkpoint(tmp_path / "c", model, [optimizer], 2, {})
    rewritten(tmp_path / "c", change)
    content, before = (tmp_path / "c").read_bytes(), weights(model).clone()
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "c", model, [optimizer], {})
    assert torch.equal(weights(model), before) and (tmp_path / "c").read_bytes() == content


@given(st.integers(0, 2**31), st.integers(0, 7))
def test_any_flipped_bit_is_found(place, bit):
    model, optimizer = stepped("sgd")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c")
        save_checkpoint(path, model, [optimizer], 2, {"seed": 1})
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a checkpoint|was changed after it was written"):
            load_checkpoint(path, model, [optimizer], {"seed": 1})


def test_what_cannot_be_written_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model, optimizer = stepped("sgd")
    save_checkpoint(tmp_path / "c", model, [optimizer], 2, {})
    whole = (tmp_path / "c").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c", model, [optimizer], 3, {})
    assert (tmp_path / "c").read_bytes() == whole and [one.name for one in tmp_path.iterdir()] == ["c"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a checkpoint: not a file"):
        load_checkpoint(tmp_path / "pipe", nn.Linear(2, 2), [], {})
