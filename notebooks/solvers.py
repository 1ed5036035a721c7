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
# # Second-order solvers for a full-batch objective
#
# How fast does each solver find the best subspace, do all find the same one, and what does that cost? pymanopt's trust regions and conjugate
# gradients, through `grassmann_ssl.manifolds.pymanopt`, against `RiemannianCG`, `RiemannianLBFGS` and `RiemannianSGD`. You need
# `pip install '.[notebooks]'`, which brings pymanopt, and half a minute.
#
# The objective is InfoNCE of a linear model z = Wᵀx on scikit-learn's digits, W on Gr(64, 8): with Gaussian inputs and infinitely many negatives
# it is a function of second moments, the same at every call, as line searches and Hessians need. Its minimizer is no eigenspace.

# %%
# %matplotlib inline
import os
import time
from functools import partial

import geoopt
import matplotlib.pyplot as plt
import pandas as pd
import torch

from grassmann_ssl.data import View, moments_of, triplets
from grassmann_ssl.manifolds import Grassmann, distance
from grassmann_ssl.manifolds.checks import check_gradient, check_hessian, check_rotation_invariance
from grassmann_ssl.manifolds.pymanopt import solve
from grassmann_ssl.objectives import objective
from grassmann_ssl.optim import RiemannianCG, RiemannianLBFGS
from grassmann_ssl.training import train_full_batch

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
plt.rcParams.update({"figure.dpi": 80, "font.size": 11, "figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
manifold = Grassmann()
moments = moments_of(triplets("digits", View(), torch.Generator().manual_seed(0)))
loss = objective("infonce").from_moments(moments)
starts = manifold.random(2 if fast else 6, 64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
start = starts[0]

# %% [markdown]
# ## Before solving: is it what a solver takes it for?
#
# A function of the subspace (L(WQ) = L(W)), with the right gradient and Hessian: errors of their Taylor expansions fall with slopes 2 and 3.

# %%
invariance = check_rotation_invariance(loss, start)
gradient, hessian = check_gradient(loss, manifold, start), check_hessian(loss, manifold, start)
print(f"changes by {invariance.change:.0e} under rotations; slopes {gradient.slope:.2f} and {hessian.slope:.2f}")
assert invariance.ok and gradient.ok and hessian.ok

# %% [markdown]
# ## One line
#
# `solve` takes any loss of a torch tensor; derivatives are autograd's, points stay torch tensors on their device.

# %%
best = solve(loss, manifold, start, min_gradient_norm=1e-10)
print(best)
print(best.stopping)

# %% [markdown]
# ## Gradient norms, iteration by iteration
#
# Every solver starts at the same subspace and is stopped after 1, 2, 3, ... iterations: the norm of the Riemannian gradient there, the loss and
# gradient evaluations until then, the distance from the minimizer. Gradient descent has one evaluation a step, at the best rate of 1/2, 1, 2, 3, 4.

# %%
GOAL = 1e-7
budgets = (7, 8, 9, 10, 240) if fast else (*range(1, 13), 16, 24, 36, 54, 80, 120, 180, 240)


def by_pymanopt(method, iterations):
    found = solve(loss, manifold, start, method=method, max_iterations=iterations, min_gradient_norm=GOAL)
    return found.point, found.iterations, found.evaluations, found.gradient_norm


def by_torch(kind, iterations):
    w = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
    optimizer = kind([w], max_iter=iterations, tolerance_grad=GOAL)

    def closure():
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        return value

    optimizer.step(closure)
    return w.detach(), optimizer.steps, optimizer.evaluations, optimizer.gradient_norm


solvers = {
    "trust regions (pymanopt)": partial(by_pymanopt, "trust-regions"),
    "RiemannianLBFGS": partial(by_torch, RiemannianLBFGS),
    "RiemannianCG": partial(by_torch, RiemannianCG),
    "conjugate gradient (pymanopt)": partial(by_pymanopt, "conjugate-gradient"),
}
rows, ends = [], {}
for name, run in solvers.items():
    for budget in budgets:
        begin = time.perf_counter()
        point, iterations, evaluations, norm = run(budget)
        seconds = time.perf_counter() - begin
        rows.append((name, iterations, evaluations, seconds, norm, float(distance(point, best.point))))
        ends[name] = point
        if norm < GOAL:
            break

descent = train_full_batch(loss, start, manifold, learning_rate=1.0, steps=100 if fast else 1400, log_every=10)
ends["RiemannianSGD"] = descent.weights[-1]
for step, norm, weights in zip(descent.step.tolist(), descent.gradient_norm.tolist(), descent.weights, strict=True):
    seconds = descent.wall_time * step / descent.step[-1].item()
    rows.append(("RiemannianSGD", step, step, seconds, norm, float(distance(weights, best.point))))
path = pd.DataFrame(rows, columns=["solver", "iterations", "evaluations", "seconds", "gradient norm", "distance"])
path = path[path.iterations > 0]

styles = dict(
    zip(
        [*solvers, "RiemannianSGD"],
        (("#c1440e", "o-"), ("#12507b", "s-"), ("#3b7d3a", "^-"), ("#8a5fa3", "v-"), ("0.45", "--")),
        strict=True,
    )
)
figure, axes = plt.subplots(figsize=(5.2, 4.8))
for name, own in path.groupby("solver", sort=False):
    colour, style = styles[name]
    axes.loglog(own.iterations, own["gradient norm"], style, color=colour, ms=4, label=name)
axes.axhline(GOAL, color="0.7", lw=0.8)
axes.set(xlabel="iterations", ylabel="norm of the Riemannian gradient")
figure.legend(fontsize=9.5, loc="outside upper center", ncols=2)
plt.show()

# %% [markdown]
# Trust regions bend down: near the minimum an iteration squares the gradient norm, up to a factor. First-order methods gain a factor per iteration,
# conjugate gradients and L-BFGS one that takes a tenth of the iterations of plain descent.

# %%
norms = path[path.solver == "trust regions (pymanopt)"]["gradient norm"].to_numpy()
print("the last gradient norms of trust regions:", *(f"{one:.1e}" for one in norms[-4:]))
assert norms[-1] / norms[-2] < 0.02 and norms[-1] / norms[-2] < norms[-2] / norms[-3]

# %% [markdown]
# ## Do they find the same subspace?
#
# Yes. On the way, a gradient norm of g leaves a distance of about g over the least curvature of the loss, whoever takes it there: the small
# gradients of first-order methods are not yet an answer, and 1e-7 is. Other random starts end at the same subspace. Dotted: two random subspaces.

# %%
figure, axes = plt.subplots(figsize=(5.2, 4.8))
for name, own in path.groupby("solver", sort=False):
    colour, style = styles[name]
    axes.loglog(
        own["gradient norm"],
        own.distance.clip(lower=1e-16),
        style[0] if style != "--" else ".",
        color=colour,
        ms=5,
        mfc="none",
        label=name,
    )
axes.axhline(float(distance(starts[0], starts[1])), color="0.6", lw=0.9, ls=":")
axes.set(xlabel="norm of the Riemannian gradient", ylabel="distance from the minimizer [rad]")
axes.invert_xaxis()
figure.legend(fontsize=9.5, loc="outside upper center", ncols=2)
plt.show()
others = [solve(loss, manifold, other, min_gradient_norm=1e-10).point for other in starts[1:]]
apart = max(float(distance(other, best.point)) for other in others)
print(f"{len(others)} other starts end within {apart:.0e} rad of it")

# %% [markdown]
# ## What it costs
#
# Until the gradient norm is below 1e-7, or to the last step of gradient descent. An iteration of trust regions solves a Newton system by
# Hessian-vector products, which are in the seconds and not in the evaluations. Seconds are those of one machine, and of small matrices, where Python
# takes most of them; [the benchmarks](../docs/choosing.md) have larger ones.

# %%
cost = path.groupby("solver", sort=False).last().sort_values("evaluations")
cost.style.format({"seconds": "{:.2f}", "gradient norm": "{:.0e}", "distance": "{:.0e}"})

# %%
second, first = cost.loc["trust regions (pymanopt)"], cost.drop(index=["trust regions (pymanopt)", "RiemannianSGD"])
assert second["gradient norm"] < GOAL and (first["gradient norm"] < GOAL).all()
assert second.distance < 1e-4 and (first.distance < 1e-4).all() and apart < 1e-7
assert 3 * second.evaluations < first.evaluations.min()
slow = path[(path.solver == "RiemannianSGD") & (path.iterations <= first.iterations.max())]
assert slow["gradient norm"].min() > 1e3 * GOAL  # plain descent after as many iterations
