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
# # Audit my embeddings
#
# Did they collapse, how, and how sure is that? You need an array of embeddings, one row a sample; nothing about the encoder.
# Seven cases whose answer is known: healthy, rank 3 of 64, a cone, a constant, a training that is not finished, a rare class that is one point,
# and fewer rows than dimensions.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import torch

from grassmann_ssl import CollapseMonitor, audit_embeddings

torch.manual_seed(0)
healthy = torch.randn(500, 64) + 3

# %% [markdown]
# ## Healthy
#
# All 64 dimensions are used. Every number has an interval; the column `sample` is what the rows alone would say.

# %%
audit = audit_embeddings(healthy)
assert audit.kind == "none"
print(audit)

# %%
audit.frame()[["value", "low", "high", "sample", "meaning"]].round(3)

# %%
audit.plot()

# %% [markdown]
# ## Rank 3 of 64
#
# Few dimensions are used, and the others are dead.

# %%
rank_three = audit_embeddings(torch.randn(500, 3) @ torch.randn(3, 64))
assert rank_three.kind == "dimensional" and rank_three.verdict.hard
print(rank_three.judgement)
print(rank_three["dimensions_used"].value, rank_three["live_dimensions"].value)

# %% [markdown]
# ## A cone
#
# z itself has not collapsed: its mean is no part of its variance. But a cosine loss sees directions only, and they are all alike.

# %%
cone = torch.randn(500, 64) + 50
assert audit_embeddings(cone).kind == "none"
directions = audit_embeddings(cone, directions=True)
assert directions.kind == "directional"
print(directions.judgement, directions["spread"].value)

# %% [markdown]
# ## A constant

# %%
constant = audit_embeddings(torch.full((500, 64), 1.7))
assert constant.kind == "complete"
print(constant.judgement)

# %% [markdown]
# ## A training that is not finished
#
# Linear Barlow Twins learns one mode after the other. One array cannot tell collapse from a training that goes on: at an early step it uses few
# dimensions, whatever comes later. A monitor in the loop sees them come.

# %%
x = torch.randn(2000, 32) * torch.linspace(1, 0.4, 32)
weights = (1e-3 * torch.randn(32, 8)).requires_grad_()
optimizer = torch.optim.SGD([weights], lr=0.02)
monitor = CollapseMonitor(on_collapse=lambda row: None)
for _ in range(1500):
    z, z_positive = (x + 0.1 * torch.randn_like(x)) @ weights, (x + 0.1 * torch.randn_like(x)) @ weights
    loss = (z.T @ z_positive / len(x) - torch.eye(8)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    monitor.update(z)
history = monitor.history
history[["step", "kind", "dimensions_used", "state"]].iloc[::3]

# %%
plt.plot(history.step, history.dimensions_used, marker="o")
plt.fill_between(history.step, history.low, history.high, alpha=0.3)
plt.xscale("log")
plt.xlabel("step")
plt.ylabel("dimensions used of 8")
plt.show()
assert history.kind.iloc[-1] == "none" and history.dimensions_used.iloc[-1] > 6

# %% [markdown]
# ## A rare class that is one point
#
# The whole looks healthy; with labels the class is named.

# %%
labels = torch.tensor([0] * 240 + [1] * 240 + [2] * 20)
rare = healthy.clone()
rare[labels == 2] = rare[-1].clone()
assert audit_embeddings(rare).kind == "none"
by_class = audit_embeddings(rare, labels=labels)
assert by_class.kinds == ("class",) and by_class.verdict.classes == ("2",)
print(by_class.judgement)
by_class.class_frame()

# %% [markdown]
# ## Fewer rows than dimensions
#
# 256 rows of 512 dimensions have a sample covariance of rank 255. The dimensions used are estimated without that bias, and so is the spectrum.

# %%
few = audit_embeddings(torch.randn(256, 512))
assert few.kind == "none" and few["dimensions_used"].low > 450
print(few)
few.plot()

# %% [markdown]
# Where rows are too few to decide, the audit says so, and how many would tell.

# %%
open_ = audit_embeddings(torch.randn(64, 512) * (torch.arange(512) < 256))
assert open_.kind == "undecided"
print(open_.judgement)
