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
# # Stepwise learning: theory against training
#
# A linear model that starts small learns one dimension of its embedding after the other. When does each come, and how does its eigenvalue
# rise? Both are known before training (Simon et al. 2023, arXiv 2303.15438). Here they are laid beside trainings with Barlow Twins, the
# spectral contrastive loss and VICReg, and beside the same training with orthonormal weights, which waits for nothing.
#
# You need `pip install '.[notebooks]'`, and a minute. Set `GRASSMANN_SSL_FAST=1` to run it on fewer seeds.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np

import theory
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.experiments.linear.stepwise import StepwiseConfig
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
runs = Path(tempfile.mkdtemp())
seeds, dim, share = (3, 3, 0.03) if fast else (10, 5, 0.02)

# %% [markdown]
# ## A prediction without any training
#
# The loss of Barlow Twins is $\|C - I\|_F^2$ with $C = W^\top \Gamma W$ and $\Gamma$ the cross-moment of two views. Its gradient flow
# decouples in the eigenvectors of $\Gamma$, and the $j$-th eigenvalue of $C$ is a logistic curve with rate $8\gamma_j$. Time is
# learning rate × step.

# %%
gamma = np.array([0.5, 0.4, 0.3])
start = 1e-5 * np.ones(3)  # singular values of the weights
steps = theory.stepwise.step_times(start, gamma)
print("step times", steps.round(2))
print("eigenvalues of C at the second step", theory.stepwise.eigenvalues(steps[1], start, gamma).round(3))

# %% [markdown]
# ## Barlow Twins on digits
#
# Two views of scikit-learn's digits, a linear model from small random weights, full batches, ten seeds. All that theory takes from the
# random start is the diagonal of one QR decomposition. The loss stands still, falls by 1, and stands still again.

# %%
barlow_twins = run(StepwiseConfig(seeds=seeds, dim=dim, share=share, out=runs / "barlow_twins"), page=False)
barlow_twins

# %%
barlow_twins.plot.staircase()

# %% [markdown]
# Every step of every seed, measured against predicted. The bars were known before any draw, from the scale of the initialisation alone.

# %%
barlow_twins.plot.step_times()

# %%
assert barlow_twins.record["step_times"]["worst_error"] < 0.03
assert barlow_twins.record["a_priori"]["worst_deviation"] < 4  # standard errors of the mean over seeds

# %% [markdown]
# ## Spectral contrastive and VICReg: other heights, other clocks
#
# For $-2\,\mathrm{tr}\,W^\top\Gamma W + \|W^\top\Sigma W\|_F^2$ and the squared form of VICReg the same calculation holds: modes grow at a rate of
# their own, and end at a variance below 1 that depends on their noise. In the population of Gaussian data $\Gamma$ and $\Sigma$ commute, and
# the curves are in closed form.

# %%
common = {"data": "gaussian", "seeds": seeds, "dim": dim, "share": share}
others = {
    loss: run(StepwiseConfig(loss=loss, noise=0.3, out=runs / loss, **common, **settings), page=False)
    for loss, settings in {"spectral_contrastive": {}, "squared_vicreg": {"beta": 0.5}}.items()
}
others["spectral_contrastive"].plot.staircase()

# %%
others["squared_vicreg"].plot.staircase()

# %%
for loss, outcome in others.items():
    print(loss, "ends at", outcome.arrays["heights"].round(3), outcome.findings[0].agreement)
    assert outcome.record["times"] == "predicted" and outcome.record["step_times"]["worst_error"] < 0.03

# %% [markdown]
# ## Off-diagonal weight below 1: plateaus that are too high
#
# Barlow Twins as published weights the off-diagonal terms of $C$ by $\lambda < 1$. Then the first eigenvalue overshoots to
# $d / (1 + \lambda (d - 1))$, with $k$ modes learned to $d / (k + \lambda (d - k))$, and the next mode grows more slowly, by $\lambda$ times
# this height. It shows where steps are far apart.

# %%
settings = common | {"dim": 3, "spectrum": (1.0, 0.35, 0.15), "barlow_lambda": 0.3}
overshoot = run(StepwiseConfig(out=runs / "overshoot", **settings), page=False)
plateau = theory.off_diagonal.plateau(d=3, lambda_=0.3)
print(plateau, overshoot.record["first_plateau"])
overshoot.plot.staircase()

# %%
assert overshoot.record["first_plateau"]["seeds"] == seeds
assert abs(overshoot.record["first_plateau"]["measured"] / plateau.height - 1) < 0.01

# %% [markdown]
# ## What the constraint changes
#
# The same loss under $W^\top W = I$. All $d$ outputs carry variance from the start, so there is nothing to wait for: the constrained run
# turns a subspace, at rates that are differences of eigenvalues. And it ends elsewhere. Free weights whiten, but their span stays an angle
# away from the top-$d$ eigenspace of $\Gamma$, since modes beyond $d$ grew, too, before the last step; constrained weights find it exactly, from
# any start, and cannot whiten.

# %%
settings = {"objectives": ("barlow_twins",), "dim": dim, "seeds": seeds, "steps": 1000 if fast else 4000}
both = run(CompareConfig(init_scales=(), out=runs / "both", **settings), page=False)
both.plot.barlow_twins(columns=1)

# %%
agreement = both.record["agreement"]["barlow_twins"]
for arm, entry in agreement["subspace"].items():
    print(f"{arm}: {entry['median_principal_angle']:.1e} rad from the top eigenspace")
assert agreement["step_times"]["max_relative_error"] < 0.03
assert agreement["subspace"]["grassmann"]["max_principal_angle"] < 1e-3
assert agreement["subspace"]["free"]["median_principal_angle"] > 1e-2
