"""A manifold that checks what goes into and comes out of each of its operations."""

import inspect
from collections.abc import Callable
from typing import Any

import geoopt
import torch
from torch import Tensor

from grassmann_ssl.manifolds.checks import smallest_tolerance

# What the arguments are, by the names that geoopt and this package give them.
POINT, TANGENT, AMBIENT = "point", "tangent vector at x", "ambient"
ARGUMENTS = {"x": POINT, "y": POINT, "u": TANGENT, "v": TANGENT, "egrad": AMBIENT, "ehess": AMBIENT}
EXCEPTIONS = {
    ("projx", "x"): AMBIENT,
    ("proju", "u"): AMBIENT,
    ("proju_", "u"): AMBIENT,
    ("egrad2rgrad", "u"): AMBIENT,
    ("step_", "v"): AMBIENT,
}

# What comes out: the point "end" of a step, vectors tangent at x, at y or at an end, numbers.
RESULTS: dict[str, tuple[str, ...]] = {
    "retr": ("end",),
    "expmap": ("end",),
    "projx": ("end",),
    "geodesic": ("end",),
    "retr_transp": ("end", "at end"),
    "expmap_transp": ("end", "at end"),
    "transp_follow_retr": ("at retr",),
    "transp_follow_expmap": ("at expmap",),
    "transp": ("at y",),
    "parallel_transport": ("at y",),
    "proju": ("at x",),
    "proju_": ("at x",),
    "egrad2rgrad": ("at x",),
    "ehess2rhess": ("at x",),
    "logmap": ("at x",),
    "inverse_retr": ("at x",),
    "random_tangent": ("at x",),
    "inner": ("number",),
    "component_inner": ("number",),
    "norm": ("number",),
    "dist": ("number",),
    "dist2": ("number",),
    "cdist": ("number",),
    "sectional_curvature": ("number",),
    "step_": ("number",),
}
BATCHES_APART = ("cdist",)  # whose arguments broadcast in another way than leading dimension by leading dimension


def _operation(name: str) -> Callable[..., Any]:
    def method(self: "Validated", *args: Any, **kwargs: Any) -> Any:
        return self._checked_call(name, *args, **kwargs)

    original = getattr(geoopt.Manifold, name)
    method.__name__, method.__doc__ = name, f"`{name}` of the wrapped manifold, checked."
    method.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]  # geoopt.Scaled goes by names
    return method


class Validated(geoopt.Manifold):  # type: ignore[misc]  # geoopt has no types
    """A geoopt manifold with every input and output checked, for debugging.

    Checks that points are on the manifold, vectors tangent, shapes those of a point, shapes of all arguments equal up to broadcasting,
    dtypes and devices equal, and all entries finite; then returns what `manifold` returns, unchanged (`random` and `origin` come with
    this manifold). Raises ValueError naming operation, argument, error and tolerance, TypeError for arguments that are no tensors. For
    geoopt.ManifoldParameter, optimizers, and anything else that takes a manifold; attributes that geoopt does not know are those of
    `manifold`, and checked where they are one of the operations of this package. Waits for the device at each call, which takes
    several times as long: for tests and debugging.

    Points must lie on the manifold to the tolerances atol and rtol as the manifold defines them; the normal part of a vector may be
    atol + rtol max(1, its largest entry), or that of the ambient vector that it was projected from. Default: both 1000 eps of the dtype,
    at most 0.1: 2.2e-13 in float64, 1.2e-4 in float32. Raises TypeError for another manifold, ValueError for negative tolerances.

    geoopt's RiemannianSGD with momentum starts its buffer from the Euclidean gradient, whose normal part this reports at the first step.
    """

    __scaling__ = geoopt.Manifold.__scaling__.copy()

    def __init__(self, manifold: Any, *, atol: float | None = None, rtol: float | None = None) -> None:
        super().__init__()
        if not isinstance(manifold, geoopt.Manifold):
            raise TypeError(f"manifold must be a geoopt manifold such as Grassmann(), got {type(manifold).__name__}")
        for name, value in (("atol", atol), ("rtol", rtol)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.wrapped = manifold
        self.atol, self.rtol = atol, rtol
        self.name = f"Validated {manifold.name}"
        self.ndim, self.reversible = manifold.ndim, manifold.reversible

    retr = _operation("retr")
    expmap = _operation("expmap")
    projx = _operation("projx")
    proju = _operation("proju")
    egrad2rgrad = _operation("egrad2rgrad")
    inner = _operation("inner")
    component_inner = _operation("component_inner")
    norm = _operation("norm")
    dist = _operation("dist")
    dist2 = _operation("dist2")
    logmap = _operation("logmap")
    transp = _operation("transp")
    retr_transp = _operation("retr_transp")
    expmap_transp = _operation("expmap_transp")
    transp_follow_retr = _operation("transp_follow_retr")
    transp_follow_expmap = _operation("transp_follow_expmap")

    def random(self, *size: Any, **kwargs: Any) -> geoopt.ManifoldTensor:
        """A random point of the wrapped manifold, checked. Raises as the class."""
        return self._created("random", *size, **kwargs)

    def origin(self, *size: Any, **kwargs: Any) -> geoopt.ManifoldTensor:
        """The origin of the wrapped manifold, checked. Raises as the class."""
        return self._created("origin", *size, **kwargs)

    def unpack_tensor(self, tensor: Tensor) -> Tensor | tuple[Tensor, ...]:
        """That of the wrapped manifold, unchecked."""
        unpacked: Tensor | tuple[Tensor, ...] = self.wrapped.unpack_tensor(tensor)
        return unpacked

    def pack_point(self, *tensors: Tensor) -> Tensor:
        """That of the wrapped manifold, unchecked."""
        packed: Tensor = self.wrapped.pack_point(*tensors)
        return packed

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "wrapped" or name.startswith("__"):  # half-made copies ask for these
                raise
        attribute = getattr(self.wrapped, name)
        if name in RESULTS:
            return lambda *args, **kwargs: self._checked_call(name, *args, **kwargs)
        return attribute

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Validated) and (self.wrapped, self.atol, self.rtol) == (
            other.wrapped,
            other.atol,
            other.rtol,
        )

    def __hash__(self) -> int:
        return hash((Validated, self.wrapped, self.atol, self.rtol))

    def __repr__(self) -> str:
        return f"Validated({self.wrapped})"

    def _checked_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        operation = getattr(self.wrapped, name)
        arguments = inspect.signature(operation).bind(*args, **kwargs).arguments
        given = {key: value for key, value in arguments.items() if key in ARGUMENTS and value is not None}
        self._check_arguments(name, given)
        results = operation(*args, **kwargs)
        with torch.no_grad():
            self._check_results(name, given, results if isinstance(results, tuple) else (results,))
        return results

    @torch.no_grad()
    def _check_arguments(self, name: str, given: dict[str, Any]) -> None:
        for key, value in given.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{self._where(name)}: {key} must be a tensor, got {type(value).__name__}")
            good, reason = self.wrapped._check_shape(tuple(value.shape), key)
            if not good:
                raise ValueError(f"{self._where(name)}: {reason}")
            self._check_finite(name, key, value)
        self._check_alike(name, given)
        for key, value in given.items():
            kind = EXCEPTIONS.get((name, key), ARGUMENTS[key])
            if kind == POINT:
                self._check_point(name, key, value)
            elif kind == TANGENT:
                self._check_tangent(name, key, given["x"], value, value)

    def _check_results(self, name: str, given: dict[str, Tensor], results: tuple[Tensor, ...]) -> None:
        if name == "step_":
            self._check_point(name, "x, afterwards,", given["x"])
        for kind, value in zip(RESULTS[name], results, strict=True):
            self._check_finite(name, "the result", value)
            if kind == "number":
                continue
            self._check_alike(name, {**given, "the result": value})
            if kind == "end":
                self._check_point(name, "the result", value)
                continue
            if kind == "at end":
                at = results[0]
            elif kind in ("at x", "at y"):
                at = given[kind[3:]]
            else:  # "at retr", "at expmap"
                at = getattr(self.wrapped, kind[3:])(given["x"], given["u"])
            # What was projected carries the rounding of what it was projected from.
            sources = [given[key] for key in ("u", "v", "egrad", "ehess") if key in given]
            self._check_tangent(name, "the result", at, value, *sources)

    def _check_alike(self, name: str, given: dict[str, Tensor]) -> None:
        """Equal dtypes, devices and shapes, leading dimensions up to broadcasting."""
        (first, reference), *others = given.items()
        for key, value in others:
            if value.dtype != reference.dtype or value.device != reference.device:
                raise ValueError(
                    f"{self._where(name)}: {key} must be of the dtype and device of {first}, {reference.dtype} on "
                    f"{reference.device}, got {value.dtype} on {value.device}"
                )
            leading = [tuple(t.shape[: t.ndim - self.ndim]) for t in (reference, value)]
            fits = value.shape[value.ndim - self.ndim :] == reference.shape[reference.ndim - self.ndim :]
            if fits and name not in BATCHES_APART:
                pairs = zip(leading[0][::-1], leading[1][::-1], strict=False)
                fits = all(1 in pair or pair[0] == pair[1] for pair in pairs)
            if not fits:
                raise ValueError(
                    f"{self._where(name)}: {key} must have the shape of {first}, {tuple(reference.shape)}, got {tuple(value.shape)}"
                )

    def _check_finite(self, name: str, key: str, value: Tensor) -> None:
        bad = int((~torch.isfinite(value.detach())).sum())
        if bad:
            raise ValueError(f"{self._where(name)}: {key} must be finite, but {bad} of {value.numel()} entries are not")

    def _check_point(self, name: str, key: str, x: Tensor) -> None:
        x = x.detach()
        atol, rtol = self._tolerances(x.dtype)
        if not self.wrapped.check_point_on_manifold(x, atol=atol, rtol=rtol):
            error = smallest_tolerance(lambda t: bool(self.wrapped.check_point_on_manifold(x, atol=t, rtol=0.0)))
            raise ValueError(f"{self._where(name)}: {key} is off the manifold by {error:.2g}; tolerance {atol:.2g}")

    def _check_tangent(self, name: str, key: str, x: Tensor, u: Tensor, *sources: Tensor) -> None:
        x, u = x.detach(), u.detach()
        atol, rtol = self._tolerances(x.dtype)
        size = max((float(s.detach().abs().max()) for s in (u, *sources) if s.numel()), default=0.0)
        scale = max(1.0, size)
        tolerance = atol + rtol * scale

        def tangent(within: float) -> bool:
            # At size 1, because some manifolds take their tolerance as absolute and others scale it.
            return bool(
                self.wrapped.check_vector_on_tangent(x, u / scale, ok_point=True, atol=within / scale, rtol=0.0)
            )

        if not tangent(tolerance):
            error = smallest_tolerance(tangent)
            raise ValueError(
                f"{self._where(name)}: {key} is not tangent: its normal part is {error:.2g}; tolerance {tolerance:.2g}"
            )

    def _tolerances(self, dtype: torch.dtype) -> tuple[float, float]:
        default = min(1000 * torch.finfo(dtype).eps, 0.1)
        return default if self.atol is None else self.atol, default if self.rtol is None else self.rtol

    def _created(self, name: str, *size: Any, **kwargs: Any) -> geoopt.ManifoldTensor:
        point = getattr(self.wrapped, name)(*size, **kwargs)
        self._check_finite(name, "the result", point)
        self._check_point(name, "the result", point)
        return geoopt.ManifoldTensor(point, manifold=self)

    def _where(self, name: str) -> str:
        return f"{name} of {self.wrapped}"

    def _check_shape(self, shape: tuple[int, ...], name: str) -> tuple[bool, str | None]:
        answer: tuple[bool, str | None] = self.wrapped._check_shape(shape, name)
        return answer

    def _check_point_on_manifold(self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5) -> tuple[bool, str | None]:
        answer: tuple[bool, str | None] = self.wrapped._check_point_on_manifold(x, atol=atol, rtol=rtol)
        return answer

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        answer: tuple[bool, str | None] = self.wrapped._check_vector_on_tangent(x, u, atol=atol, rtol=rtol)
        return answer
