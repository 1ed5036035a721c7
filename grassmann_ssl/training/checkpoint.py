"""Checkpoints in an open format: tensors in safetensors, numbers as JSON in its metadata, written atomically."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int, notes: Mapping[str, Any]
) -> None:
    """Write the state of a model and its optimizers before step `step`; `notes` (JSON) are compared when it is loaded."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
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
    metadata = {"step": step, "groups": settings, "notes": notes}
    # A copy each: shared memory, as of tied weights, is not for this format.
    owned = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    scratch = path.with_name(path.name + ".part")
    save_file(owned, scratch, metadata={"checkpoint": json.dumps(metadata)})
    os.replace(scratch, path)


def load_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], notes: Mapping[str, Any]
) -> int:
    """Restore a model and its optimizers from a checkpoint; returns the next step.

    Raises ValueError where the file is no checkpoint, or one of other settings (names those that differ), parameters or shapes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["checkpoint"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from None
    then, now = metadata["notes"], json.loads(json.dumps(dict(notes)))
    different = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    if different:
        told = "; ".join(f"{name}: {then.get(name)!r} then, {now.get(name)!r} now" for name in different)
        raise ValueError(f"{path} is a checkpoint of other settings: {told}")
    try:
        model.load_state_dict(
            {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        )
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from None
    for k, (optimizer, groups) in enumerate(zip(optimizers, metadata["groups"], strict=True)):
        state = optimizer.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            head, _, rest = name.partition("/")
            if head == f"optimizer{k}":
                index, key = rest.split("/")
                state["state"].setdefault(int(index), {})[key] = value
        for group, saved in zip(state["param_groups"], groups, strict=True):
            group |= saved
        optimizer.load_state_dict(state)
    return int(metadata["step"])
