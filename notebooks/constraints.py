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
# # Constraints side by side
#
# What does each constraint hold, what does it leave open, and which loss may it be used with? One loss that has nothing against collapse, one
# encoder, one data set; free, with a penalty, with Muon's orthogonalised step, on the Stiefel manifold, on the Grassmannian, and orthonormal in the
# metric of the features. You need `grassmann_ssl` and a minute; the digits come with scikit-learn.

# %%
# %matplotlib inline
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from grassmann_ssl import pretrain
from grassmann_ssl.data import digits
from grassmann_ssl.manifolds import Stiefel
from grassmann_ssl.manifolds.checks import check_rotation_invariance
from grassmann_ssl.nn import CONSTRAINTS, departure
from grassmann_ssl.objectives import EMBEDDING_LOSSES, objective
from grassmann_ssl.runs import ConfigError

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
seeds, steps = ((0,), 60) if fast else ((0, 1, 2), 250)
plt.rcParams.update({"figure.dpi": 80, "font.size": 11, "figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## What each holds
#
# W (d × k) is the last layer, z = W h. What holds by construction is guaranteed before training; the rest is measured.

# %%
shown = ("none", "penalty", "stiefel", "grassmann", "feature-orthonormal")
rows = {name: (CONSTRAINTS[name].holds, CONSTRAINTS[name].subspace or "any") for name in shown}
table = pd.DataFrame.from_dict(rows, orient="index", columns=["by construction", "the loss must be a"])
table.style.set_properties(**{"text-align": "left", "white-space": "normal"})

# %% [markdown]
# ## One loss, trained under each
#
# The loss is −cos(z, z⁺), which is least when all embeddings have one direction: without a predictor nothing in it keeps them apart. Views are digits
# with pixel noise. The head ends in a BatchNorm and a layer without bias, so that no mean can align all embeddings, in all arms but the first,
# which has the usual head. Views, order and initial weights of a seed are the same in all.

# %%
pixels = digits().float().flatten(1)


def batches():
    for rows in torch.randperm(len(pixels)).split(200)[:8]:
        yield tuple(pixels[rows] + 0.2 * torch.randn(len(rows), 64) for _ in range(2))


def trained(objective, seed, **settings):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    return pretrain(encoder, batches, objective, seed=seed, steps=steps, lr=0.1, records=2, progress=False, **settings)


arms = {
    "none, usual head": {},
    "none": {"head": "centred"},
    "Muon": {"optimizer": "muon", "head": "centred"},
    "penalty": {"constraint": "penalty", "head": "centred"},
    "Stiefel": {"constraint": "stiefel"},
    "Grassmann": {"constraint": "grassmann"},
    "feature-orthonormal": {"constraint": "feature-orthonormal"},
}
runs = {name: [trained("negative_cosine", seed, **settings) for seed in seeds] for name, settings in arms.items()}
for name, (first, *_) in runs.items():
    print(f"{name + ':':21}{first.audit.judgement}")
if not fast:  # few steps only begin to collapse
    assert all("directional" in one.audit.kinds for one in runs["none, usual head"])
    assert all("dimensional" in one.audit.kinds for one in runs["Muon"])

# %% [markdown]
# ## Dimensions used
#
# Of the eight of z / ‖z‖, with the audit's 95 % intervals; a marker is a seed. An orthonormal W has full rank, but cov z = W cov(h) Wᵀ: the features h
# of the trained encoder lose dimensions, and z with them. What holds cov z itself keeps almost all of them.

# %%
used = {name: [one.audit["dimensions_used"] for one in of_arm] for name, of_arm in runs.items()}
colours = dict(zip(arms, ("0.65", "0.35", "#b8860b", "#8a5fa3", "#3b7d3a", "#12507b", "#c1440e"), strict=True))
figure, axes = plt.subplots(figsize=(5.2, 3.8))
for place, (name, numbers) in enumerate(used.items()):
    for shift, one in zip(np.linspace(-0.2, 0.2, len(seeds)) if len(seeds) > 1 else [0], numbers, strict=True):
        ends = [[one.value - one.low], [one.high - one.value]]
        axes.errorbar(one.value, place + shift, xerr=ends, fmt="o", color=colours[name], ms=5, capsize=2, lw=1.3)
axes.set(yticks=range(len(arms)), yticklabels=arms, xlim=(0, 8.2), xlabel="dimensions used, of 8")
axes.axvline(8, color="0.7", lw=0.8, ls=":")
axes.invert_yaxis()
plt.show()
assert all(
    one.low > other.high for one in used["feature-orthonormal"] for name in list(arms)[:-1] for other in used[name]
)

# %% [markdown]
# With the usual head the free weights collapse: the variance of the directions, 1 where they fill the sphere, goes to 0. With the centred one it
# cannot, and dimensions go instead.

# %%
spread = {name: [one.audit["spread"].value for one in of_arm] for name, of_arm in runs.items()}
print(pd.DataFrame(spread, index=[f"seed {seed}" for seed in seeds]).T.round(4).to_string())
assert max(spread["none, usual head"]) < 0.1 and all(min(spread[name]) > 0.9 for name in list(arms)[1:])

# %% [markdown]
# ## Is W orthonormal?
#
# Its eight singular values, all 1 where W Wᵀ = I. Riemannian steps keep that to rounding, the penalty nearly. Muon orthogonalises the step, not the
# weight: its W ends with the widest spread of all, and z with dead dimensions. Orthonormal in the metric of the features, W B Wᵀ = I, W stretches
# what varies little.

# %%
weights = {name: [one.model.projector.last.weight.detach() for one in of_arm] for name, of_arm in runs.items()}
figure, axes = plt.subplots(figsize=(5.2, 4.4))
for name, dash in zip(arms, (":", "--", "-.", "-", "-", "--", "-"), strict=True):
    values = torch.linalg.svdvals(weights[name][0])
    axes.semilogy(
        range(1, 9), values, dash, marker="o", ms=4, color=colours[name], label=name, lw=3 if name == "Stiefel" else 1.5
    )
axes.set(xlabel="index", ylabel="singular values of W")
figure.legend(fontsize=9.5, loc="outside upper center", ncols=2)
plt.show()

# %%
off = {name: [float(departure(Stiefel(), w.T)) for w in of_arm] for name, of_arm in weights.items()}
print(pd.DataFrame(off, index=[f"seed {seed}" for seed in seeds]).T.map("{:.0e}".format).to_string())
assert max(off["Stiefel"] + off["Grassmann"]) < 1e-6 < max(off["penalty"]) < 0.1 < min(off["none"] + off["Muon"])

# %% [markdown]
# ## Grassmann or Stiefel? The loss decides
#
# Where L(z Q) = L(z) for all rotations Q, the loss is a function of the span of W: both manifolds then train the same subspace, and the numbers above
# agree. Measured: by how much do the losses of the package change under random rotations? To the left of the line it is rounding.

# %%
views = torch.randn(128, 8, dtype=torch.float64)  # z, and z⁺ below it
changes = {}
for name in EMBEDDING_LOSSES:
    chosen = objective(name)
    if not (chosen.predictive or chosen.stateful):
        measured = check_rotation_invariance(
            lambda both, loss=chosen.loss: loss(z=both[:64], z_positive=both[64:]), views
        )
        changes[name] = max(measured.change, measured.vertical_part)
        assert measured.ok == chosen.rotation_invariant
order = sorted(changes, key=changes.get)
figure, axes = plt.subplots(figsize=(5.2, 4.6))
for place, name in enumerate(order):
    fits = objective(name).rotation_invariant
    axes.semilogx(changes[name], place, "o" if fits else "s", color="#12507b" if fits else "#c1440e", ms=6)
axes.axvline(measured.tolerance, color="0.6", lw=1, ls=":")
axes.set(yticks=range(len(order)), yticklabels=order, xlabel="largest change under rotations", xlim=(1e-17, 10))
axes.text(1e-14, len(order) - 1, "Grassmann", color="#12507b", ha="center", va="center")
axes.text(1e-5, 0, "Stiefel only", color="#c1440e", ha="center", va="center")
plt.show()

# %% [markdown]
# A loss that is more than a function of the span is refused on the Grassmannian, before any training and with the reason; on the Stiefel manifold it
# trains.

# %%
try:
    trained("vicreg", 0, constraint="grassmann")
except ConfigError as error:
    print(error)
else:
    raise AssertionError("VICReg is no function on the Grassmannian")
vicreg = trained("vicreg", 0, constraint="stiefel")
print(vicreg.audit)
assert vicreg.audit.kind == "none" and departure(Stiefel(), vicreg.model.projector.last.weight.T) < 1e-6

# %% [markdown]
# ## Which to take
#
# Embeddings of full rank: feature-orthonormal. An orthonormal weight, because the theory is about it or a later layer needs it: Grassmann for losses
# that see the subspace alone, Stiefel for all others; where both fit they find the same, and the Grassmannian's steps are independent of the basis.
# A penalty where near is enough. Muon is an optimizer, no constraint.

# %%
summary = {name: [one.value for one in numbers] for name, numbers in used.items()}
gap = max(abs(a - b) for a, b in zip(summary["Grassmann"], summary["Stiefel"], strict=True))
print(f"Grassmann and Stiefel: at most {gap:.3f} of 8 dimensions apart")
assert gap < 0.1 and min(summary["feature-orthonormal"]) > 6
