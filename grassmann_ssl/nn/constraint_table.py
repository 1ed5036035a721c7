"""The constraints of an encoder by name: how each is imposed, what it guarantees, and what it is compatible with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import geoopt
from torch import nn
from torch.nn.utils import parametrizations

from grassmann_ssl.manifolds import CanonicalStiefel, Grassmann, Stiefel
from grassmann_ssl.nn.feature_orthonormal import feature_orthonormal
from grassmann_ssl.nn.placement import PLACES, constrain_model, is_pattern, layers_at
from grassmann_ssl.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ConstraintOptions:
    """Options of a constraint."""

    PREFIX: ClassVar[str] = ""
    penalty: float = 1.0
    """weight of the orthogonality penalty"""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A named constraint on the weights W (out, in) of some layers; where out > in, its columns in place of its rows.

    put          imposes it: (model, where) -> the names of the constrained layers
    holds        what holds by construction, in words; `observed`: what is only observed
    orthonormal  W W^T = I after every step, to rounding
    rank_of_w    W has full rank after every step; `rank_of_z`: so has the embedding, z = W h of the last layer
    in_loss      it is a penalty in the loss, not a hard constraint
    subspace     "function on the Grassmannian" or the like: what the loss must be, so that the objective has to be rotation-invariant and
                 the predictor rotation-equivariant; "" where the weight is more than its span
    elsewhere    why it is refused at places that are not among `places`
    instead      the constraint to use where this one is refused, or ""
    optimizers   the names of the compatible ones; `options`: those of `ConstraintOptions` that it has
    """

    name: str
    put: Callable[[nn.Module, str], list[str]]
    holds: str
    observed: str = "everything"
    orthonormal: bool = False
    rank_of_w: bool = False
    rank_of_z: bool = False
    in_loss: bool = False
    subspace: str = ""
    elsewhere: str = ""
    instead: str = ""
    places: tuple[str, ...] = PLACES
    optimizers: tuple[str, ...] = ("sgd", "adam", "lars")
    options: tuple[str, ...] = ()
    source: str = ""

    @property
    def _use(self) -> str:
        return f"; use constraint = {self.instead}" if self.instead else ""

    def _elsewhere(self, where: str) -> str:
        return f"constraint {self.name} {self.elsewhere.format(where=where)}{self._use}"

    def check_layers(self, where: str, names: list[str], last: str) -> None:
        """Raise ValueError, with the reason, where it is for the last linear layer only, and is put on others; `names` of them all."""
        if self.places == ("last",) and names and names != [last]:
            raise ValueError(self._elsewhere(where))

    def check(self, *, where: str, objective: str, invariant: bool, predictor: str, equivariant: bool) -> None:
        """Raise ValueError, with the reason, for an incompatible place, objective or predictor."""
        use = self._use
        if where not in self.places and not is_pattern(where):
            raise ValueError(self._elsewhere(where))
        if self.subspace and not invariant:
            raise ValueError(
                f"constraint {self.name}: {objective} is not rotation-invariant, so it is no {self.subspace}{use}"
            )
        if self.subspace and not equivariant:
            raise ValueError(f"constraint {self.name}: an {predictor} predictor is not rotation-equivariant{use}")


def _on(manifold: Callable[[], geoopt.Manifold]) -> Callable[[nn.Module, str], list[str]]:
    return lambda model, where: constrain_model(model, manifold(), where=where)


def constraint_on(manifold: geoopt.Manifold) -> Constraint:
    """The constraint to a manifold of one's own: as `grassmann` or `stiefel` where it is one of these, else nothing more is known of it.

    Its name is what the manifold prints.
    """
    own: dict[str, Any] = {"name": repr(manifold), "put": _on(lambda: manifold), "instead": ""}
    if isinstance(manifold, Grassmann):
        return replace(CONSTRAINTS["grassmann"], **own)
    if isinstance(manifold, (Stiefel, CanonicalStiefel, geoopt.Stiefel)):
        return replace(CONSTRAINTS["stiefel"], **own)
    return Constraint(**own, holds=f"the weight is a point of {manifold!r}")


def _feature_orthonormal(model: nn.Module, where: str) -> list[str]:
    names = layers_at(model, where)
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        feature_orthonormal(layer)
    return names


def _parametrized(model: nn.Module, where: str) -> list[str]:
    names = layers_at(model, where)
    for name in names:
        parametrizations.orthogonal(model.get_submodule(name))
    return names


CONSTRAINTS: Registry[Constraint] = Registry("constraint")
for _constraint in (
    Constraint(
        name="none",
        put=lambda model, where: [],
        holds="nothing",
        optimizers=("sgd", "adam", "lars", "muon"),
    ),
    Constraint(
        name="grassmann",
        put=_on(Grassmann),
        holds="W Wᵀ = I: the weight keeps its rank; the loss must be rotation-invariant",
        observed="the spectrum of z: cov z = W cov(h) Wᵀ, and the features h may collapse",
        orthonormal=True,
        rank_of_w=True,
        subspace="function on the Grassmannian",
        places=("last",),
        elsewhere="on the {where} layers: what follows an inner layer is not rotation-invariant, so the loss is no function on the "
        "Grassmannian",
        instead="stiefel",
        source="Edelman, Arias & Smith 1998, arXiv physics/9806030",
    ),
    Constraint(
        name="feature-orthonormal",
        put=_feature_orthonormal,
        holds="W B Wᵀ = I with B the running covariance of the features: cov z = I up to the lag of B, which the verdict measures",
        observed="how large the lag is",
        rank_of_w=True,
        rank_of_z=True,
        subspace="function of a subspace",
        places=("last",),
        elsewhere="is for the last layer of the head: use where = last",
        source="this project",
    ),
    Constraint(
        name="stiefel",
        put=_on(Stiefel),
        holds="W Wᵀ = I, for losses that are not rotation-invariant, and for inner layers",
        observed="as `grassmann`",
        orthonormal=True,
        rank_of_w=True,
        source="Edelman, Arias & Smith 1998, arXiv physics/9806030",
    ),
    Constraint(
        name="penalty",
        put=layers_at,
        holds="nothing: ‖W Wᵀ − I‖² is added to the loss",
        in_loss=True,
        options=("penalty",),
        source="Brock et al. 2016, arXiv 1609.07093",
    ),
    Constraint(
        name="parametrization",
        put=_parametrized,
        holds="W Wᵀ = I, by `torch.nn.utils.parametrizations.orthogonal`",
        observed="as `stiefel`",
        orthonormal=True,
        rank_of_w=True,
        source="Lezcano-Casado 2019, arXiv 1909.09501",
    ),
    Constraint(
        name="geoopt-stiefel",
        put=_on(geoopt.EuclideanStiefel),
        holds="W Wᵀ = I, by geoopt's `EuclideanStiefel`",
        observed="as `stiefel`",
        orthonormal=True,
        rank_of_w=True,
        optimizers=("sgd", "adam"),
        source="Kochurov, Karimov & Kozlukov 2020, arXiv 2005.02819",
    ),
):
    CONSTRAINTS.add(_constraint.name, _constraint)
