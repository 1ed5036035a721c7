"""pymanopt's solvers on these manifolds, with points that stay torch tensors on their device; and pymanopt's geometry under a torch loss.

pymanopt (Townsend, Koep, Weichwald 2016, JMLR 17, 137) has trust regions and conjugate gradients; its own manifolds and points are numpy
arrays on the host. Here `TorchManifold` gives its solvers, unchanged, the manifolds of this package, `torch_function` a loss with
derivatives by autograd, and `solve` is both in one line:

    >>> import torch
    >>> from grassmann_ssl.manifolds import Grassmann
    >>> from grassmann_ssl.manifolds.pymanopt import solve
    >>> a = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    >>> start = Grassmann().random(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> found = solve(lambda x: -(x * (a @ x)).sum(), Grassmann(), start)
    >>> round(found.cost, 9), found.gradient_norm < 1e-6
    (-11.0, True)
    >>> type(found.point), found.point.shape
    (<class 'torch.Tensor'>, torch.Size([6, 2]))

The same through pymanopt's own classes, with any of its options:

    >>> import pymanopt
    >>> from grassmann_ssl.manifolds.pymanopt import TorchManifold, torch_function
    >>> manifold = TorchManifold(Grassmann(), (6, 2))
    >>> @torch_function(manifold)
    ... def cost(x):
    ...     return -(x * (a @ x)).sum()
    >>> optimizer = pymanopt.optimizers.TrustRegions(kappa=0.05, verbosity=0)
    >>> round(optimizer.run(pymanopt.Problem(manifold, cost), initial_point=found.point).cost, 9)
    -11.0
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.grassmann import Grassmann
from grassmann_ssl.manifolds.pymanopt_loss import NumpyBackend, ProductBackend, TorchBackend
from grassmann_ssl.manifolds.stiefel import CanonicalStiefel, Stiefel
from grassmann_ssl.registry import nearest

try:
    import pymanopt
except ImportError as error:
    raise ImportError(
        "grassmann_ssl.manifolds.pymanopt needs pymanopt; to get it: pip install 'grassmann_ssl[pymanopt]'"
    ) from error

from pymanopt.autodiff import Function
from pymanopt.manifolds import Product
from pymanopt.manifolds.manifold import Manifold

from grassmann_ssl.manifolds.trust_regions import TrustRegions
from grassmann_ssl.shown import Shown


class TorchManifold(Manifold):  # type: ignore[misc]  # pymanopt has no types
    """A geoopt manifold as a manifold of pymanopt: points X (shape) and vectors torch tensors, every number a Python float.

    All leading dimensions together are one product manifold, as `k` in pymanopt. Needs `inner`, `proju`, `egrad2rgrad`, `retr`, `transp`
    and `random`; for `exp`, `log`, `pair_mean`, `dist` and trust regions also `expmap`, `logmap`, `dist` and `ehess2rhess`, without which
    they raise NotImplementedError. `dim` is that of the manifold for Grassmann and Stiefel, otherwise that of the space around it:
    pymanopt bounds inner iterations by it. Raises TypeError for what is no geoopt manifold, ValueError for a shape that holds no point.
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if not isinstance(manifold, geoopt.Manifold):
            raise TypeError(f"manifold must be a geoopt manifold such as Grassmann(), got {manifold!r}")
        if not (dtype.is_floating_point or dtype.is_complex):
            raise TypeError(f"dtype must be that of real or complex numbers, such as torch.float64, got {dtype}")
        good, reason = manifold.check_point(torch.empty(shape, dtype=dtype, device="meta"), explain=True)
        if not good:
            raise ValueError(f"shape must hold a point of {manifold}: {reason}")
        self.manifold, self.shape, self.dtype, self.device = manifold, tuple(shape), dtype, torch.device(device)
        # One call, where solvers spend most of their time between two products.
        self.is_dot = type(manifold) in (Grassmann, Stiefel) and dtype == torch.float64
        super().__init__(
            f"{manifold.name} manifold, points of shape {self.shape}", _dimension(manifold, self.shape, dtype)
        )

    @property
    def typical_dist(self) -> float:
        """sqrt(p), times sqrt(k) for k leading indices, as in pymanopt: the scale of trust regions.

        On geoopt's Euclidean sqrt(dim), on its Sphere pi sqrt(k), on a product the root of the sum of squares. Raises NotImplementedError
        on other manifolds than these, Grassmann and Stiefel.
        """
        if isinstance(self.manifold, geoopt.Euclidean):
            return math.sqrt(math.prod(self.shape))
        if isinstance(self.manifold, geoopt.Sphere):
            return math.pi * math.sqrt(math.prod(self.shape[:-1]))
        if isinstance(self.manifold, geoopt.ProductManifold):
            return math.hypot(*(self._part(i).typical_dist for i in range(self.manifold.n_manifolds)))
        if not isinstance(self.manifold, Grassmann | Stiefel | CanonicalStiefel):
            raise NotImplementedError(f"the typical distance on {self} is not known")
        return math.sqrt(math.prod(self.shape) / self.shape[-2])

    def inner_product(self, point: Tensor, tangent_vector_a: Tensor, tangent_vector_b: Tensor) -> float:
        if self.is_dot:
            return float(torch.dot(tangent_vector_a.reshape(-1), tangent_vector_b.reshape(-1)))
        products = self._call("inner", point, tangent_vector_a, tangent_vector_b)
        return float(products if products.numel() == 1 else products.sum())

    def norm(self, point: Tensor, tangent_vector: Tensor) -> float:
        if self.is_dot:
            return float(torch.linalg.vector_norm(tangent_vector))
        return float(torch.linalg.vector_norm(self._call("norm", point, tangent_vector)))

    def dist(self, point_a: Tensor, point_b: Tensor) -> float:
        return float(torch.linalg.vector_norm(self._call("dist", point_a, point_b)))

    def projection(self, point: Tensor, vector: Tensor) -> Tensor:
        return self._call("proju", point, vector)

    to_tangent_space = projection

    def embedding(self, point: Tensor, tangent_vector: Tensor) -> Tensor:
        return tangent_vector

    def euclidean_to_riemannian_gradient(self, point: Tensor, euclidean_gradient: Tensor) -> Tensor:
        if self.is_dot and not torch.is_grad_enabled():
            gradient: Tensor = self.manifold.proju_(point, euclidean_gradient, in_place=False)
            return gradient
        return self._call("egrad2rgrad", point, euclidean_gradient)

    def euclidean_to_riemannian_hessian(
        self, point: Tensor, euclidean_gradient: Tensor, euclidean_hessian: Tensor, tangent_vector: Tensor
    ) -> Tensor:
        tensors = point, euclidean_gradient, euclidean_hessian, tangent_vector
        if isinstance(self.manifold, geoopt.Euclidean):
            return euclidean_hessian
        if isinstance(self.manifold, geoopt.Sphere):  # AMS08 (Absil, Mahony, Sepulchre 2008), sec. 5.4.1
            radial = (point * euclidean_gradient).sum(-1, keepdim=True)
            return self._call("proju", point, euclidean_hessian - radial * tangent_vector)
        if not isinstance(self.manifold, geoopt.ProductManifold):
            return self._call("ehess2rhess", *tensors)
        parts = [
            self._part(i).euclidean_to_riemannian_hessian(
                *(self.manifold.take_submanifold_value(t, i) for t in tensors)
            )
            for i in range(self.manifold.n_manifolds)
        ]
        return torch.cat([part.flatten(point.ndim - 1) for part in parts], -1)

    def retraction(self, point: Tensor, tangent_vector: Tensor) -> Tensor:
        if self.is_dot and not torch.is_grad_enabled():
            end = point.clone()
            self.manifold.step_(end, tangent_vector)
            return end
        return self._call("retr", point, tangent_vector)

    def exp(self, point: Tensor, tangent_vector: Tensor) -> Tensor:
        return self._call("expmap", point, tangent_vector)

    def log(self, point_a: Tensor, point_b: Tensor) -> Tensor:
        return self._call("logmap", point_a, point_b)

    def transport(self, point_a: Tensor, point_b: Tensor, tangent_vector_a: Tensor) -> Tensor:
        return self._call("transp", point_a, point_b, tangent_vector_a)

    def pair_mean(self, point_a: Tensor, point_b: Tensor) -> Tensor:
        """The midpoint of the shortest geodesic."""
        return self.exp(point_a, self.log(point_a, point_b) / 2)

    def zero_vector(self, point: Tensor) -> Tensor:
        return torch.zeros(point.shape, dtype=point.dtype, device=point.device)

    def random_point(self) -> Tensor:
        """Drawn with torch's default generator: `torch.manual_seed` makes it repeatable."""
        point: Tensor = self.manifold.random(*self.shape, dtype=self.dtype, device=self.device)
        return point.detach().as_subclass(Tensor)

    def random_tangent_vector(self, point: Tensor) -> Tensor:
        """A projected Gaussian of norm 1 (0 where the manifold is a single point), with torch's default generator."""
        vector = self.projection(point, torch.randn_like(point))
        return vector / max(self.norm(point, vector), torch.finfo(point.dtype).tiny)

    def _part(self, i: int) -> "TorchManifold":
        """The i-th factor of a geoopt.ProductManifold."""
        shape = (*self.shape[:-1], *self.manifold.shapes[i])
        return TorchManifold(self.manifold.manifolds[i], shape, dtype=self.dtype, device=self.device)

    def _call(self, operation: str, *tensors: Tensor) -> Tensor:
        method = getattr(self.manifold, operation, None)
        try:
            if method is None:
                raise NotImplementedError
            if torch.is_grad_enabled():
                with torch.no_grad():  # a start that requires grad must not tie all iterates into one graph
                    result: Tensor = method(*tensors)
            else:
                result = method(*tensors)
        except NotImplementedError as error:
            raise NotImplementedError(f"{self.manifold} has no {operation}, which this needs") from error
        return result if type(result) is Tensor else result.as_subclass(Tensor)


def torch_function(manifold: TorchManifold | Product) -> Callable[[Callable[..., Tensor]], Function]:
    """Decorator: a loss X (shape) -> real scalar tensor, as the cost of a `pymanopt.Problem` on this manifold.

    On a `pymanopt.manifolds.Product` of these manifolds the loss takes one tensor for each of them, all of one dtype and device.

    Derivatives by autograd, on the device of the point; value, gradient and Hessian at a point share one forward pass. The loss may be any
    callable, an nn.Module too; its parameters get no `.grad`. Raises TypeError for another manifold. Errors of the loss: `TorchBackend`.
    """
    factors = manifold.manifolds if isinstance(manifold, Product) else (manifold,)
    for factor in factors:
        if not isinstance(factor, TorchManifold):
            raise TypeError(
                f"manifold must be a TorchManifold, got {type(factor).__name__}; for pymanopt's: reference_problem"
            )

    def decorated(loss: Callable[..., Tensor]) -> Function:
        shapes = [factor.shape for factor in factors]
        backend = ProductBackend(shapes) if isinstance(manifold, Product) else TorchBackend()
        return Function(function=loss, manifold=manifold, backend=backend)

    return decorated


@dataclass(frozen=True, repr=False)
class Solution(Shown):
    """The result of `solve`: `point` (a tensor like the start), the loss and the norm of its Riemannian gradient there.

    `iterations` as pymanopt counts them, `evaluations` the forward passes made, `seconds` of the whole run, `stopping` pymanopt's reason.
    """

    point: Tensor
    cost: float
    gradient_norm: float
    iterations: int
    evaluations: int
    seconds: float
    stopping: str


METHODS = {
    "trust-regions": pymanopt.optimizers.TrustRegions,
    "conjugate-gradient": pymanopt.optimizers.ConjugateGradient,
    "steepest-descent": pymanopt.optimizers.SteepestDescent,
}


@torch.no_grad()
def solve(
    loss: Callable[[Tensor], Tensor],
    manifold: geoopt.Manifold,
    start: Tensor,
    *,
    method: str = "trust-regions",
    max_iterations: int = 1000,
    min_gradient_norm: float = 1e-6,
    max_time: float = math.inf,
    verbosity: int = 0,
) -> Solution:
    """Minimize a loss X -> real scalar tensor over a manifold, from `start` (..., n, p), by a solver of pymanopt.

    method: "trust-regions" (second order, by Hessian-vector products), "conjugate-gradient" or "steepest-descent". Leading dimensions are
    one product manifold with one loss: for independent problems, the sum of theirs. Stops where the norm of the Riemannian gradient
    is below `min_gradient_norm` (float32 reaches about 1e-5 for Hessians of order 1: choose it accordingly), after `max_iterations` or
    `max_time` seconds; the line searches also where no step decreases the loss any more, which its rounding makes happen at a gradient of
    about the square root of that. Steepest descent takes one more step after the point where its gradient was small enough.
    A loss with methods `gradient(X)` and `hessian(X, U)`, its Euclidean gradient and the derivative of that along U, is differentiated by
    these, which saves most of the time where they are products written by hand; any other by autograd.
    On Grassmann and Stiefel in float64 the inner iterations of trust regions are ours (`TrustRegions`), and go no further than
    `min_gradient_norm` asks for. Source: Absil, Baker, Gallivan 2007, Found. Comput. Math. 7, 303.
    Errors: ValueError for an unknown method, a start off the manifold and limits that are not positive, TypeError for a start
    that is no tensor; those of the loss as in `TorchBackend`.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}{nearest(str(method), METHODS)}")
    if not isinstance(start, Tensor):
        raise TypeError(f"start must be a torch tensor, got {type(start).__name__}")
    limits = {"max_iterations": max_iterations, "min_gradient_norm": min_gradient_norm, "max_time": max_time}
    for name, limit in limits.items():
        if not limit > 0:
            raise ValueError(f"{name} must be positive, got {limit}")
    adapter = TorchManifold(manifold, tuple(start.shape), dtype=start.dtype, device=start.device)
    point = start.detach().as_subclass(Tensor).clone()
    good, reason = manifold.check_point_on_manifold(point, explain=True)
    if not good:
        raise ValueError(f"start must lie on {manifold}: {reason}")

    backend = TorchBackend()
    problem = pymanopt.Problem(adapter, Function(function=loss, manifold=adapter, backend=backend))
    options = {**limits, "verbosity": verbosity}
    if method == "trust-regions":
        # Near the end the decrease of the loss drowns in its rounding, and steps are accepted on the word of the model; pymanopt takes
        # 1e3 eps of float64 for that rounding.
        options["rho_regularization"] = 1e3 * torch.finfo(start.dtype).eps / torch.finfo(torch.float64).eps
    own = method == "trust-regions" and adapter.is_dot
    solver = TrustRegions(backend, **options) if own else METHODS[method](**options)
    begin = time.perf_counter()
    iterations, stopping = 0, "Terminated - min grad norm reached at the start."
    if adapter.norm(point, problem.riemannian_gradient(point)) >= min_gradient_norm:
        try:
            result = solver.run(problem, initial_point=point)
            point, iterations, stopping = result.point, result.iterations, result.stopping_criterion
        except ZeroDivisionError:
            # The line searches divide by the squared gradient before they look at its size; hinges make it exactly 0.
            point, iterations = backend.latest, backend.gradients
            if adapter.norm(point, problem.riemannian_gradient(point)) > 0:
                raise
            stopping = f"Terminated - the gradient is 0 after {iterations} iterations."
    # Steepest descent reports the gradient of the point before the last.
    cost, gradient_norm = problem.cost(point), adapter.norm(point, problem.riemannian_gradient(point))
    seconds = time.perf_counter() - begin
    backend.clear()  # pymanopt's problem refers to itself, and would keep the graphs until the next garbage collection
    return Solution(point, cost, gradient_norm, iterations, backend.evaluations, seconds, stopping)


def reference_problem(
    loss: Callable[[Tensor], Tensor],
    manifold: Grassmann | Stiefel,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> pymanopt.Problem:
    """The same torch loss on pymanopt's own manifold: numpy points of shape (n, p) or (k, n, p), as a reference.

    Grassmann(): `pymanopt.manifolds.Grassmann`, or `ComplexGrassmann` for complex128; Stiefel(): `pymanopt.manifolds.Stiefel`. The loss
    gets tensors of `dtype` and `shape` on `device`. Raises ValueError for manifolds, shapes and dtypes that pymanopt has no match for.
    """
    peers = {
        (Grassmann, torch.float64): pymanopt.manifolds.Grassmann,
        (Grassmann, torch.complex128): pymanopt.manifolds.ComplexGrassmann,
        (Stiefel, torch.float64): pymanopt.manifolds.Stiefel,
    }
    if (type(manifold), dtype) not in peers:
        raise ValueError(
            f"pymanopt's manifolds are Grassmann in float64 or complex128 and Stiefel in float64, got {manifold} in {dtype}"
        )
    if not (2 <= len(shape) <= 3 and shape[-2] >= shape[-1] >= 1):
        raise ValueError(f"shape must be (n, p) or (k, n, p) with n >= p >= 1, got {tuple(shape)}")
    *batch, n, p = shape
    peer = peers[type(manifold), dtype](n, p, k=math.prod(batch))
    return pymanopt.Problem(peer, Function(function=loss, manifold=peer, backend=NumpyBackend(tuple(shape), device)))


def _dimension(manifold: geoopt.Manifold, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    if isinstance(manifold, geoopt.ProductManifold):
        parts = zip(manifold.manifolds, manifold.shapes, strict=True)
        return sum(_dimension(part, (*shape[:-1], *own), dtype) for part, own in parts)
    reals = 2 if dtype.is_complex else 1
    if not isinstance(manifold, Grassmann | Stiefel | CanonicalStiefel):
        return reals * math.prod(shape)
    *batch, n, p = shape
    if isinstance(manifold, Grassmann):
        return math.prod(batch) * reals * p * (n - p)
    # X^H X = I: p^2 real equations if complex, p (p + 1)/2 if real.
    return math.prod(batch) * (2 * n * p - p * p if dtype.is_complex else n * p - p * (p + 1) // 2)
