# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From many runs to a paper figure
#
# Runs of several settings and seeds, each in a folder of its own; then everything from these folders alone: one frame, means over seeds with
# intervals, a figure, a table in LaTeX, and the trained encoders themselves.
#
# The question, in miniature: how many dimensions of the embedding does a small encoder of digits use, with and without a constraint, and does
# the probe of its representation care?

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from grassmann_ssl import load_encoder, load_runs
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.metrics import mean_interval
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
runs = Path(tempfile.mkdtemp()) / "runs"
for constraint in ("none", "feature-orthonormal"):
    for seed in (1, 2, 3):
        folder = runs / f"{constraint}-{seed}"
        run(
            TrainConfig(
                constraint=constraint,
                encoder="mlp",
                seed=seed,
                steps=10 if fast else 40,
                batch=128,
                records=8,
                out=folder,
            )
        )

# %% [markdown]
# ## One frame
#
# A row a run: every setting is a column, and every number of `run.json`. A number with an interval is three columns, the last two with `_low`
# and `_high`. A folder that cannot be read is named in a warning.

# %%
frame = load_runs(runs)
assert len(frame) == 6 and frame.experiment.eq("train").all()
frame[
    ["constraint", "seed", "verdict", "dimensions_used", "dimensions_used_low", "dimensions_used_high", "probes.knn"]
].round(3)

# %% [markdown]
# The interval of a run says how well its own rows tell the number. What a paper states is the spread over seeds: means of three seeds with 95 %
# intervals of Student's t.

# %%
d = int(frame.dim[0])
numbers = {"dimensions_used": ("dimensions used", 1, d), "probes.knn": ("kNN accuracy", 0, 1)}
rows = []
for constraint, group in frame.groupby("constraint", sort=False):
    for name, (label, least, most) in numbers.items():
        low, high = mean_interval(group[name].to_numpy(), least, most)
        rows.append((constraint, label, group[name].mean(), low, high))
summary = type(frame)(rows, columns=["constraint", "number", "mean", "low", "high"])
assert (summary.low <= summary["mean"]).all() and (summary["mean"] <= summary.high).all()
summary.round(3)

# %% [markdown]
# ## The figure
#
# Points are runs, with their own intervals; the bar is the mean over seeds, with its interval. An arm is told by its place and its marker, not
# by colour alone.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
arms = list(dict.fromkeys(frame.constraint))
for panel, (name, (label, *_)) in zip(axes, numbers.items(), strict=True):
    for place, (arm, marker) in enumerate(zip(arms, "os", strict=True)):
        own = frame[frame.constraint == arm]
        at = place + 0.12 * (own.seed - 2)
        spread = abs(own[[f"{name}_low", f"{name}_high"]].to_numpy().T - own[name].to_numpy())
        panel.errorbar(at, own[name], spread, fmt=marker, mfc="none", color="0.45", lw=0.9, capsize=2)
        mean = summary[(summary.constraint == arm) & (summary.number == label)].iloc[0]
        ends = [[mean["mean"] - mean.low], [mean.high - mean["mean"]]]
        panel.errorbar(place + 0.3, mean["mean"], ends, fmt=marker, color="#12507b", capsize=4, lw=1.6)
    panel.set(xticks=range(len(arms)), xticklabels=arms, xlim=(-0.4, 1.6), ylabel=label)
figure.savefig(runs / "figure.pdf")

# %% [markdown]
# ## The table
#
# pandas writes LaTeX; a cell is a mean with its interval.

# %%
cells = summary.assign(cell=[f"{r['mean']:.3g} [{r.low:.3g}, {r.high:.3g}]" for _, r in summary.iterrows()])
wide = cells.pivot(index="constraint", columns="number", values="cell").loc[arms]
print(wide.to_latex())

# %% [markdown]
# ## The encoders
#
# `train` keeps what it trained. `load_encoder` makes it again from the folder: representations of any images of that shape, and the last weight,
# which is orthonormal in the metric of its features.

# %%
best = frame.sort_values("probes.knn").iloc[-1]
encoder = load_encoder(best.folder)
with torch.no_grad():
    h = encoder(torch.rand(5, 1, 8, 8))
    z = encoder.projector(h)
print(best.constraint, tuple(h.shape), tuple(z.shape))
assert h.shape == (5, 256) and z.shape == (5, d)
