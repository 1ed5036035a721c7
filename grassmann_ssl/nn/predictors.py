"""Predictors of BYOL, SimSiam and DirectPred: trained by gradient descent, or in closed form from the correlation of the embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.precision import no_autocast
from grassmann_ssl.registry import Registry

FLOOR = 1e-4  # of the released code: the least eigenvalue of its predictor


@dataclass(frozen=True, kw_only=True)
class PredictorOptions:
    """Options of a predictor in closed form."""

    PREFIX: ClassVar[str] = "predictor"
    alpha: float = 0.5
    """exponent of directset"""
    rho: float = 0.3
    """EMA decay of the embedding correlation F"""
    eps: float = 0.1
    """regularisation added to the predictor's eigenvalues, relative to the largest"""
    every: int = 1
    """steps between two closed-form updates; above 1 the predictor is trained in between"""


@dataclass(frozen=True)
class Predictor:
    """A named predictor R^d -> R^d.

    make         (dimension, **settings) -> its module
    equivariant  rotation-equivariant: a predictor of embeddings f Q predicts q(f) Q, after training by SGD or in closed form
    source       paper, and equation where it has one
    matrix       the closed form (F, alpha, eps) -> W, used by `DirectPredictor`; None for a trained predictor
    options      those of `PredictorOptions` that it has
    """

    name: str
    make: Callable[..., nn.Module]
    equivariant: bool
    source: str
    matrix: Callable[[Tensor, float, float], Tensor] | None = None
    options: tuple[str, ...] = ()

    @property
    def closed_form(self) -> bool:
        """Whether it is computed from the correlation of the embeddings instead of trained."""
        return self.matrix is not None


PREDICTORS: Registry[Predictor] = Registry("predictor")


def predictor(kind: str, dimension: int, **settings: Any) -> nn.Module:
    """A predictor R^d -> R^d by name; `settings` are those of `DirectPredictor`.

    linear: one matrix without bias. linear-symmetric: the same, kept symmetric. mlp: d -> max(d / 4, 2) -> d with batch norm and relu
    between, SimSiam's bottleneck. The others have a closed form. Raises ValueError for an unknown name, TypeError for settings that the
    predictor does not have, and as `DirectPredictor`.
    """
    return PREDICTORS[kind].make(dimension, **settings)


def matrix_of(predictor: nn.Module | None) -> Float[Tensor, " d d"] | None:
    """W_p (d, d) of a predictor that is a matrix without bias; None for any other, and for none."""
    if isinstance(predictor, SymmetricLinear):
        return predictor.symmetric.detach()
    if isinstance(predictor, DirectPredictor) or (isinstance(predictor, nn.Linear) and predictor.bias is None):
        weight: Tensor = predictor.weight.detach()
        return weight
    return None


def _mlp(dimension: int, **settings: Any) -> nn.Module:
    if settings:
        raise TypeError(f"predictor mlp has no settings, got {', '.join(settings)}")
    inner = max(dimension // 4, 2)
    return nn.Sequential(
        nn.Linear(dimension, inner, bias=False),
        nn.BatchNorm1d(inner),
        nn.ReLU(inplace=True),
        nn.Linear(inner, dimension),
    )


def _linear(dimension: int) -> nn.Module:
    return nn.Linear(dimension, dimension, bias=False)


class SymmetricLinear(nn.Module):
    """p = S f with S = (W + W^T) / 2, f (..., d): a linear predictor that is symmetric.

    W starts symmetric, and its gradient is symmetric: to the last bit where it is called once a step, to rounding where it is called for
    several views. So W = S under any optimizer that works entry by entry: with plain SGD this is W <- (W + W^T) / 2 after every step, as
    in Tian et al. 2021, arXiv 2102.06810, Fig. 2.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        drawn = nn.Linear(dimension, dimension, bias=False).weight.detach()
        self.weight = nn.Parameter((drawn + drawn.T) / 2)

    @property
    def symmetric(self) -> Float[Tensor, " d d"]:
        """S."""
        return (self.weight + self.weight.T) / 2

    def forward(self, f: Float[Tensor, " *b d"]) -> Float[Tensor, " *b d"]:
        return nn.functional.linear(f, self.symmetric)


class DirectPredictor(nn.Module):
    """p = W f, W a function of F <- rho F + (1 - rho) E[f f^T], the EMA of the uncentred correlation of the embeddings.

    With F = U diag(s) U^T and s_max its largest eigenvalue, W = U diag(p) U^T:
        directpred       p = sqrt(s) + eps s_max                                        (Tian et al. 2021, eq. (18))
        directpred-code  p = max(sqrt(s / s_max) + eps, 1e-4)                           (their released code)
        directset        p = s^alpha + eps s_max^alpha                                  (Wang et al. 2021)
        directcopy       W = F / ||F||_2 + eps I, without eigenvectors of F             (Wang et al. 2021)
    Negative eigenvalues (rounding) count as 0. Forward passes in training collect the embeddings f of a step: of both views, of all parts
    and processes. Call `update` after the optimizer's step: it moves F by them. The first step initialises F; W is set at every `every`-th
    call, starting with the first. With every > 1 it is a parameter that the
    optimizer trains in between. F and W are float32 or wider, and part of the state_dict. W is
    rotation-equivariant: for f Q it is Q^T W Q. On CUDA a call that sets W waits for the device inside torch, which asks the eigensolver
    whether it converged; calls in between do not wait. W starts as the identity. Raises ValueError for settings outside their range.
    Sources: Tian et al. 2021, arXiv 2102.06810, eqs. (18)-(19), defaults of its tables; Wang et al. 2021, arXiv 2110.04947.
    """

    correlation: Tensor
    calls: Tensor

    def __init__(
        self,
        dimension: int,
        *,
        kind: str = "directpred",
        alpha: float = PredictorOptions.alpha,
        rho: float = PredictorOptions.rho,
        eps: float = PredictorOptions.eps,
        every: int = PredictorOptions.every,
    ) -> None:
        super().__init__()
        known = [name for name, one in PREDICTORS.items() if one.closed_form]
        if kind not in known:
            raise ValueError(f"kind must be one of {', '.join(known)}, got {kind!r}")
        if not 0 <= rho < 1:
            raise ValueError(f"rho must be at least 0 and below 1, got {rho}")
        if not (alpha > 0 and eps >= 0 and every >= 1 and dimension >= 1):
            raise ValueError(
                f"alpha must be positive, eps not negative, every and dimension at least 1; got {alpha}, {eps}, {every} and {dimension}"
            )
        self.kind, self.alpha, self.rho, self.eps, self.every = kind, alpha, rho, eps, every
        self.weight = nn.Parameter(torch.eye(dimension), requires_grad=every > 1)
        self.register_buffer("correlation", torch.zeros(dimension, dimension))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._calls = 0  # the same on the host; -1: not read yet
        self._step: tuple[int, Tensor] | None = (
            None  # count of the rows since the last `update`, and the sum of their f f^T
        )

    def forward(self, f: Float[Tensor, " n d"]) -> Float[Tensor, " n d"]:
        if self.training:
            self.observe(f.detach())
        return f @ self.weight.T.to(f.dtype)

    @torch.no_grad()
    def observe(self, f: Float[Tensor, " n d"]) -> None:
        """Add embeddings to those of the step. Raises ValueError unless f is (n, d), n >= 1."""
        if f.ndim != 2 or f.shape[1] != len(self.weight) or len(f) < 1:
            raise ValueError(f"f must have shape (n, {len(self.weight)}) with n >= 1, got {tuple(f.shape)}")
        with no_autocast(f.device.type):
            rows = f.to(self.correlation.dtype)
            count, moment = self._step or (0, 0.0)
            self._step = count + len(rows), moment + rows.T @ rows

    @torch.no_grad()
    def update(self) -> None:
        """Move F by the embeddings of the step, and set W at every `every`-th call. Does nothing where there were none."""
        if self._step is None:
            return
        count, moment = self._step
        self._step = None
        if self._calls < 0:
            self._calls = int(self.calls)  # once, after a checkpoint was loaded
        with no_autocast(moment.device.type):
            batch = total(moment.to(self.correlation)) / (process_count() * count)
            self.correlation.lerp_(batch, 1.0 if self._calls == 0 else 1 - self.rho)
            if self._calls % self.every == 0:
                self.weight.copy_(self.matrix(self.correlation))
        self._calls += 1
        self.calls += 1

    def matrix(self, correlation: Float[Tensor, " d d"]) -> Float[Tensor, " d d"]:
        """W (d, d) in closed form from a correlation matrix F (d, d)."""
        formula = PREDICTORS[self.kind].matrix
        assert formula is not None
        return formula(correlation, self.alpha, self.eps)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._calls = -1

    def extra_repr(self) -> str:
        return f"{self.kind}, rho={self.rho}, eps={self.eps}, every={self.every}"


def _directpred(correlation: Tensor, alpha: float, eps: float) -> Tensor:
    s, u = _modes(correlation)
    return _matrix(s.sqrt() + eps * s[-1], u)


def _directpred_code(correlation: Tensor, alpha: float, eps: float) -> Tensor:
    s, u = _modes(correlation)
    share = s / s[-1].clamp_min(torch.finfo(s.dtype).tiny)
    return _matrix((share.sqrt() + eps).clamp_min(FLOOR), u)


def _directset(correlation: Tensor, alpha: float, eps: float) -> Tensor:
    s, u = _modes(correlation)
    return _matrix(s**alpha + eps * s[-1] ** alpha, u)


def _directcopy(correlation: Tensor, alpha: float, eps: float) -> Tensor:
    largest: Tensor = torch.linalg.matrix_norm(correlation, 2).clamp_min(torch.finfo(correlation.dtype).tiny)
    return correlation / largest + eps * torch.eye(len(correlation)).to(correlation)


def _modes(correlation: Tensor) -> tuple[Tensor, Tensor]:
    s, u = torch.linalg.eigh(correlation)
    return s.clamp_min(0), u


def _matrix(p: Tensor, u: Tensor) -> Tensor:
    return (u * p) @ u.T


TIAN, WANG = "Tian et al. 2021, arXiv 2102.06810", "Wang et al. 2021, arXiv 2110.04947"
AVERAGED = ("rho", "eps", "every")
for _one in (
    Predictor("linear", _linear, True, TIAN),
    Predictor("linear-symmetric", SymmetricLinear, True, f"{TIAN}, Fig. 2"),
    Predictor("mlp", _mlp, False, "Chen & He 2021, arXiv 2011.10566"),
    Predictor(
        "directpred", partial(DirectPredictor, kind="directpred"), True, f"{TIAN}, eq. (18)", _directpred, AVERAGED
    ),
    Predictor(
        "directpred-code",
        partial(DirectPredictor, kind="directpred-code"),
        True,
        f"{TIAN}, code",
        _directpred_code,
        AVERAGED,
    ),
    Predictor("directset", partial(DirectPredictor, kind="directset"), True, WANG, _directset, ("alpha", *AVERAGED)),
    Predictor("directcopy", partial(DirectPredictor, kind="directcopy"), True, WANG, _directcopy, AVERAGED),
):
    PREDICTORS.add(_one.name, _one)
