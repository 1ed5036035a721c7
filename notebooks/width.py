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
# # Width and the tangent kernel
#
# What does training do to networks with a hidden layer, and does it depend on the width of that layer? Three answers: naive trace losses
# collapse every output to one scalar; with orthonormal weights and Riemannian gradients a linear network learns the same subspace at every
# width, on an exact law (Esser, Mukherjee & Ghoshdastidar 2023, arXiv 2309.02011); and nonlinear networks without constraint learn in the steps
# that their tangent kernel predicts, the better the wider they are (Simon et al. 2023, arXiv 2303.15438).
#
# You need `pip install '.[notebooks]'`, and a minute. Set `GRASSMANN_SSL_FAST=1` to run it on few widths.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np

from grassmann_ssl.experiments.networks.ntk import NtkConfig
from grassmann_ssl.experiments.networks.width import WidthConfig
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Without constraint: a scalar
#
# The loss of a linear layer is $\mathrm{tr}(W^\top C W)$, its flow $W(t) = e^{-2Ct} W(0)$, and the direction of the smallest eigenvalue
# $\lambda_1$ of $C$ outgrows all others: every output becomes one fixed vector times $v_1^\top x$. Cosines between the outputs of sixty digits go to
# ±1; under the constraint they stay what they are.

# %%
settings = {"hidden": (4, 64), "seeds": 1, "rates": (0.4, 0.2)} if fast else {"hidden": (4, 16, 64), "seeds": 4}
width = run(WidthConfig(out=runs / "width", **settings), page=False)
width.plot.cosines(columns=2)

# %%
width.plot.collapse(columns=1)

# %%
slope = width.record["free"]["slope"]
flow, discrete, measured = (slope[name] for name in ("predicted", "at_learning_rate", "measured"))
print(f"slope of log σ₂/σ₁: {flow:.4f} by the flow, {discrete:.4f} at this learning rate, measured {measured:.4f}")
assert abs(measured / discrete - 1) < 0.005
assert width.record["free"]["final_effective_rank"] < 1.01 and width.record["free"]["sign_agreement"] == 1

# %% [markdown]
# ## With the constraint: one law for every width
#
# Two layers $M = W_1 W_2$ with orthonormal columns, hidden widths from $h = d$ to $h = m$, each trained by Riemannian gradient descent on two
# Grassmannians from the same $M(0)$. By theory $\mathrm{span}\,M(t) = \mathrm{span}(e^{-2Ct} M(0))$, the flow of one layer, whatever $h$ is. What
# is left is the error of a finite learning rate, of first order.

# %%
width.plot.projector(columns=1)

# %%
grassmann = width.record["grassmann"]
worst = max(row[-1] for row in grassmann["max_projector_error"])
print(f"distance from the law {worst:.2g}, between widths {grassmann['max_difference_between_widths']:.2g}")
assert grassmann["max_difference_between_widths"] < 0.02 * worst
assert all(abs(order - 1) < 0.1 for order in grassmann["order"])

# %% [markdown]
# The law is exact mode by mode: the tangent coordinates $T_{ij}$ fall at the rates $2(\lambda_{d+i} - \lambda_j)$, none waits for another.

# %%
print(f"rates {grassmann['rate_ratio']:.3f} times as predicted, angles within {grassmann['max_angle_error']:.2g} rad")
assert abs(grassmann["rate_ratio"] - 1) < 0.3 * width.record["config"]["rates"][-1]  # of first order

# %% [markdown]
# ## Which metric
#
# It is the Grassmannian metric that makes widths equal. With the Euclidean metric of the Stiefel manifold on both factors the flow depends on
# the hidden span: at $h = m$ it is that of one layer, one and a half times faster.

# %%
width.plot.metrics(columns=1)

# %%
speed = width.record["stiefel"]["median_speed"]
print("speed against one layer:", {name: np.round(values, 3).tolist() for name, values in speed.items()})
assert np.allclose(speed["law"][0], 1, atol=1e-3) and np.allclose(speed["law"][-1], 1.5, atol=1e-3)
assert np.allclose(speed["stiefel"], speed["law"], rtol=0.05) and np.allclose(speed["grassmann"], 1, rtol=0.05)

# %% [markdown]
# ## Networks that are not linear
#
# Two-layer networks of tanh units, trained by Barlow Twins from outputs near 0. Theory has seen the tangent kernel at the start, and nothing
# of the training. In the first kind of start the outputs share no units, and the kernel is one scalar kernel for all of them; in the second
# they do, as in any ordinary network.

# %%
settings = {"widths": (30, 90), "seeds": 2, "pairs": 20} if fast else {"pairs": 50}
ntk = run(NtkConfig(out=runs / "ntk", **settings), page=False)
ntk.plot.staircase(columns=1)

# %% [markdown]
# Errors of the step times fall with the width. Where outputs share units the scalar kernel alone is off by far more than training noise: the
# rest of the kernel couples outputs, and pushes a mode once another is learned. `theory.tangent` has this push to first order, in closed form.

# %%
ntk.plot.step_times(columns=1)

# %%
errors = {start: ntk.record[start]["step_times"] for start in ("grouped", "independent")}
for start, found in errors.items():
    print(start, {name: np.round(100 * np.array(one["median_error"]), 2).tolist() for name, one in found.items()}, "%")
assert fast or all(np.diff(errors["grouped"]["prediction"]["median_error"]) < 0)
coupled, scalar = (errors["independent"][name]["median_error"] for name in ("coupled", "prediction"))
assert all(np.less(coupled, scalar))
