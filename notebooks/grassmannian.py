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
# # The Grassmannian in ten pictures
#
# What is a point of Gr(n, p), a direction, a straight line, a distance, a step of an optimizer? Every picture is computed by
# `grassmann_ssl.manifolds` and ends in an assertion of what it shows. You need linear algebra, and seconds; no data and no training.
#
# Sources: Edelman, Arias & Smith 1998 (arXiv physics/9806030); Absil, Mahony & Sepulchre 2008, *Optimization Algorithms on Matrix Manifolds*;
# Bendokat, Zimmermann & Absil 2020 (arXiv 2011.13699).

# %%
# %matplotlib inline
import math
import os

import geoopt
import matplotlib.pyplot as plt
import torch

from grassmann_ssl.manifolds import (
    Grassmann,
    Stiefel,
    cut_locus_margin,
    distance,
    frechet_mean,
    principal_angles,
    projector,
)
from grassmann_ssl.manifolds.checks import check_retraction
from grassmann_ssl.optim import RiemannianSGD

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
torch.set_default_dtype(torch.float64)
_ = torch.manual_seed(0)
eps = torch.finfo(torch.float64).eps
red, blue, green, purple, grey = "#c1440e", "#12507b", "#3b7d3a", "#8a5fa3", "0.55"
plt.rcParams.update(
    {"figure.dpi": 80, "figure.figsize": (5.2, 4.2), "font.size": 11, "figure.constrained_layout.use": True}
)
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## 1. A point is a subspace
#
# A matrix X (n × p) with orthonormal columns stands for its span. Any other basis X Q of the span, Q orthogonal, is the same point: the
# projector X Xᵀ does not change. Here two bases of one plane of R³, far apart as matrices.

# %%
X = torch.linalg.qr(torch.tensor([[1.0, 0.2], [0.1, 1.0], [0.35, 0.45]]))[0]
turn = torch.tensor(1.0)
Q = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).reshape(2, 2)
around = torch.linspace(0, 2 * math.pi, 121)
circle = torch.stack([around.cos(), around.sin()])


def space():
    """Axes of R³ without a frame."""
    axes = plt.figure(figsize=(5.2, 4.4)).add_subplot(projection="3d")
    axes.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), zlim=(-0.8, 0.8))
    axes.set_box_aspect((1, 1, 1), zoom=1.25)
    axes.view_init(30, -68)
    axes.set_axis_off()
    return axes


def draw_plane(axes, basis, colour, alpha=0.18):
    """The unit disc of a plane."""
    rim = (basis @ circle).numpy()
    axes.plot_trisurf(*torch.cat([torch.zeros(3, 1), basis @ circle], 1).numpy(), color=colour, alpha=alpha, lw=0, shade=False,
                      triangles=[(0, k, k + 1) for k in range(1, len(around))])  # fmt: skip
    axes.plot(*rim, color=colour, lw=1.5)


def draw_arrows(axes, start, vectors, colour, label=None):
    """The columns of a matrix, as arrows."""
    axes.quiver(*start.numpy(), *vectors.numpy(), color=colour, lw=2.2, arrow_length_ratio=0.16, label=label)


axes = space()
draw_plane(axes, X, grey)
draw_arrows(axes, torch.zeros(3, 2), X, red, "columns of X")
draw_arrows(axes, torch.zeros(3, 2), X @ Q, blue, "columns of X Q")
axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.1), columnspacing=1)
plt.show()
print(f"as matrices {float((X - X @ Q).norm()):.2f} apart, as points {float(distance(X, X @ Q)):.0e}")
assert (projector(X) - projector(X @ Q)).abs().max() < 4 * eps and distance(X, X @ Q) < 8 * eps

# %% [markdown]
# ## 2. A tangent vector tilts it
#
# Any change G of X has a part X XᵀG within the plane, which turns the basis and moves nothing, and a part U with XᵀU = 0, which tilts the plane.
# Tangent vectors of the Grassmannian are these U; `proju` keeps them, and their length is ‖U‖ = tr(UᵀU)^½.

# %%
manifold = Grassmann()
G = torch.tensor([[0.1, -0.5], [0.3, 0.1], [0.55, 0.35]])
U = manifold.proju(X, G)
axes = space()
draw_plane(axes, X, grey)
draw_plane(axes, manifold.expmap(X, U), green, 0.12)
draw_arrows(axes, torch.zeros(3, 2), X, red, "X")
draw_arrows(axes, X, G, grey, "a change G of X")
draw_arrows(axes, X, U, green, "its tangent part U")
axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.1), columnspacing=1)
plt.show()
print(f"largest entry of XᵀU: {float((X.T @ U).abs().max()):.0e}; dimension of Gr(n, p) = p (n - p), here 2")
within = torch.linalg.qr(X + G - U)[0]  # a basis of the span of X and the part of G within it
assert (X.T @ U).abs().max() < 4 * eps and distance(X, within) < 8 * eps < distance(X, manifold.expmap(X, U))

# %% [markdown]
# ## 3. A geodesic turns by constant angles
#
# Principal angles θ₁ ≤ … ≤ θₚ say how two subspaces lie to each other. Along Exp_X(tU) each grows at constant speed, a singular value of U, up to a
# right angle: two lines cannot be further apart, and there it comes back. The geodesic goes on straight, but is no shortest way any more.

# %%
start = manifold.random(7, 3)
V = manifold.random_tangent(start)
V = V / torch.linalg.svdvals(V)[0]
time = torch.linspace(0, math.pi, 241)
angles = principal_angles(start, manifold.expmap(start, time[:, None, None] * V))

figure, axes = plt.subplots()
axes.plot(time, angles.rad2deg(), color=blue, lw=5, alpha=0.35)
for speed in torch.linalg.svdvals(V):
    axes.plot(time, (time * speed).rad2deg().where(time * speed < math.pi / 2, torch.nan), "--", color=red, lw=1.4)
axes.axhline(90, color=grey, lw=0.8)
axes.set(xlabel="time t", ylabel="angles to the start [degrees]", yticks=range(0, 91, 15), ylim=(0, 96))
axes.text(0.05, 92, "blue: principal angles; dashed: t × singular value of U", fontsize=9.5)
plt.show()
early = time < math.pi / 2
assert (angles[early] - time[early, None] * torch.linalg.svdvals(V).flip(0)).abs().max() < 1e-13

# %% [markdown]
# ## 4. The logarithm, and where it ends
#
# Gr(3, 1), the lines through the origin of R³, fits into a disc: a line is drawn at Log(line), the tangent vector at the vertical axis that leads
# to it. The rim is at π/2, the injectivity radius, and its opposite points are one line. From any point P the shortest ways reach everything up to
# the lines orthogonal to P (dashed): its cut locus, where two shortest ways meet and `cut_locus_margin` is 0.

# %%
vertical = torch.eye(3)[:, 2:]


def chart(lines):
    """Where lines (..., 3, 1) are drawn (..., 2): their logarithm at the vertical."""
    return manifold.logmap(vertical, lines)[..., :2, 0]


def lines_at(points):
    """The lines drawn at points (..., 2) of the disc: the exponential."""
    return manifold.expmap(vertical, torch.nn.functional.pad(points, (0, 1))[..., None])


radius, phase = torch.meshgrid(
    torch.linspace(0, math.pi / 2 - 1e-6, 80), torch.linspace(0, 2 * math.pi, 161), indexing="ij"
)
grid = torch.stack([radius * phase.cos(), radius * phase.sin()], -1)
everything = lines_at(grid)


def disc():
    """The rim."""
    axes = plt.subplots(figsize=(5.2, 4.4))[1]
    axes.plot(math.pi / 2 * around.cos(), math.pi / 2 * around.sin(), color="0.25", lw=1.2)
    axes.set(aspect="equal", xlim=(-1.62, 1.62), ylim=(-1.62, 1.62))
    axes.set_axis_off()
    return axes


def contours(axes, values, levels, colours, label):
    """A function of lines, in colour."""
    filled = axes.contourf(grid[..., 0], grid[..., 1], values, levels=levels, cmap=colours, alpha=0.85, zorder=0)
    plt.colorbar(filled, ax=axes, shrink=0.8, label=label, ticks=levels[::2], format="%.2g")


def draw(axes, lines, *style, **how):
    """A path (k, 3, 1) on the disc, cut where it leaves the rim and comes back on the other side."""
    points = chart(lines)
    jump = (points[1:] - points[:-1]).norm(dim=-1) > 1
    points[1:][jump] = torch.nan
    axes.plot(points[:, 0], points[:, 1], *style, **how)


P = lines_at(torch.tensor([0.55, 0.3]))
axes = disc()
contours(axes, manifold.dist(P, everything), torch.linspace(0, math.pi / 2, 11), "YlGnBu_r", "distance from P [rad]")
first, second = torch.linalg.svd(P)[0][:, 1:].T
for angle in torch.linspace(0, math.pi, 13)[:-1]:
    ray = (angle.cos() * first + angle.sin() * second)[:, None]
    draw(
        axes,
        manifold.expmap(P, torch.linspace(-math.pi / 2, math.pi / 2, 161)[:, None, None] * ray),
        color="white",
        lw=0.9,
    )
horizon = around.cos() * first[:, None] + around.sin() * second[:, None]
draw(axes, horizon.T[..., None], "--", color=red, lw=1.8)
axes.plot(*chart(P), "o", color=red)
axes.text(*chart(P) + 0.1, "P", color="white", fontsize=15, weight="bold")
plt.show()
again = manifold.expmap(P, manifold.logmap(P, everything))
print(
    f"Exp_P(Log_P(Y)) is Y, for {everything[..., 0, 0].numel():,} lines Y: at most {float(distance(again, everything).max()):.0e} off"
)
assert distance(again, everything).max() < 64 * eps
assert cut_locus_margin(P, horizon.T[..., None]).abs().max() < 8 * eps

# %% [markdown]
# ## 5. Distances are functions of the principal angles
#
# The geodesic distance is (Σ θ²)^½. Others saturate, some see the largest angle alone, and Martin's is infinite where two subspaces hold
# orthogonal directions. Along a geodesic of Gr(7, 3), each over its largest value here, or over 3 for Martin's:

# %%
kinds = ("geodesic", "chordal", "projection", "binet-cauchy", "fubini-study", "procrustes", "spectral", "martin")
close = torch.linspace(0, math.pi / 2, 181)
path = manifold.expmap(start, close[:, None, None] * V)
figure, axes = plt.subplots(figsize=(5.2, 4.6))
for k, kind in enumerate(kinds):
    far = distance(start, path, kind)
    scale = 3 if kind == "martin" else far.max()
    axes.plot(close, far / scale, lw=2, color=plt.cm.tab10(k), linestyle=("-", "--", "-.", ":")[k % 4], label=kind)
axes.set(xlabel="time t: the largest angle", ylabel="distance, scaled", ylim=(0, 1.05))
axes.legend(ncols=2, loc="lower right", fontsize=10)
plt.show()
geodesic = distance(start, path)
assert (geodesic - close * V.norm()).abs().max() < 1e-13
assert all((distance(start, path, kind) <= geodesic + 1e-13).all() for kind in kinds if kind != "martin")
near = distance(start, manifold.expmap(start, 1e-12 * V)) / (1e-12 * V.norm())
print(f"a distance of 1e-12 is right to {abs(float(near) - 1):.0e} of itself: no arccos of a number near 1 is taken")
assert abs(near - 1) < 1e-3

# %% [markdown]
# ## 6. It is curved, between 0 and 2
#
# Two geodesics that leave a point of Gr(4, 2) at a right angle: with curvature K the distance of their ends falls behind that of a flat plane, √2 t.
# Sectional curvatures lie in [0, 2]; that of lines and hyperplanes (p = 1 or n − 1) is 1 everywhere, a sphere's with opposite points as one.

# %%
origin = torch.eye(4)[:, :2]
blocks = {  # pairs of tangent vectors [0; B]
    0: ([[1.0, 0], [0, 0]], [[0, 0], [0, 1.0]]),
    1: ([[1.0, 0], [0, 0]], [[0, 1.0], [0, 0]]),
    2: ([[0.5**0.5, 0], [0, 0.5**0.5]], [[0, 0.5**0.5], [-(0.5**0.5), 0]]),
}
figure, axes = plt.subplots()
axes.plot(close, 2**0.5 * close, color=grey, lw=5, alpha=0.4, label="flat, √2 t")
for (curvature, pair), colour, dash in zip(blocks.items(), (green, blue, red), ("-", "--", "-."), strict=True):
    A, B = (torch.cat([torch.zeros(2, 2), torch.tensor(block)]) for block in pair)
    assert abs(manifold.sectional_curvature(origin, A, B) - curvature) < 16 * eps
    ends = [manifold.expmap(origin, close[:, None, None] * vector) for vector in (A, B)]
    axes.plot(close, distance(*ends), color=colour, lw=2, linestyle=dash, label=f"curvature {curvature}")
axes.set(xlabel="time t", ylabel="distance of the two geodesics")
axes.legend(loc="upper left")
plt.show()
count = 1000 if fast else 20_000
sampled = manifold.sectional_curvature(origin, *manifold.random_tangent(origin.expand(2, count, 4, 2)))
print(f"{count:,} random planes: curvatures from {float(sampled.min()):.4f} to {float(sampled.max()):.4f}")
assert sampled.min() >= -16 * eps and sampled.max() <= 2 + 16 * eps

# %% [markdown]
# ## 7. A retraction is a cheap geodesic
#
# An optimizer goes to span(X + U), by a Cholesky factorization, a QR or a polar decomposition. All bases of one span are one point, so all these
# retractions are the same, of second order: off the geodesic by a third power of the step. On the Stiefel manifold, where the basis counts, the
# Cholesky-QR one is of first order only, the polar one of second.

# %%
figure, axes = plt.subplots(figsize=(5.2, 4.4))
point = manifold.random(50, 5)
cases = (
    (Stiefel("cholesky-qr"), 1, "Stiefel, Cholesky-QR", red, "o", 5),
    (Stiefel("polar"), 2, "Stiefel, polar", purple, "o", 8),
    (Grassmann("cholesky-qr"), 2, "Grassmann, Cholesky-QR", blue, "s", 4.5),
    (Grassmann("polar"), 2, "Grassmann, polar", green, ".", 3),
)
for where, order, name, colour, marker, size in cases:
    checked = check_retraction(where, point, order=order, generator=torch.Generator().manual_seed(1))
    label = f"{name}: slope {checked.slope:.2f}"
    axes.loglog(checked.steps, checked.residuals, marker, ms=size, mfc="none", color=colour, label=label)
    assert abs(checked.slope - (order + 1)) < 0.1 and checked.ok
axes.set(xlabel="length of the step", ylabel="distance from the geodesic", xlim=(1e-6, 2), ylim=(1e-16, 10))
axes.legend(loc="upper left", fontsize=10, handletextpad=0.1)
plt.show()

# %% [markdown]
# ## 8. Carried around a loop, a vector comes back turned
#
# Parallel transport carries tangent vectors along geodesics, so that momentum means the same after a step. It preserves lengths and angles, but
# depends on the way: around a triangle of Gr(3, 1), of curvature 1, a vector turns by the triangle's area, the excess of its angles over π.

# %%
corners = lines_at(torch.tensor([[-0.7, -0.5], [0.75, -0.4], [0.05, 0.8]]))
at, carried = corners[0], 0.45 * manifold.proju(corners[0], vertical)
before = carried
axes = disc()
for corner in corners.roll(-1, 0):
    side = manifold.geodesic(torch.linspace(0, 1, 41), at, corner)
    vectors = manifold.parallel_transport(at, side, carried)
    draw(axes, side, color=grey, lw=1.5)
    for k in range(0, 40, 5):
        tail, tip = chart(side[k]), chart(manifold.expmap(side[k], vectors[k]))
        axes.annotate(
            "", tip, tail, arrowprops={"arrowstyle": "-|>", "color": blue, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        )
    at, carried = side[-1], vectors[-1]
after = manifold.parallel_transport(at, corners[0], carried)  # in the basis of the start
for vector, colour, name in ((before, green, "before"), (after, red, "after")):
    tail, tip = chart(corners[0]), chart(manifold.expmap(corners[0], vector))
    axes.annotate(
        "", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.6, "shrinkA": 0, "shrinkB": 0}
    )
    axes.plot([], [], color=colour, lw=2.6, label=name)
axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 0.04))
plt.show()


def angle_between(x, u, v):
    return (manifold.inner(x, u, v) / (manifold.norm(x, u) * manifold.norm(x, v))).acos()


turned = angle_between(corners[0], before, after)
excess = -math.pi + sum(
    angle_between(x, manifold.logmap(x, y), manifold.logmap(x, z))
    for x, y, z in zip(corners, corners.roll(-1, 0), corners.roll(-2, 0), strict=True)
)
print(f"turned by {float(turned):.6f} rad, area of the triangle {float(excess):.6f}")
assert abs(turned - excess) < 1e-13 and abs(manifold.norm(at, carried) - manifold.norm(corners[0], before)) < 8 * eps

# %% [markdown]
# ## 9. A mean is a mean of subspaces, not of matrices
#
# Every line of this cloud came with one of two bases, x or −x. Averages of the bases (crosses, for three choices of the signs) depend on them. The
# Fréchet mean (star), the point with the least sum of squared distances, does not know of bases: there the logarithms of all points sum to 0.

# %%
centre = lines_at(torch.tensor([-0.45, 0.35]))
cloud = manifold.expmap(centre, 0.4 * manifold.random_tangent(centre.expand(60, 3, 1)))
signs = torch.randint(0, 2, (3, 60, 1, 1)) * 2.0 - 1
mean = frechet_mean(cloud)
naive = manifold.projx((signs * cloud).mean(1))
axes = disc()
for one in cloud:
    draw(axes, manifold.geodesic(torch.linspace(0, 1, 30), mean.mean, one), color=blue, lw=0.6, alpha=0.5)
axes.plot(*chart(cloud).T, "o", color=blue, ms=4, label="lines")
axes.plot(*chart(naive).T, "X", color=grey, ms=11, label="averages of bases")
axes.plot(*chart(mean.mean), "*", color=red, ms=18, mec="white", label="Fréchet mean")
axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.04), fontsize=10, columnspacing=1, handletextpad=0.2)
plt.show()
print(mean)
flipped = frechet_mean(signs * cloud)
assert mean.converged and flipped.converged.all() and distance(flipped.mean, mean.mean).max() < 1e-13
assert manifold.logmap(mean.mean, cloud).sum(0).norm() < 60 * 64 * eps
assert distance(naive, mean.mean).max() > 0.3

# %% [markdown]
# ## 10. Gradient descent on a landscape of subspaces
#
# The first principal component minimizes −xᵀAx over lines: a bowl, a saddle at the second eigenvector, a summit at the third. `RiemannianSGD` walks
# downhill along retractions; paths that leave the rim come in on the other side, since that is the same line. All end at the minimum: there are
# no other minima, only saddles, and no start drawn at random stays on one.

# %%
frame = torch.linalg.qr(torch.tensor([[0.5, 1.0, 0.3], [0.25, -0.4, 1.0], [1.0, -0.3, -0.5]]))[0]
A = frame @ torch.diag(torch.tensor([1.0, 0.5, 0.0])) @ frame.T


def loss(x):
    return -(x * (A @ x)).sum((-2, -1))


moving = geoopt.ManifoldParameter(manifold.random(18, 3, 1), manifold=manifold)
optimizer = RiemannianSGD([moving], lr=0.2)
walked = [moving.detach().clone()]
for _ in range(150):
    optimizer.zero_grad()
    loss(moving).sum().backward()
    optimizer.step()
    walked.append(moving.detach().clone())
walked = torch.stack(walked, 1)

axes = disc()
contours(axes, loss(everything), torch.linspace(-1, 0, 11), "viridis", "loss −xᵀAx")
for path in walked:
    draw(axes, path, color="white", lw=1.3)
axes.plot(*chart(walked[:, 0]).T, "o", color="white", ms=4)
for k, (name, marker) in enumerate((("minimum", "*"), ("saddle", "P"), ("summit", "^"))):
    axes.plot(*chart(frame[:, k : k + 1]), marker, color=red, ms=15, mec="white", lw=0, label=name)
axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0.04), columnspacing=1, handletextpad=0.2)
plt.show()

# %% [markdown]
# In one sentence: optimizing over subspaces is gradient descent on a curved space, whose operations are exact, cheap (p × p matrices) and blind
# to the basis.

# %%
off = distance(walked[:, -1], frame[:, :1])
print(f"after 150 steps the farthest of {len(off)} starts is {float(off.max()):.0e} rad from the first eigenvector")
assert off.max() < 1e-9 and (loss(walked).diff(dim=1) <= 16 * eps).all()
