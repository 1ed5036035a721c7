"""Where the thresholds of the collapse audit come from: encoders and linear models of which it is known whether they collapse."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from grassmann_ssl.audit import Rule, audit_embeddings
from grassmann_ssl.audit.rule import participation, share_used
from grassmann_ssl.data.batches import PHOTOS, Split, load_split
from grassmann_ssl.data.images import BUNDLED, bundled
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.fitting import fit
from grassmann_ssl.experiments.encoders.material import Pictures
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.experiments.linear.collapse import CollapseConfig, collapse, predicted_variances
from grassmann_ssl.nn.joint_embedding import embeddings

NAME = "audit_defaults"
PAGE = "docs/audit.md"
PICTURE = "docs/audit_defaults.png"
# The loss of the first is least for a constant embedding, and nothing keeps it from there; that of the others is not.
ENCODERS: dict[str, tuple[bool, dict[str, Any]]] = {
    "negative cosine alone": (True, {"objective": "negative_cosine"}),
    "VICReg": (False, {"objective": "vicreg", "lr": 0.005}),
    "Barlow Twins": (False, {"objective": "barlow_twins_normalised", "lr": 0.005}),
    "NT-Xent": (False, {"objective": "nt_xent"}),
    "FroSSL": (False, {"objective": "frossl"}),
    "negative cosine, DirectPred": (False, {"objective": "negative_cosine", "predictor": "directpred"}),
    "negative cosine, feature-orthonormal": (
        False,
        {"objective": "negative_cosine", "constraint": "feature-orthonormal"},
    ),
}
# Bundled images, and folders of .png files that are written from them, with the side of a picture: read as the user's own are.
DATA: dict[str, int | None] = {"digits": None, "photos": None, "folder of digits": 16, "folder of photos": 24}
SEEDS = (1, 2, 3, 4)  # the thresholds may be chosen on the first half; the second half is held out
STEPS = 400
SCORES = {"spread": "spread", "share of dimensions used": "used", "share of live dimensions": "live"}


def run(
    device: torch.device,
    repeats: int,
    seeds: tuple[int, ...] = SEEDS,
    steps: int = STEPS,
    data: tuple[str, ...] = tuple(DATA),
    encoders: tuple[str, ...] = tuple(ENCODERS),
    models: CollapseConfig | None = None,
) -> list[dict[str, Any]]:
    """One record per trained encoder and per cell and seed of the linear models; `repeats` is not used, since nothing is timed."""
    records = []
    for source in data:
        with TemporaryDirectory() as folder:
            side = DATA[source]
            read = source if side is None else f"folder:{pictures(source.split()[-1], side, Path(folder))}"
            split = load_split(read, torch.Generator().manual_seed(1)).to(device)
            for name in encoders:
                collapses, settings = ENCODERS[name]
                for seed in seeds:
                    given = {"objective": "negative_cosine", **settings}
                    config = TrainConfig.of(data=read, seed=seed, steps=steps, batch=64, records=2, **given)
                    spread, found = judged(config, split, device)
                    records.append(
                        {
                            "kind": "encoder",
                            "name": f"{name}, {source}",
                            "seed": seed,
                            "collapses": collapses,
                            "spread": spread,
                            "found": found,
                        }
                    )
    return records + linear(models or CollapseConfig(seeds=len(seeds)), seeds)


def judged(config: TrainConfig, split: Split, device: torch.device) -> tuple[float | None, str]:
    """The variance of directions of a trained encoder's embeddings, and their kind."""
    process = Process(0, 1, device)
    material = Pictures(config, split, process)
    z = embeddings(fit(config, material, process).arm.method, material.view(0, len(split.train)))["z"]
    audit = audit_embeddings(z, directions=True)
    return audit["spread"].value, audit.kind


def pictures(name: str, side: int, folder: Path) -> Path:
    """Bundled images as .png files of this side, a folder for each class."""
    from PIL import Image

    generator = torch.Generator().manual_seed(2)
    images = bundled(name, *((PHOTOS, side, generator) if BUNDLED[name].drawn else ()))
    assert images.labels is not None
    for number, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        path = folder / images.classes[label] / f"{number:05}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).resize((side, side), Image.Resampling.BILINEAR).save(path)
    return folder


def linear(config: CollapseConfig, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Cells off the boundary: collapsed where theory has a variance that is exactly 0, or one that outgrows all others."""
    outcome = collapse(config)
    boundary = {(c["objective"], c["constraint"], c["noise"]) for c in outcome.record["cells"] if c["on_boundary"]}
    inputs, records = config.inputs(), []
    for name, constraint in config.pairs:
        exact = predicted_variances(config, inputs, name, constraint)
        if exact is None:
            continue
        found = outcome.arrays[f"variances/{name}/{constraint}"]
        for b, noise in enumerate(config.noise):
            # Without any variance there are no dimensions to be counted.
            if (name, constraint, noise) in boundary or not exact[b].max() > 0:
                continue
            unbounded = bool(np.isinf(exact[b]).any())
            for seed, values in zip(seeds, found[b], strict=True):
                if not np.isfinite(values).all():
                    continue
                record: dict[str, Any] = {
                    "kind": "linear",
                    "name": f"{name}, {constraint}, {noise:g}",
                    "seed": seed,
                }
                live = float((values >= Rule().dead * values.max()).mean())
                if unbounded:
                    record |= {"collapses": True, "used": share_used(participation(values), len(values))}
                else:
                    record |= {"collapses": bool((exact[b] <= 0).any()), "live": live}
                    if not record["collapses"]:
                        record["used"] = share_used(participation(values), len(values))
                records.append(record)
    return records


def table(records: list[dict[str, Any]], score: str) -> dict[str, float]:
    """Of one score: the largest of those that collapse and the smallest of the others, and wrong ones of the held-out seeds."""
    threshold = {"spread": Rule().spread, "used": Rule().used, "live": Rule().live}[score]
    own = [r for r in records if score in r]
    held = [r for r in own if r["seed"] in SEEDS[len(SEEDS) // 2 :]]
    collapsed, others = ([r[score] for r in own if r["collapses"] is one] for one in (True, False))
    pairs = np.subtract.outer(others, collapsed)
    return {
        "threshold": threshold,
        "collapsed": len(collapsed),
        "others": len(others),
        "largest_collapsed": max(collapsed, default=float("nan")),
        "smallest_other": min(others, default=float("nan")),
        "area": float(((pairs > 0) + (pairs == 0) / 2).mean()) if pairs.size else float("nan"),
        "wrong_held_out": sum((r[score] < threshold) != r["collapses"] for r in held),
        "held_out": len(held),
    }


def markdown(results: list[dict[str, Any]]) -> list[str]:
    """One row a score."""
    head = (
        "score",
        "threshold",
        "largest that collapses",
        "smallest other",
        "area under the ROC curve",
        "wrong, held out",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in results:
        for title, score in SCORES.items():
            row = table(result["records"], score)
            lines.append(
                f"| {title} | {row['threshold']:g} | {row['largest_collapsed']:.2g} of {row['collapsed']} | "
                f"{row['smallest_other']:.2g} of {row['others']} | {row['area']:.4f} | {row['wrong_held_out']} of {row['held_out']} |"
            )
    return lines


def picture(result: dict[str, Any], path: Path) -> None:
    """Scores of those that collapse and of the others, with the default thresholds; below, the ROC curves."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    for (title, score), (above, below) in zip(SCORES.items(), axes.T, strict=True):
        own = [r for r in result["records"] if score in r]
        row = table(result["records"], score)
        rng = np.random.default_rng(0)
        values = {one: np.array([r[score] for r in own if r["collapses"] is one]) for one in (True, False)}
        for place, (one, colour) in enumerate(((True, "#b5402a"), (False, "#1f4e79"))):
            height = place + rng.uniform(-0.25, 0.25, len(values[one]))
            above.plot(values[one].clip(1e-8), height, ".", color=colour, ms=4, alpha=0.5)
        above.axvline(row["threshold"], color="black", ls="--", lw=1)
        above.set(
            xscale="log" if score != "live" else "linear",
            title=title.replace(" of ", " of\n"),
            yticks=[0, 1],
            yticklabels=["collapses", "does not"],
        )
        cuts = np.concatenate([[-1.0], np.sort(np.concatenate(list(values.values()))), [2.0]])
        hit, false = ([(values[one] < cut).mean() for cut in cuts] for one in (True, False))
        below.step(false, hit, where="post", color="black")
        below.plot(
            (values[False] < row["threshold"]).mean(), (values[True] < row["threshold"]).mean(), "o", color="#b5402a"
        )
        below.set(xlabel="false alarms", ylabel="collapses found", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    figure.savefig(path, dpi=110)
