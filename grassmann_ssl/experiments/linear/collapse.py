"""What prevents collapse: every objective under every constraint, over the augmentation strength."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.data import Moments
from grassmann_ssl.experiments.linear.collapse_theory import LIMITS, Inputs, Limits, predictor_variances
from grassmann_ssl.experiments.linear.verdicts import RULE, kinds_of, live_dimensions
from grassmann_ssl.metrics import effective_rank
from grassmann_ssl.metrics.intervals import wilson_interval
from grassmann_ssl.objectives import objective, options_of, penalties
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, choice, joined, ticking
from grassmann_ssl.training import ARMS, simulate, train_full_batch

KINDS = ("none", "dimensional", "complete", "diverged")
# Cells whose predicted kind changes with this relative change of the noise are on a boundary, where convergence is arbitrarily slow.
MARGIN = 0.05
LOGS = 20  # of a training
CONVERGED = 1e-2  # weights that move slower than this share of their greatest speed
STILL = 1e-9  # or that moved, since the step logged before the last, by less than this share of their size
# Orthonormal weights cannot collapse by construction: there the effective rank is what a prediction can get wrong.
RANK_TOLERANCE = 0.01


Term = Callable[[Tensor], Tensor]
"""a term of the loss, as a function of weights (..., m, d)"""


@dataclass(frozen=True)
class Constraint:
    """What trains under a constraint or a regulariser, and where theory says that it ends.

    predicted   (config, inputs, limits of the objective) -> variances (B, d); None where theory has no prediction
    term        (config, moments) -> a term of the loss, times the setting of its name
    attraction  (strength, d) -> the most that it adds to the b_j of a mode
    start       (config, Gaussian weights) -> initial weights (B, S, m, d)
    arm         the arm that trains: one whose weights stay orthonormal cannot collapse, and its effective rank is what is judged
    predictor   whether a predictor is trained along, whose solution a random start may miss
    homogeneous whether it leaves the loss homogeneous, where that is a trace
    """

    predicted: Callable[["CollapseConfig", Inputs, Limits], np.ndarray | None]
    term: Callable[["CollapseConfig", Moments], Term] | None = None
    attraction: Callable[[float, int], float] = lambda strength, d: 0.0
    start: Callable[["CollapseConfig", Tensor], Tensor] = lambda config, initial: config.init_scale * initial
    arm: str = "free"
    predictor: bool = False
    homogeneous: bool = False

    def applies_to(self, name: str) -> bool:
        """Whether it applies to an objective: a predictor with stop-gradient applies to the alignment loss only."""
        return not self.predictor or LIMITS[name].predictor


def _penalised(config: "CollapseConfig", inputs: Inputs, limits: Limits, *penalty: str) -> np.ndarray:
    strengths = {name: getattr(config, name) for name in penalty}
    return limits.variances(inputs, config.dim, config.beta, **strengths)


def _penalty(
    name: str, term: Callable[["CollapseConfig", Moments], Term], share: float = 1.0, homogeneous: bool = False
) -> Constraint:
    """A penalty of weights whose strength adds `share` of it to the b_j."""
    return Constraint(
        lambda config, inputs, limits: _penalised(config, inputs, limits, name),
        term,
        lambda strength, d: share * strength,
        homogeneous=homogeneous,
    )


def _orthonormal(arm: str) -> Constraint:
    return Constraint(
        lambda config, inputs, limits: limits.orthonormal(inputs, config.dim),
        start=lambda config, initial: ARMS[arm]().projx(initial),
        arm=arm,
    )


CONSTRAINTS = {
    "free": Constraint(_penalised, homogeneous=True),
    "weight_decay": _penalty(
        "weight_decay", lambda config, moments: lambda w: penalties.weight_decay(weights=w), 1 / 4, homogeneous=True
    ),
    "orthogonality": _penalty("orthogonality", lambda config, moments: lambda w: penalties.orthogonality(weights=w)),
    "variance": _penalty(
        "variance", lambda config, moments: lambda w: penalties.variance(second=w.mT @ moments.second @ w)
    ),
    "sliced_normality": Constraint(
        lambda config, inputs, limits: limits.normal(inputs, config.dim, config.sliced_normality),
        lambda config, moments: sliced_normality_of(config, moments),
        lambda strength, d: float(theory.sigreg.attraction(1.0, d, strength)),
    ),
    "predictor": Constraint(
        lambda config, inputs, limits: predictor_variances(inputs, config.dim, config.predictor_decay),
        start=lambda config, initial: torch.linalg.qr(initial)[0],  # its solution has a basin
        predictor=True,
    ),
    "stiefel": _orthonormal("stiefel"),
    "grassmann": _orthonormal("grassmann"),
}


@dataclass(frozen=True, kw_only=True)
class CollapseConfig(RunConfig):
    """Collapse probability of every objective under every constraint, over the augmentation strength."""

    NAME: ClassVar[str] = "collapse"
    EXAMPLE: ClassVar[str] = "collapse --objectives squared_vicreg barlow_twins --constraints free stiefel"
    objectives: tuple[Annotated[str, choice(tuple(LIMITS))], ...] = (
        "barlow_twins",
        "spectral_contrastive",
        "squared_vicreg",
        "infonce",
        "linear_contrastive",
        "squared_noncontrastive",
    )
    """objectives to train"""
    constraints: tuple[str, ...] = tuple(CONSTRAINTS)
    """constraints and regularisers: free (none), weight_decay, orthogonality (soft), variance (squared VICReg),
    sliced_normality (SIGReg), predictor (with stop-gradient), stiefel, grassmann"""
    noise: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
    """augmentation strengths: standard deviations of the additive noise of a view"""
    spectrum: tuple[float, ...] = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1, 0.05)
    """signal variances; their number is the input dimension m"""
    dim: int = 4
    """embedding dimension d, below m"""
    seeds: int = 20
    """random initialisations per cell"""
    steps: int = 1000
    """gradient steps per cell"""
    init_scale: float = 0.05
    """scale of the Gaussian initial weights; constrained arms start from their column space"""
    weight_decay: float = 0.42
    """eta of (eta/2) |W|^2"""
    orthogonality: float = 0.13
    """kappa of kappa |W^T W - I|^2"""
    variance: float = 0.13
    """nu of nu |W^T Sigma W - I|^2"""
    sliced_normality: float = 4.0
    """strength of the mean Epps-Pulley distance of the embedding's slices from N(0, 1)"""
    predictor_decay: float = 0.05
    """weight decay of weights and predictor, for the constraint predictor"""
    slices: int = 128
    """slicing directions of SIGReg, as orthonormal bases (rounded up to a multiple of d); too few let dimensions collapse"""
    beta: float = 1.5
    """weight of the invariance term of squared_vicreg"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("objectives", LIMITS), ("constraints", CONSTRAINTS)):
            chosen = getattr(self, name)
            unknown = [one for one in chosen if one not in known]
            if unknown or not chosen or len(set(chosen)) < len(chosen):
                raise ConfigError(
                    f"{name} must be different ones of {', '.join(known)}, got {' '.join(chosen) or 'none'}"
                    f"{''.join(nearest(one, known) for one in unknown[:1])}"
                )
        self.need(
            "noise", "beta", "predictor_decay", "weight_decay", "orthogonality", "variance", "sliced_normality", least=0
        )
        self.need("spectrum", "init_scale", above=0)
        self.need("dim", "seeds", "steps", "slices", least=1)
        if self.dim >= len(self.spectrum):
            raise ConfigError(f"dim must be below the input dimension {len(self.spectrum)}, got {self.dim}")
        if not self.pairs:
            raise ConfigError(
                "constraints: predictor applies to squared_noncontrastive only, which is not among objectives"
            )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every objective with every constraint that applies to it."""
        return [
            (one, other) for one in self.objectives for other in self.constraints if CONSTRAINTS[other].applies_to(one)
        ]

    def inputs(self, factor: float = 1.0) -> Inputs:
        """The population at the noise levels times `factor`."""
        return Inputs.of(self.spectrum, tuple(factor * noise for noise in self.noise))


@dataclass(frozen=True)
class Ends:
    """Where runs ended: variances (B, S, d), decreasing, the logarithm (B, S) of their scale, and which converged (B, S)."""

    variances: np.ndarray
    log_scale: np.ndarray
    converged: np.ndarray

    def judged(self, b: int, inputs: Inputs) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Those of one noise level, by `judge`."""
        return judge(self.variances[b], inputs.sigma[b].mean(), self.log_scale[b])


def collapse(config: CollapseConfig, progress: Progress | None = None) -> Outcome:
    """Train every cell objective x constraint x noise x seed, classify its collapse, and compare with the prediction.

    With a predictor the prediction is a stable solution, which a random start may miss: it is trained from near that solution, too.
    Ctrl-C keeps the completed pairs of objective and constraint.
    """
    run = Run(config)
    inputs = config.inputs()
    moments = inputs.moments(run.device)
    trainings = sum(1 + CONSTRAINTS[constraint].predictor for _, constraint in config.pairs)
    tick = ticking(progress, trainings * config.steps)
    initial = torch.randn(
        len(config.noise),
        config.seeds,
        len(config.spectrum),
        config.dim,
        dtype=torch.float64,
        generator=run.generator(),
    ).to(run.device)
    done = run.parts(
        config.pairs,
        lambda pair: _pair(config, moments, inputs, initial, *pair, partial(tick, " ".join(pair))),
        " under ".join,
    )
    cells = [cell for _, own, _ in done for cell in own]
    arrays = {"gamma": inputs.gamma, "sigma": inputs.sigma}
    for (name, constraint), (variances, _, _) in zip(config.pairs, done, strict=False):
        arrays[f"variances/{name}/{constraint}"] = np.nan_to_num(variances, nan=np.inf, posinf=np.inf)
    record = {"collapse_rule": str(RULE), "cells": cells}
    return run.finish(_findings(config, cells), record, joined([rows for _, _, rows in done]), arrays)


def _pair(
    config: CollapseConfig,
    moments: Moments,
    inputs: Inputs,
    initial: Tensor,
    name: str,
    constraint: str,
    on_step: Callable[[], object],
) -> tuple[np.ndarray, list[dict[str, Any]], dict[str, np.ndarray]]:
    """One objective under one constraint: final variances (B, S, d), the cells of run.json, and a row of metrics per noise and seed."""
    ends = _train(config, moments, inputs, CONSTRAINTS[constraint].start(config, initial), name, constraint, on_step)
    predictions = [predict(config, name, constraint, factor) for factor in (1.0, 1 - MARGIN, 1 + MARGIN)]
    near = None
    if CONSTRAINTS[constraint].predictor:
        near = _train(config, moments, inputs, near_solution(config, initial), name, constraint, on_step)
    cells, rows = [], []
    for b, noise in enumerate(config.noise):
        kinds, ranks, live = ends.judged(b, inputs)
        cell = _cell(name, constraint, noise, kinds, ranks, ends.converged[b], [one[b] for one in predictions])
        if near is not None:
            kinds_near, _, _ = near.judged(b, inputs)
            cell["near_solution"] = _counted(kinds_near, near.converged[b], cell["predicted_kind"])
        cells.append(cell)
        shared = {"objective": name, "constraint": constraint, "noise": noise}
        rows.append(
            {key: np.full(config.seeds, value) for key, value in shared.items()}
            | {"seed": np.arange(config.seeds), "kind": np.array(kinds), "effective_rank": ranks, "live": live}
            | {"converged": ends.converged[b]}
        )
    return ends.variances, cells, joined(rows)


def judge(
    variances: np.ndarray, input_variance: float, log_scale: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Kind, effective rank and live dimensions of embeddings with variances (S, d), times exp(log_scale) (S,).

    Runs that are not finite are "diverged". Diverged and completely collapsed runs have effective rank 0.
    """
    kinds = kinds_of(variances, float(input_variance), log_scale)
    there = ~np.isin(kinds, ("complete", "diverged"))
    safe = np.where(there[:, None], variances, 1.0)
    ranks = effective_rank(torch.tensor(safe)).numpy()
    return kinds, np.where(there, ranks, 0.0), np.where(there, live_dimensions(safe), 0)


def predicted_variances(config: CollapseConfig, inputs: Inputs, name: str, constraint: str) -> np.ndarray | None:
    """Variances (B, d), decreasing, of the embedding in the limit of infinite time, inf where the loss is unbounded; None where unknown."""
    return CONSTRAINTS[constraint].predicted(config, inputs, LIMITS[name])


def near_solution(config: CollapseConfig, initial: Tensor) -> Tensor:
    """Weights (B, S, m, d) whose columns span nearly the d modes of largest signal, in a random basis."""
    top = torch.eye(*initial.shape[-2:], dtype=initial.dtype, device=initial.device)
    weights: Tensor = top @ torch.linalg.qr(initial[..., : config.dim, :])[0] + config.init_scale * initial
    return weights


def _train(
    config: CollapseConfig,
    moments: Moments,
    inputs: Inputs,
    start: Tensor,
    name: str,
    constraint: str,
    on_step: Callable[[], object],
) -> Ends:
    """Train one objective under one constraint from weights (B, S, m, d)."""
    rate = _learning_rate(config, inputs, name, constraint)
    under = CONSTRAINTS[constraint]
    if under.predictor:
        step, path = train_predictor(config, moments, start, rate, on_step)
        log_norm = torch.zeros(start.shape[:2])
    else:
        # tr(W^T C W) and weight decay are homogeneous: free weights are rescaled on the way, and never overflow.
        homogeneous = objective(name, **options_of(name, beta=config.beta)).is_trace and under.homogeneous
        trajectory = train_full_batch(
            loss_of(config, moments, name, constraint),
            start,
            ARMS[under.arm](),
            learning_rate=rate,
            steps=config.steps,
            log_every=max(1, config.steps // LOGS),
            homogeneous=homogeneous,
            on_step=on_step,
        )
        step, path, log_norm = trajectory.step, trajectory.weights, trajectory.log_norm[-1]
    weights, second = path[-1], moments.second.cpu()
    embedded = weights.cpu().mT @ second @ weights.cpu()
    finite = torch.isfinite(embedded).all((-2, -1))
    eye = torch.eye(config.dim, dtype=embedded.dtype)
    variances = torch.linalg.eigvalsh(torch.where(finite[..., None, None], embedded, eye)).flip(-1).clamp_min(0)
    variances = torch.where(finite[..., None], variances, torch.inf)
    return Ends(variances.numpy(), 2 * log_norm.double().cpu().numpy(), settled(step, path))


def settled(step: Tensor, weights: Tensor) -> np.ndarray:
    """Which runs moved, between the last two logged steps, at less than CONVERGED of their greatest speed, or by no more than rounding.

    Shapes (K,), (K, ..., m, d) -> (...).
    """
    way = torch.linalg.matrix_norm(weights.diff(dim=0)).movedim(0, -1).cpu()
    speed, size = way / step.diff().cpu(), torch.linalg.matrix_norm(weights[-1]).cpu()
    still: np.ndarray = ((speed[..., -1] < CONVERGED * speed.amax(-1)) | (way[..., -1] < STILL * size)).numpy()
    return still


def loss_of(config: CollapseConfig, moments: Moments, name: str, constraint: str) -> Callable[[Tensor], Tensor]:
    goal = objective(name, **options_of(name, beta=config.beta))
    assert goal.from_moments is not None
    base = goal.from_moments(moments)
    if (make := CONSTRAINTS[constraint].term) is None:
        return base
    strength, term = getattr(config, constraint), make(config, moments)
    return lambda w: base(w) + strength * term(w)


def sliced_normality_of(config: CollapseConfig, moments: Moments) -> Callable[[Tensor], Tensor]:
    """The term of sliced normality, along `directions`."""
    u = directions(config).to(moments.second)
    return lambda w: penalties.sliced_normality_gaussian(second=w.mT @ moments.second @ w, directions=u)


def directions(config: CollapseConfig) -> Tensor:
    """Slicing directions (k, d): random orthonormal bases, isotropic to second order."""
    generator = torch.Generator().manual_seed(config.seed)
    bases = torch.randn(
        -(-config.slices // config.dim), config.dim, config.dim, dtype=torch.float64, generator=generator
    )
    units: Tensor = torch.linalg.qr(bases)[0].flatten(0, 1)
    return units


def train_predictor(
    config: CollapseConfig, moments: Moments, start: Tensor, rate: float, on_step: Callable[[], object]
) -> tuple[Tensor, Tensor]:
    """SimSiam: weights W and a linear predictor W_p, initially I, trained against the other view under stop-gradient.

    Logged steps (K,) and the weights (K, B, S, m, d) there.
    """
    noise_levels, seeds, m, d = start.shape
    cross, second = (v.expand(noise_levels, seeds, m, m).flatten(0, 1) for v in (moments.cross, moments.second))

    def step(weights: Tensor, predictor: Tensor, cross: Tensor, second: Tensor) -> dict[str, Tensor]:
        residual = cross @ weights - second @ weights @ predictor.mT  # E x (z' - W_p z)^T
        return {
            "weights": residual @ predictor - config.predictor_decay * weights,
            "predictor": residual.mT @ weights - config.predictor_decay * predictor,
        }

    state = {
        "weights": start.flatten(0, 1),
        "predictor": torch.eye(d, dtype=start.dtype, device=start.device).repeat(noise_levels * seeds, 1, 1),
    }
    run = simulate(
        step,
        state,
        {"cross": cross, "second": second},
        step=rate,
        steps=config.steps,
        method="discrete",
        log_every=max(1, config.steps // LOGS),
        on_step=lambda cells: on_step() if cells == len(cross) else None,
    )
    return run.step, run["weights"].reshape(-1, noise_levels, seeds, m, d)


def _learning_rate(config: CollapseConfig, inputs: Inputs, name: str, constraint: str) -> float:
    """0.1 over the largest |b_j|, objective and penalty together: below a quarter of the stability limit 2 / (8 b_j) of mode j.

    0.3 with a predictor, whose largest variance and eigenvalue are 1, since collapse proceeds only as e^{-eta t}.
    """
    under = CONSTRAINTS[constraint]
    if under.predictor:
        return 0.3
    attraction = LIMITS[name].attraction(inputs.gamma.ravel(), inputs.sigma.ravel(), config.beta)
    penalty = under.attraction(getattr(config, constraint), config.dim) if under.term else 0.0
    return 0.1 / (float(np.abs(attraction).max()) + penalty)


def _cell(
    name: str,
    constraint: str,
    noise: float,
    kinds: list[str],
    ranks: np.ndarray,
    converged: np.ndarray,
    predicted: list[tuple[str | None, float | None]],
) -> dict[str, Any]:
    """One cell of run.json: counts, the collapse probability with its Wilson interval, and the prediction.

    `as_predicted` counts converged seeds of the predicted kind, under a constraint of the predicted effective rank too; None without
    a prediction.
    """
    collapsed = sum(kind != "none" for kind in kinds)
    kind, rank = predicted[0]
    known = np.ones(len(kinds), dtype=bool)
    if CONSTRAINTS[constraint].arm != "free" and rank is not None:
        known = np.abs(ranks - rank) < RANK_TOLERANCE * rank
    return {
        "objective": name,
        "constraint": constraint,
        "noise": noise,
        "seeds": len(kinds),
        "collapse_probability": collapsed / len(kinds),
        "wilson_95": list(wilson_interval(collapsed, len(kinds))),
        "effective_rank": float(np.median(ranks)),
        "predicted_kind": kind,
        "predicted_effective_rank": rank,
        "on_boundary": len({kind for kind, _ in predicted}) > 1,
        **_counted(kinds, converged, kind, known),
    }


def _counted(
    kinds: list[str], converged: np.ndarray, predicted: str | None, known: np.ndarray | None = None
) -> dict[str, Any]:
    """Seeds of each kind, those that converged, and those of them that are as predicted, by `known` too; None for no prediction."""
    right = converged & (np.array(kinds) == predicted)
    return {
        "kinds": {kind: kinds.count(kind) for kind in KINDS},
        "converged": int(converged.sum()),
        "as_predicted": None if predicted is None else int((right if known is None else right & known).sum()),
    }


def predict(
    config: CollapseConfig, name: str, constraint: str, factor: float = 1.0
) -> list[tuple[str | None, float | None]]:
    """Predicted kind and effective rank at every noise level times `factor`; None where theory has no prediction."""
    inputs = config.inputs(factor)
    variances = predicted_variances(config, inputs, name, constraint)
    if variances is None:
        return [(None, None)] * len(config.noise)
    result: list[tuple[str | None, float | None]] = []
    for y, sigma in zip(variances, inputs.sigma, strict=True):
        if np.isinf(y).any():  # unbounded growth: the fastest mode dominates
            result.append(("dimensional", 1.0))
        else:
            (kind,), (rank,), _ = judge(y[None], sigma.mean(), np.zeros(1))
            # Noise of one size in all directions: soft orthogonality leaves it open which of them the alignment loss keeps.
            open_ = kind == "none" and constraint in LIMITS[name].leave_open
            result.append((kind, None if open_ else float(rank)))
    return result


def _findings(config: CollapseConfig, cells: list[dict[str, Any]]) -> list[Finding]:
    """One finding per constraint: cells that ended as predicted, and the exceptions. Seeds that had not converged are not judged."""
    lines = []
    for constraint in config.constraints:
        own = [cell for cell in cells if cell["constraint"] == constraint and cell["predicted_kind"] is not None]
        if not own:
            continue
        lines.append(_finding(constraint, own, CONSTRAINTS[constraint].arm != "free"))
        near = [cell | cell["near_solution"] for cell in own if "near_solution" in cell]
        if near:
            lines.append(_finding(f"{constraint}, started near the predicted solution", near))
    return lines


def _finding(what: str, own: list[dict[str, Any]], by_rank: bool = False) -> Finding:
    right, judged, seeds = (sum(cell[key] for cell in own) for key in ("as_predicted", "converged", "seeds"))
    clear = [cell for cell in own if cell["converged"] and not cell["on_boundary"]]
    wrong = [cell for cell in clear if 2 * cell["as_predicted"] <= cell["converged"]]
    predicted = sum(cell["predicted_kind"] != "none" for cell in own)
    measured = sum(2 * cell["kinds"]["none"] < cell["seeds"] for cell in own)
    agreement = f"{right} of {judged} seeds as predicted" if judged else "no seed converged"
    if judged < seeds:
        agreement += f"; {seeds - judged} unconverged" if judged else ""
    if by_rank:
        agreement += f", effective rank within {100 * RANK_TOLERANCE:g} %" if judged else ""
    if wrong:
        worst = ", ".join(f"{cell['objective']} at noise {cell['noise']:g}" for cell in wrong)
        agreement += (
            f"; half of the seeds or more otherwise in {len(wrong)} of {len(clear)} cells off the boundary: {worst}"
        )
    cells = f"of {len(own)}"
    return Finding(f"{what}: cells that collapse", f"{predicted} {cells}", f"{measured} {cells}", agreement)
