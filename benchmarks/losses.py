"""Losses of self-supervised learning, forward and backward: ours against lightly's, solo-learn's and LeJEPA's authors'."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers_losses as peers
from benchmarks.harness import STATUS, figures, paired, resident_peak
from grassmann_ssl.objectives.noncontrastive import barlow_twins_normalised
from grassmann_ssl.objectives.nt_xent import nt_xent
from grassmann_ssl.objectives.sigreg import random_directions, sigreg
from grassmann_ssl.objectives.vicreg import vicreg

NAME = "losses"
PAGE = "docs/objectives.md"
SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "NT-Xent": ((256, 128), (1024, 128), (4096, 128)),
    "Barlow Twins": ((256, 128), (1024, 128), (256, 2048), (256, 8192)),
    "VICReg": ((256, 128), (1024, 128), (256, 2048), (256, 8192)),
    "SIGReg": ((256, 128), (1024, 128)),
}
SLICES = 1024
TEMPERATURE, LAMBDA, WEIGHTS = 0.5, 5e-3, (25.0, 25.0, 1.0)
TOLERANCE = 1e-4  # relative, of float32 losses and gradients: sums of up to 8192^2 squares in another order
OTHERS = {"SIGReg": "LeJEPA's authors"}  # the second peer where it is not solo-learn
ROOT = Path(__file__).parents[1]
Loss = Callable[[Tensor, Tensor], Tensor]


def run(
    device: torch.device,
    repeats: int,
    sizes: dict[str, tuple[tuple[int, int], ...]] | None = None,
    slices: int = SLICES,
    target: float = 0.2,
) -> list[dict[str, Any]]:
    """Check values and gradients against every peer, then time; one record per loss and size, with peak memory for NT-Xent.

    Raises RuntimeError where results disagree.
    """
    records = []
    for name, shapes in (sizes or SIZES).items():
        for shape in shapes:
            z = views(shape, device)
            ours, others = sides(name, shape, slices, device)
            errors = {peer: disagreement(ours, loss, z) for peer, loss in others.items()}
            for peer, error in errors.items():
                if not error <= TOLERANCE:
                    raise RuntimeError(f"{NAME}: {name} {shape} and {peer} disagree by {error:.2g}; nothing was timed")
            timed = {peer: step(loss, z) for peer, loss in others.items()}
            record: dict[str, Any] = {"loss": name, "shape": list(shape), "disagreement": errors}
            record |= {"slices": slices} if name == "SIGReg" else {}
            record |= paired(step(ours, z), timed, device, repeats, target)
            if name == "NT-Xent":
                record["peak_bytes"] = {side: peak_bytes(name, shape, side, device) for side in ("ours", *others)}
            records.append(record)
    return records


def views(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Two correlated views that require gradients."""
    z, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    pair = torch.stack([z, 0.8 * z + 0.6 * noise]).to(device)
    return pair[0].clone().requires_grad_(), pair[1].clone().requires_grad_()


def sides(name: str, shape: tuple[int, int], slices: int, device: torch.device) -> tuple[Loss, dict[str, Loss]]:
    """Our loss and the peers', in one convention: that of the settings above, solo-learn's weights mapped to them."""
    module = peers.lightly()
    label = "lightly" if module else "lightly, re-typed"
    if name == "NT-Xent":
        lightly = module.NTXentLoss(TEMPERATURE) if module else partial(peers.nt_xent_lightly, temperature=TEMPERATURE)
        solo: Loss = partial(peers.nt_xent_solo, temperature=TEMPERATURE)
        return by_name(partial(nt_xent, temperature=TEMPERATURE)), {label: lightly, "solo-learn": solo}
    if name == "Barlow Twins":
        lightly = module.BarlowTwinsLoss(LAMBDA) if module else partial(peers.barlow_twins_lightly, lambda_=LAMBDA)
        solo = partial(peers.barlow_twins_solo, lambda_=LAMBDA)
        return by_name(partial(barlow_twins_normalised, lambda_=LAMBDA)), {label: lightly, "solo-learn": solo}
    if name == "VICReg":
        lightly = module.VICRegLoss(*WEIGHTS) if module else lambda a, b: peers.vicreg_lightly(a, b, *WEIGHTS)
        invariance, variance, covariance = WEIGHTS
        ours = partial(vicreg, invariance=invariance, variance=variance, covariance=covariance)
        return by_name(ours), {label: lightly, "solo-learn": lambda a, b: peers.vicreg_solo(a, b, *WEIGHTS)}
    directions = random_directions(dimension=shape[1], count=slices, seed=0, step=0, device=device)
    lightly = (
        peers.lightly_sigreg(module, directions) if module else partial(peers.sigreg_lightly, directions=directions)
    )
    return (
        lambda z, _: sigreg(z=z, directions=directions),
        {label: lambda z, _: lightly(z), OTHERS[name]: lambda z, _: peers.sigreg_authors(z, directions)},
    )


def by_name(loss: Callable[..., Tensor]) -> Loss:
    """Our keyword-only loss as a function of two tensors."""
    return lambda z, z_positive: loss(z=z, z_positive=z_positive)


def step(loss: Loss, z: tuple[Tensor, Tensor]) -> Callable[[], object]:
    """Forward and backward of a loss."""

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(*z), z, allow_unused=True)

    return forward_backward


def disagreement(ours: Loss, theirs: Loss, z: tuple[Tensor, Tensor]) -> float:
    """The larger of the relative differences of value and gradient."""
    values = [loss(*z) for loss in (ours, theirs)]
    one, other = (
        torch.cat([g.flatten() for g in torch.autograd.grad(v, z, allow_unused=True) if g is not None]) for v in values
    )
    return max(
        float((abs(values[0] - values[1]) / abs(values[1])).detach()), float((one - other).norm() / other.norm())
    )


def peak_bytes(name: str, shape: tuple[int, int], side: str, device: torch.device) -> int | None:
    """Growth of peak memory in one call of the loss: of the device, or of a fresh process's resident set.

    None where the system does not report a process's peak. Raises RuntimeError where the process fails.
    """
    if device.type == "cuda":
        loss, z = side_of(name, shape, side, device), views(shape, device)
        step(loss, z)()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step(loss, z)()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not STATUS.exists():
        return None
    call = f"from benchmarks.losses import grown; print(grown({name!r}, {shape!r}, {side!r}))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", call], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{NAME}: memory of {name} {shape}, {side}: {done.stderr[-500:]}")
    return int(done.stdout)


def side_of(name: str, shape: tuple[int, int], side: str, device: torch.device) -> Loss:
    """One of the losses by the name of its side."""
    ours, others = sides(name, shape, SLICES, device)
    return {"ours": ours, **others}[side]


def grown(name: str, shape: tuple[int, int], side: str) -> int:
    """Bytes by which this process's peak grows at its first call of this size, after one of 8 rows."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    loss = side_of(name, shape, side, device)
    step(loss, views((8, shape[1]), device))()
    z = views(shape, device)
    before = resident_peak()
    step(loss, z)()
    return resident_peak() - before


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row per loss, size and device."""
    lines = [
        "| loss | batch × width | device | ours | lightly takes | solo-learn takes (SIGReg: its authors' code) | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for row in result["records"]:
            cells = [figures(1e3 * row["seconds"]["ours"]["median"]) + " ms"]
            for ratio in row["ratio_to_ours"].values():  # lightly first
                low, middle, high = (figures(ratio[key]) for key in ("low", "median", "high"))
                cells.append(f"{middle}× [{low}, {high}]")
            peaks = row.get("peak_bytes", {})
            known = [f"{figures(peak / 2**20)} MiB {side}" for side, peak in peaks.items() if peak is not None]
            shape = " × ".join(str(size) for size in row["shape"])
            loss = row["loss"] + (f", {row['slices']} slices" if "slices" in row else "")
            lines.append(f"| {loss} | {shape} | {result['device']} | " + " | ".join([*cells, ", ".join(known)]) + " |")
    return lines
