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
# embeddings collapse; under $W^\top W = I$ the same losses are functions on the Grassmannian, and cannot. Barlow Twins, which has a defence of
# its own, is the control. Which of the two happens, and how fast, is predicted in closed form (Esser et al. 2023, arXiv 2309.02011).
# When each mode is learned is another question: `stepwise.ipynb`.
#
# The model is linear, $z = W^\top x$, on scikit-learn's digits. You need `pip install '.[notebooks]'`, and a minute. Set
# `GRASSMANN_SSL_FAST=1` to run it with few seeds.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

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
print(outcome.table.note)

# %% [markdown]
# ## The verdicts
#
# Each objective, free and constrained, judged by the audit over all seeds.

# %%
arms = outcome.record["arms"]
for objective in arms:
    for arm, entry in arms[objective].items():
        print(f"{objective}, {arm}: {entry['kinds']}")

# %%
seeds = outcome.record["config"]["seeds"]
assert all(arms[objective]["free"]["collapsed_seeds"] == seeds for objective in naive)
assert arms["barlow_twins"]["free"]["collapsed_seeds"] == 0
assert all(entry["grassmann"]["collapsed_seeds"] == 0 for entry in arms.values())
