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
# # Predictors: when BYOL and SimSiam collapse
#
# Without negatives, a predictor and a stop-gradient keep an embedding from collapse, sometimes. When? For linear networks the answer is a
# phase diagram (Tian, Chen & Ganguli 2021, arXiv 2102.06810): fixed points, their basins, a critical weight decay, and what the moving average
# and DirectPred change. Theory draws the lines here, and simulated or trained networks the points.
#
# You need `pip install '.[notebooks]'`, and a minute. Set `GRASSMANN_SSL_FAST=1` to run it on coarse grids.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import theory
from grassmann_ssl.experiments.phase.basin import BasinConfig
from grassmann_ssl.experiments.phase.directpred import DirectPredConfig
from grassmann_ssl.experiments.phase.fixed_points import FixedPointsConfig
from grassmann_ssl.experiments.phase.portraits import PortraitsConfig
from grassmann_ssl.experiments.phase.sweeps import SweepsConfig
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One mode, two numbers
#
# Where predictor and correlations share eigenvectors, every mode is a plane: $p$, an eigenvalue of the predictor, and $s$, the eigenvalue of
# the output correlations that belongs to it,
#
# $$\dot p = \alpha_p s\,[\tau - (1 + \sigma^2) p] - \eta p, \qquad \dot s = 2 p s\,[\tau - (1 + \sigma^2) p] - 2 \eta s,$$
#
# with weight decay $\eta$, augmentation variance $\sigma^2$, the predictor's relative learning rate $\alpha_p$, and a target
# $W_a = \tau W$; time is learning rate × step. Whatever $\tau$ does, $s - p^2/\alpha_p$ decays as $e^{-2\eta t}$: modes fall to a parabola, and
# on it there are three fixed points, until there is one.

# %%
eta_critical = theory.predictor.modes.critical_eta(tau=1, sigma2=0.25)
saddle, stable = theory.predictor.modes.fixed_points(0.1, tau=1, sigma2=0.25)
print(f"critical weight decay {eta_critical:.3g}; at half of it: saddle p = {saddle:.3f}, stable p = {stable:.3f}")

# %%
portrait = run(
    PortraitsConfig(eta=(0.1,), starts=(6, 4) if fast else (7, 4), out=runs / "portrait"),
    page=False,
)
portrait.plot.portraits()

# %% [markdown]
# A mode survives on one side of the thick line and collapses on the other. The paper's condition, above the parabola, is sufficient, not
# necessary: starts far below it survive, too.

# %%
assert all(panel["differing"] == 0 for panel in portrait.record["panels"])
portrait.findings[0]

# %% [markdown]
# ## Fixed points and the critical weight decay
#
# Simulated from just above and just below the saddle, at weight decays on both sides of the critical one.

# %%
settings = {"tau": (1.0,), "alpha_p": (1.0,), "etas": 8 if fast else 16}
fixed = run(FixedPointsConfig(out=runs / "fixed", **settings), page=False)
fixed.plot.fixed_points()

# %%
(panel,) = fixed.record["panels"]
assert panel["upper_error"] < 1e-6 and panel["zero_error"] < 1e-5
assert panel["largest_surviving_eta"] < panel["eta_critical"] < panel["smallest_collapsing_eta"]

# %% [markdown]
# ## The basin of collapse
#
# Every cell is one simulated start. The line is the stable manifold of the saddle, integrated backwards: theory that has seen no cell. Cells
# may differ from it only where it passes through them.

# %%
basin = run(BasinConfig(cells=48 if fast else 128, out=runs / "basin"), page=False)
basin.plot.basin(columns=1)

# %%
print(basin.findings[0].agreement)
assert basin.record["counts"]["differing_not_crossed"] == basin.record["counts"]["blown_up"] == 0

# %% [markdown]
# ## Weight decay, moving average, learning rate of the predictor
#
# Networks of three modes, trained by gradient descent, whose target starts at a tenth of the weights and follows them at the rate $\beta$. A small
# target has a larger saddle, so a slow moving average loses modes that a fast one keeps.

# %%
settings = {"until": 60.0, "learning_rate": 0.02} if fast else {}
sweeps = run(SweepsConfig(out=runs / "sweeps", **settings), page=False)
sweeps

# %% [markdown]
# Fewer survive the larger weight decay, the slower moving average and the slower predictor: observations 5, 10 and 1 of the paper's Table 4.
# Below, the moving average: lines are theory, markers trained networks, bands the range of their modes.

# %%
sweeps.plot.beta(columns=1)

# %%
assert all(sweep["same"] for sweep in sweeps.record["survivors"].values())
assert max(sweeps.record["errors"].values()) < 5e-3

# %% [markdown]
# ## DirectPred: the predictor in closed form
#
# DirectPred trains no predictor: it sets $W_p$ from the eigenvectors of the averaged correlation, $p_j = \sqrt{s_j} + \epsilon \max_j s_j$.
# Four features of different augmentation variance $\sigma_j^2$; a feature is kept where the weight decay is below
# $1/(4(1 + \sigma_j^2))$ (dotted), by DirectPred as by a trained predictor. SGD on sampled views keeps the same ones, except where a feature is so
# weak that its noise loses it. DirectCopy, $W_p = F$, has the same thresholds and larger strengths.

# %%
eta = (0.03, 0.055, 0.07, 0.11, 0.14, 0.18, 0.22, 0.275)
settings = {"eta": eta[2::4], "until": 100.0} if fast else {"eta": eta}
directpred = run(DirectPredConfig(start=(1.0,), seeds=1, out=runs / "directpred", **settings), page=False)
directpred.plot.ends(columns=1)

# %%
arms = directpred.record["arms"]
for arm, found in arms.items():
    right, error = f"{found['as_predicted']} of {found['features']}", found["strength_error"]
    print(f"{arm}: {right} features as predicted, strengths within {error:.1e}")
flows = [arms[arm] for arm in ("trained", "directpred", "directcopy")]
assert all(found["as_predicted"] == found["features"] and found["strength_error"] < 0.05 for found in flows)
assert arms["directpred_sgd"]["as_predicted"] >= 0.9 * arms["directpred_sgd"]["features"]
