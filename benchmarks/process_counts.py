"""How far two processes end from one, and how far one process ends from itself after a change of 1e-7 of its initial weights."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import load_file

from grassmann_ssl.experiments.encoders import encoder_arms, fitting
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.run import run as run_experiment
from grassmann_ssl.runs import toml

NAME = "process_counts"
PAGE = "docs/encoders.md"
SETTINGS: tuple[dict[str, Any], ...] = (
    {"objective": "negative_cosine"},
    {"objective": "nt_xent", "constraint": "grassmann"},
    {"objective": "negative_cosine", "constraint": "stiefel", "where": "conv", "predictor": "mlp"},
    {"objective": "negative_cosine", "constraint": "feature-orthonormal"},
    {"objective": "negative_cosine", "constraint": "grassmann", "predictor": "directpred", "teacher": 0.9},
    {"objective": "vicreg", "lr": 0.005},
)
SMALL = {"batch": 64, "records": 12, "hidden": 32, "dim": 8}
CHANGE = 1e-7
"""of each weight, relative: a rounding of float32"""


def run(
    device: torch.device,
    repeats: int,
    *,
    settings: tuple[dict[str, Any], ...] = SETTINGS,
    steps: int = 100,
    processes: int = 2,
    tries: int = 3,
) -> list[dict[str, Any]]:
    """Trainings of each setting on digits: by one process, by `processes`, and `tries` times by one from changed weights.

    Differences from the first: of the weights at the end, as ‖w - w'‖ / ‖w‖ over all of them, and of the eigenvalues of cov z at each
    record, over the largest. `repeats` does nothing.
    """
    found = []
    for one in settings:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            config = TrainConfig.of(**SMALL, **one, steps=steps, device=str(device))
            alone = _trained(config, folder / "alone")
            apart = _apart(alone, _by_processes(config, folder / "together", processes))
            changed = [_apart(alone, _changed(config, folder / f"changed{k}", k)) for k in range(tries)]
        found.append(
            {
                "settings": one,
                "steps": steps,
                "processes": processes,
                "recorded": alone[1].tolist(),
                "apart": apart,
                "changed": changed,
            }
        )
    return found


Ends = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]  # weights, recorded times, eigenvalues of cov z (K, d)


def _trained(config: TrainConfig, folder: Path) -> Ends:
    run_experiment(TrainConfig.of(**config.values() | {"out": folder}), page=False)
    return _ends(folder)


def _ends(folder: Path) -> Ends:
    arrays = load_file(folder / "arrays.safetensors")
    return load_file(folder / "weights.safetensors"), arrays["time"], arrays["spectrum_z"]


def _by_processes(config: TrainConfig, folder: Path, count: int) -> Ends:
    if count == 1:
        return _trained(config, folder)
    settings = folder.with_suffix(".toml")
    settings.write_text(toml.dumps(config.NAME, config.values() | {"out": folder}), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = ["-m", "grassmann_ssl.cli", "train", "--quiet", "--config", str(settings)]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{NAME}: {count} processes failed: {done.stderr[-400:]}")
    return _ends(folder)


def _changed(config: TrainConfig, folder: Path, seed: int) -> Ends:
    """The training from weights that are changed by CHANGE times a Gaussian number each."""
    generator = torch.Generator().manual_seed(seed)
    assemble: Callable[..., Any] = encoder_arms.assemble

    def changing(*arguments: Any) -> Any:
        arm = assemble(*arguments)
        with torch.no_grad():
            for parameter in arm.method.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_((parameter.double() * (1 + CHANGE * noise.to(parameter.device))).to(parameter.dtype))
        return arm

    with mock.patch.object(fitting, "assemble", changing):
        return _trained(config, folder)


def _apart(one: Ends, other: Ends) -> dict[str, Any]:
    names = [name for name, value in one[0].items() if value.dtype.kind == "f"]
    w, v = (np.concatenate([ends[0][name].ravel().astype(float) for name in names]) for ends in (one, other))
    eigenvalues = np.abs(one[2] - other[2]).max(-1) / one[2].max(-1)
    return {"weights": float(np.linalg.norm(w - v) / np.linalg.norm(w)), "eigenvalues": eigenvalues.tolist()}


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per setting and device."""
    lines = [
        "| training | device | apart | weights, at the end | eigenvalues, in between | eigenvalues, at the end |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            words = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
            for who, ends in (
                (f"{row['processes']} processes", [row["apart"]]),
                ("1e-7 of the weights", row["changed"]),
            ):
                cells = [
                    f"{words}, {row['steps']} steps",
                    result["device"],
                    who,
                    _words([one["weights"] for one in ends]),
                ]
                cells += [_words([one["eigenvalues"][k] for one in ends]) for k in (len(row["recorded"]) // 2, -1)]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def _words(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0e}" if low == high else f"{low:.0e} to {high:.0e}"
