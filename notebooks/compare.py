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
# # Free SSL collapses, constrained does not
#
# Objectives that only pull views together, or push some apart, have no minimum of their own, or a trivial one. Trained without constraint their
# embeddings collapse. Under $W^\top W = I$ the same losses are functions on the Grassmannian: the weights keep their rank, and whether the
# embedding keeps its variance is measured here. Barlow Twins, which has a defence of its own, is the control. Which of the two happens, and
# how fast, is predicted in closed form (Esser et al. 2023, arXiv 2309.02011). When each mode is learned is another question:
# `stepwise.ipynb`.
#
# The model is linear, $z = W^\top x$, on scikit-learn's digits. You need `pip install '.[notebooks]'`, and a minute. Set
# `GRASSMANN_SSL_FAST=1` to run it with few seeds.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import pandas as pd

from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
out = Path(tempfile.mkdtemp()) / "run"
naive = ("linear_contrastive", "linear_noncontrastive", "squared_noncontrastive")
settings = {"seeds": 3, "steps": 1500, "dim": 4} if fast else {"seeds": 20}
outcome = run(
    CompareConfig(objectives=(*naive, "barlow_twins"), init_scales=(), out=out, **settings),
    page=False,
)
outcome

# %% [markdown]
# ## The verdicts
#
# Each objective, free and constrained, judged by the audit: beside what theory predicted.

# %%
arms, table = outcome.record["arms"], outcome.table
pd.DataFrame(table.rows, columns=table.header)

# %% [markdown]
# ## A scalar, or a point
#
# A trace loss $\mathrm{tr}(W^\top C W)$ has the flow $W(t) = e^{-2Ct} W(0)$. Where $C$ has a negative eigenvalue, free weights blow up along one
# direction: the effective rank falls to 1, at a slope that is the difference of two eigenvalues. Under the constraint the loss is a function of
# the subspace alone, and its gradient flow has an exact solution.

# %%
outcome.plot.linear_noncontrastive(columns=1)

# %% [markdown]
# The squared loss without negatives has no negative eigenvalue. Free weights fall to 0, and everything is one point.

# %%
outcome.plot.squared_noncontrastive(columns=1)

# %%
agreement = outcome.record["agreement"]
slope = agreement["linear_noncontrastive"]["collapse_slope"]
print("free: slope of the collapse", {name: slope[name] for name in ("predicted", "measured", "relative_error")})
assert fast or slope["relative_error"] < 0.03  # a short run does not reach it
for objective in naive:
    error = agreement[objective]["flow"]["max_projector_error"]
    print(f"{objective}: constrained, projector within {error:.1e} of the exact flow")
    assert error < 0.05

# %% [markdown]
# ## So free SSL collapses, constrained does not

# %%
seeds = outcome.record["config"]["seeds"]
assert all(arms[objective]["free"]["collapsed_seeds"] == seeds for objective in naive)
assert all(entries["grassmann"]["collapsed_seeds"] == 0 for entries in arms.values())
assert all(entries["grassmann"]["orthonormality_error"] < 1e-13 for entries in arms.values())
assert arms["barlow_twins"]["free"]["collapsed_seeds"] == 0  # the control
