"""Checkpoints in an open format: tensors in safetensors, numbers as JSON in its metadata, written atomically, checked before use."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from grassmann_ssl.runs.disk import replacing


@runtime_checkable
class Recording(Protocol):
    """What was recorded until a checkpoint, as tensors; `restore` raises ValueError where they do not fit."""

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


NONE: Mapping[str, Any] = MappingProxyType({})
Shape = tuple[torch.dtype, tuple[int, ...]]


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    step: int,
    notes: Mapping[str, Any] = NONE,
    scaler: torch.amp.GradScaler | None = None,
    recording: Recording | None = None,
) -> None:
    """Write what decides the steps from `step` on, and what was recorded before; `notes` (JSON) are compared when it is loaded.

    Random states are not part of it: draw what a step needs from a generator that is seeded by the step.
    What was at `path` is replaced when the whole is on the disk, and stays if writing fails. Raises OSError then.
    """
    path, optimizers = Path(path), _listed(optimizers)
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"recording/{name}": value for name, value in (recording.state() if recording else {}).items()}
    settings = []
    for k, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for index, entries in state["state"].items():
            tensors |= {
                f"optimizer{k}/{index}/{key}": torch.as_tensor(value)
                for key, value in entries.items()
                if value is not None
            }
        settings.append([{n: v for n, v in group.items() if n != "params"} for group in state["param_groups"]])
    # A copy each: shared memory, as of tied weights, is not for this format.
    owned = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    content = json.dumps({"step": step, "groups": settings, "notes": dict(notes), "scaler": _of_scaler(scaler)})
    with replacing(path) as scratch:
        try:
            save_file(owned, scratch, metadata={"checkpoint": content, "checksum": checksum(owned, content)})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def _listed(optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> Sequence[torch.optim.Optimizer]:
    return [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else optimizers


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    notes: Mapping[str, Any] = NONE,
    scaler: torch.amp.GradScaler | None = None,
    recording: Recording | None = None,
) -> int:
    """Restore a model, its optimizers, the scaler of its loss and what was recorded from a checkpoint; returns the next step.

    Everything is checked before anything is loaded: torch's fused optimizers read the memory that a state should have, whatever it has.
    Raises ValueError where the file is no whole checkpoint, was changed after it was written, or is one of other settings (names those that
    differ), parameters or shapes; the model and the optimizers are then as before.
    """
    path, optimizers = Path(path), _listed(optimizers)
    content, tensors = _read(path)
    then, now = content["notes"], json.loads(json.dumps(dict(notes)))
    different = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    if different:
        told = "; ".join(f"{name}: {then.get(name)!r} then, {now.get(name)!r} now" for name in different)
        raise ValueError(f"{path} is a checkpoint of other settings: {told}")
    weights = _part(tensors, "model/")
    _compare(path, "the model", weights, {name: _shape(value) for name, value in model.state_dict().items()})
    if len(content["groups"]) != len(optimizers):
        raise ValueError(
            f"{path} does not fit: it has {len(content['groups'])} optimizers, and {len(optimizers)} are there"
        )
    states = [_part(tensors, f"optimizer{k}/") for k in range(len(optimizers))]
    for k, (state, expected) in enumerate(zip(states, _expected(model, optimizers), strict=True)):
        stepped = {name.split("/")[0] for name in state}
        _compare(path, f"optimizer {k}", state, {n: s for n, s in expected.items() if n.split("/")[0] in stepped})
        _check_groups(path, k, content["groups"][k], optimizers[k].param_groups)
    scales = content.get("scaler")
    if not isinstance(scales, dict) or scales.keys() != _of_scaler(scaler).keys():
        raise ValueError(f"{path} does not fit: its loss scale is {scales!r}, and {_of_scaler(scaler)!r} is there")
    if recording is not None:
        recording.restore(_part(tensors, "recording/"))
    model.load_state_dict(weights)
    if scaler is not None:
        scaler.load_state_dict(scales)
    for optimizer, groups, state in zip(optimizers, content["groups"], states, strict=True):
        whole = optimizer.state_dict()
        whole["state"] = {}
        for name, value in state.items():
            index, key = name.split("/")
            whole["state"].setdefault(int(index), {})[key] = value
        for group, saved in zip(whole["param_groups"], groups, strict=True):
            group |= saved
        optimizer.load_state_dict(whole)
    return int(content["step"])


def _of_scaler(scaler: torch.amp.GradScaler | None) -> dict[str, Any]:
    return {} if scaler is None else scaler.state_dict()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"{path} is not a checkpoint: {'not a file' if path.exists() else 'there is no such file'}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # A copy each: views of the file's buffer lie at any address, and products of them round in another order.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        text, written = metadata["checkpoint"], metadata["checksum"]
        content = json.loads(text)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint: {str(error).splitlines()[0]}") from None
    if checksum(tensors, text) != written:
        raise ValueError(f"{path} was changed after it was written: its checksum is another")
    return content, tensors


def checksum(tensors: Mapping[str, Tensor], content: str) -> str:
    """Of the numbers, names, types and shapes of tensors on the CPU, and of the text."""
    found = hashlib.blake2b(content.encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _shape(value: Any) -> Shape:
    tensor = torch.as_tensor(value)
    return tensor.dtype, tuple(tensor.shape)


def _compare(path: Path, what: str, found: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> None:
    """Raise ValueError where names, types or shapes differ."""
    for name in sorted({*found, *expected}):
        there, needed = _shape(found[name]) if name in found else None, expected.get(name)
        if there != needed:
            raise ValueError(f"{path} does not fit {what}: {name} is {_told(there)}, and {_told(needed)} is needed")


def _told(one: Shape | None) -> str:
    return "missing" if one is None else f"{str(one[0]).removeprefix('torch.')} {one[1]}"


def _expected(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Shape]]:
    """What the state of each optimizer holds after a step, from one step of a copy along no gradient."""
    _, copies = copy.deepcopy((model, list(optimizers)))
    found = []
    for optimizer in copies:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        state = optimizer.state_dict()["state"]
        found.append({f"{i}/{key}": _shape(v) for i, own in state.items() for key, v in own.items() if v is not None})
    return found


def _check_groups(path: Path, k: int, saved: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for settings of parameter groups that are not those of the optimizer; the learning rate follows a schedule."""
    if len(saved) != len(groups):
        raise ValueError(f"{path} does not fit optimizer {k}: it has {len(saved)} groups, and {len(groups)} are there")
    for then, now in zip(saved, groups, strict=True):
        for name in sorted({*then, *now} - {"params", "initial_lr"}):
            value, own = then.get(name), json.loads(json.dumps(now.get(name)))
            rate = isinstance(value, int | float) and math.isfinite(value) and value >= 0
            if not (rate if name == "lr" else value == own):
                raise ValueError(f"{path} does not fit optimizer {k}: {name} is {value!r}, and {own!r} is there")
