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
# # Does the constraint prevent collapse, and does theory know when modes are learned?
#
# Three things are laid side by side on scikit-learn's digits: free weights trained by gradient descent, weights kept orthonormal by
# Riemannian gradient descent on the Grassmannian, and closed-form predictions that never train.
# The model is linear, $z = W^\top x$, and the batch is the whole data set, so that every number can be held against an equation.
#
# Set `GRASSMANN_SSL_FAST=1` to run it with few seeds.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import theory
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
out = Path(tempfile.mkdtemp()) / "run"
config = CompareConfig(
    objectives=("barlow_twins", "linear_noncontrastive"),
    seeds=3 if fast else 20,
    init_scales=(),
    out=out,
)
outcome = run(config)
record = outcome.record
metrics = pd.read_parquet(out / "metrics.parquet")

# %% [markdown]
# ## 1. Free Barlow Twins learns one mode after the other
#
# The loss is $\|W^\top \Gamma W - I\|_F^2$ with $\Gamma$ the cross-moment of two views. From a small start, the $j$-th eigenvalue of
# $C = W^\top \Gamma W$ follows a logistic curve with rate $8\gamma_j$, and all that has to be known of the start is the diagonal of one QR
# decomposition (Simon et al. 2023, arXiv 2303.15438).

# %%
free = metrics[(metrics.objective == "barlow_twins") & (metrics.arm == "free") & (metrics.seed == 0)]
time, measured = free.time.to_numpy(), np.stack(free.cross_eigenvalues)
start = config.init_scale * outcome.arrays["weights/initial_draw"][0]
aligned = theory.stepwise.aligned_initialisation(start, outcome.arrays["moments/cross"])
fine = np.linspace(0, time[-1], 400)
predicted = theory.stepwise.eigenvalues(fine, aligned.singular_values, aligned.gamma)

figure, axes = plt.subplots(figsize=(8, 4))
axes.plot(fine, predicted, "k-", lw=1)
axes.plot(time, measured, "o", ms=3, mfc="none")
for step in theory.stepwise.step_times(aligned.singular_values, aligned.gamma):
    axes.axvline(step, color="0.7", ls=":")
axes.set(xlabel="time t = learning rate × step", ylabel="eigenvalues of C", title="points: trained, lines: predicted")
plt.show()

# %% [markdown]
# Over all seeds and modes, the half-rise times agree with theory within

# %%
steps = record["agreement"]["barlow_twins"]["step_times"]
print(f"worst {100 * steps['max_relative_error']:.1f} %, median {100 * steps['median_relative_error']:.1f} %")
assert steps["max_relative_error"] < 0.03

# %% [markdown]
# ## 2. Naive objectives collapse, and the constraint prevents it
#
# The linear non-contrastive loss $-\mathbb{E}[z \cdot z^+] = \mathrm{tr}(W^\top C W)$ has no minimum: free weights blow up along one direction and
# the representation becomes a scalar (Esser et al. 2023, arXiv 2309.02011). Under $W^\top W = I$ the same loss is a function of the
# subspace alone, and its gradient flow has an exact solution.

# %%
trace = metrics[metrics.objective == "linear_noncontrastive"]
figure, axes = plt.subplots(figsize=(8, 4))
for arm, style in (("free", "-"), ("grassmann", "--")):
    rank = trace[trace.arm == arm].groupby("time").effective_rank
    axes.plot(rank.median(), style, label=arm)
    axes.fill_between(rank.min().index, rank.min(), rank.max(), alpha=0.2)
axes.set(
    xlabel="time t = learning rate × step",
    ylabel="effective rank of the embedding",
    xlim=(0, trace[trace.arm == "free"].time.max()),
)
axes.legend()
plt.show()

# %%
arms, agreement = record["arms"]["linear_noncontrastive"], record["agreement"]["linear_noncontrastive"]
print(
    f"free: {arms['free']['kinds']}, collapse slope within {100 * agreement['collapse_slope']['relative_error']:.2f} % of theory"
)
print(
    f"grassmann: {arms['grassmann']['kinds']}, projector within {agreement['flow']['max_projector_error']:.1e} of the exact flow"
)
assert arms["free"]["collapsed_seeds"] == config.seeds and agreement["collapse_slope"]["relative_error"] < 0.02
assert arms["grassmann"]["collapsed_seeds"] == 0 and agreement["flow"]["max_projector_error"] < 2e-2

# %% [markdown]
# ## 3. The constraint also finds the subspace exactly
#
# With zero loss, free Barlow Twins is still an angle away from the top-$d$ eigenspace of $\Gamma$, because the modes beyond $d$ that grew before
# the last step stay. The constrained flow converges to it from any start.

# %%
subspace = record["agreement"]["barlow_twins"]["subspace"]
print({arm: f"{entry['median_principal_angle']:.1e} rad" for arm, entry in subspace.items()})
assert subspace["grassmann"]["max_principal_angle"] < 1e-3 < subspace["free"]["median_principal_angle"]
assert np.isclose(arms["grassmann"]["orthonormality_error"], 0, atol=1e-13)
