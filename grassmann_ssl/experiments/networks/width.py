"""Width independence: constrained two-layer linear models of several hidden widths against the exact flow of one layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import geoopt
import numpy as np
import torch
from torch import Tensor

import theory
from grassmann_ssl.data import SOURCES, View, moments_of, triplets
from grassmann_ssl.experiments.linear import measure
from grassmann_ssl.experiments.networks import width_laws
from grassmann_ssl.experiments.networks.layers import descend
from grassmann_ssl.experiments.networks.width_laws import Arrays, Problem
from grassmann_ssl.manifolds import Grassmann, Stiefel
from grassmann_ssl.objectives import TRACE_LOSSES, trace_loss, trace_matrix
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, choice, setting, ticking
from grassmann_ssl.training import train_full_batch

LOGGED = 120
SHOWN_SAMPLES = 60
# One free layer is cheap: a smaller learning rate, and the late times at which its slope is asymptotic.
FREE_FINER, FREE_LONGER = 4, 2
METRICS: dict[str, type[geoopt.Manifold]] = {"grassmann": Grassmann, "stiefel": Stiefel}


@dataclass(frozen=True, kw_only=True)
class WidthConfig(RunConfig):
    """Train two constrained linear layers of several hidden widths and compare them with the exact flow of one layer."""

    NAME: ClassVar[str] = "width"
    EXAMPLE: ClassVar[str] = "width --hidden 8 32 128"
    data: str = "digits"
    """data set: digits, photos or gaussian"""
    objective: Annotated[str, choice(TRACE_LOSSES)] = "linear_contrastive"
    """trace loss"""
    dim: int = 4
    """embedding dimension d, below the input dimension m (64 for digits and photos)"""
    hidden: tuple[int, ...] = (4, 8, 16, 32, 64)
    """hidden widths h, increasing, from d to m; the Euclidean metric has a closed form at h = d and h = m"""
    seeds: int = 6
    """random starts, trained in one batch and shared by all widths"""
    rates: tuple[float, ...] = (0.32, 0.16, 0.08)
    """learning rates, decreasing: figures show the smallest, all give the order of convergence"""
    horizon: float = 40.0
    """end time of every run, t = learning rate x step"""
    spectrum: tuple[float, ...] = (1.0, 0.7, 0.5, 0.36, 0.25, 0.18, 0.13, 0.09, 0.05, 0.03, 0.02, 0.01)
    """gaussian data: eigenvalues of the population cross-moment, before scaling; their number is the input dimension m"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in SOURCES:
            raise ConfigError(f"data: unknown data set {self.data!r}; known are {', '.join(SOURCES)}")
        if self.objective not in TRACE_LOSSES:
            hint = nearest(self.objective, TRACE_LOSSES)
            raise ConfigError(
                f"objective: unknown trace loss {self.objective!r}; known are {', '.join(TRACE_LOSSES)}{hint}"
            )
        self.need("dim", "seeds", least=1)
        self.need("hidden", least=self.dim)
        self.need("horizon", "rates", above=0)
        self.need("spectrum", least=0)
        for name, order in (("hidden", self.hidden), ("rates", self.rates[::-1])):
            if any(a >= b for a, b in pairwise(order)):
                way = "increase" if name == "hidden" else "decrease"
                raise ConfigError(f"{name} must {way}, got {getattr(self, name)}")
        if self.rates[0] > self.horizon:
            raise ConfigError(
                f"rates must be at most horizon = {self.horizon:g}, so that a step fits, got {self.rates[0]:g}"
            )


def factors(starts: Tensor, hidden: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """W1 (S, m, h) and W2 (S, h, d) with orthonormal columns and W1 W2 = M(0) as given; the rest of span(W1) and its basis are random."""
    seeds, m, d = starts.shape
    extra = torch.randn(seeds, m, hidden - d, dtype=starts.dtype, generator=generator)
    turn = torch.randn(seeds, hidden, hidden, dtype=starts.dtype, generator=generator)
    first = torch.linalg.qr(torch.cat([starts, extra], -1))[0] @ torch.linalg.qr(turn)[0]
    return first, first.mT @ starts


def width(config: WidthConfig, progress: Progress | None = None) -> Outcome:
    """Train every width in both metrics, and one free layer, and compare with theory.

    Views of digits and photos: shifts of up to one pixel, rotations of up to 5 degrees and noise of 0.1; of gaussian data: noise of 0.1.
    Raises ConfigError, before training, for settings that cannot be run. Ctrl-C keeps the completed widths; before the first is, it
    propagates.
    """
    run = Run(config)
    generator = run.generator()
    problem = _problem(config, generator)
    steps = {rate: max(1, round(config.horizon / rate)) for rate in config.rates}
    finest = config.rates[-1]
    arms = [("grassmann", rate) for rate in config.rates] + [("stiefel", finest)]
    free_steps = FREE_FINER * FREE_LONGER * steps[finest]
    total = len(config.hidden) * sum(steps[rate] for _, rate in arms) + free_steps
    tick = ticking(progress, total)
    layers = {h: factors(problem.starts, h, generator) for h in config.hidden}

    times = {rate: _logged(steps[rate]) * rate for rate in config.rates}
    free = train_full_batch(
        partial(_loss, problem.matrix.to(run.device)),
        problem.starts.to(run.device),
        geoopt.Euclidean(),
        learning_rate=finest / FREE_FINER,
        steps=free_steps,
        log_every=max(1, free_steps // LOGGED),
        homogeneous=True,
        on_step=partial(tick, "free"),
    )

    def trained(h: int) -> dict[tuple[str, float], Tensor]:
        return {
            (metric, rate): _train(
                run, problem, layers[h], METRICS[metric], rate, steps[rate], partial(tick, f"{metric}, h = {h}")
            )
            for metric, rate in arms
        }

    products = run.parts(config.hidden, trained, lambda h: f"h = {h}")
    completed = replace(config, hidden=config.hidden[: len(products)])
    runs = {metric: torch.stack([one[metric, finest] for one in products]) for metric in METRICS}
    by_rate = {
        (h, rate): one["grassmann", rate]
        for rate in config.rates
        for h, one in zip(completed.hidden, products, strict=True)
    }
    grassmann, arrays, metrics = _grassmann(completed, problem, times, by_rate, runs["grassmann"])
    stiefel, contrast = _stiefel(completed, problem, layers, times[finest], runs)
    collapse, collapse_arrays = width_laws.collapse(problem, free, runs["grassmann"][0, -1, 0])
    matrix = problem.matrix.numpy()
    record = {
        "data": {
            "m": len(matrix),
            "eigenvalues": problem.eigenvalues.tolist(),
            "gap": theory.constrained.gap(matrix, config.dim),
        },
        "max_learning_rate": theory.constrained.max_learning_rate(matrix),
        "grassmann": grassmann,
        "stiefel": stiefel,
        "free": collapse,
    }
    everything = arrays | contrast | collapse_arrays | {"time": times[finest]}
    return run.finish(_findings(completed, record), record, metrics, everything)


def _problem(config: WidthConfig, generator: torch.Generator) -> Problem:
    with setting():
        data = triplets(config.data, View(), generator, config.spectrum)
    m = data.x.shape[-1]
    if config.dim >= m:
        raise ConfigError(f"dim must be below the input dimension m = {m} of {config.data}, got {config.dim}")
    if config.hidden[-1] > m:
        raise ConfigError(
            f"hidden must be at most the input dimension m = {m} of {config.data}, where W1 (m, h) has orthonormal columns, "
            f"got {config.hidden[-1]}"
        )
    moments = moments_of(data)
    matrix = trace_matrix(config.objective, moments)
    starts = torch.linalg.qr(torch.randn(config.seeds, m, config.dim, dtype=torch.float64, generator=generator))[0]
    samples = data.x[torch.randperm(len(data.x), generator=generator)[:SHOWN_SAMPLES]]
    return Problem(matrix, *theory.constrained.spectrum(matrix.numpy()), starts, moments, samples)


def _logged(steps: int) -> np.ndarray:
    """Logged steps: evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, steps, min(LOGGED, steps) + 1).round().astype(int))


def _loss(matrix: Tensor, *layers: Tensor) -> Tensor:
    weights = layers[0] if len(layers) == 1 else layers[0] @ layers[1]
    return trace_loss(weights=weights, matrix=matrix)


def _train(
    run: Run,
    problem: Problem,
    layers: tuple[Tensor, Tensor],
    manifold: type[geoopt.Manifold],
    rate: float,
    steps: int,
    on_step: Callable[[], object],
) -> Tensor:
    """Products M = W1 W2 (K, S, m, d) at the logged steps, on the host. The polar retraction leaves the basis unrotated."""
    due, kept = set(_logged(steps).tolist()), []

    def observe(step: int, weights: tuple[Tensor, ...]) -> None:
        if step in due:
            kept.append(weights[0] @ weights[1])

    descend(
        partial(_loss, problem.matrix.to(run.device)),
        [w.to(run.device) for w in layers],
        (manifold("polar"), manifold("polar")),
        learning_rate=rate,
        steps=steps,
        observe=observe,
        on_step=on_step,
    )
    return torch.stack(kept).cpu()


def _grassmann(
    config: WidthConfig,
    problem: Problem,
    times: dict[float, np.ndarray],
    products: dict[tuple[int, float], Tensor],
    runs: Tensor,
) -> tuple[dict[str, Any], Arrays, Arrays]:
    """Every width against the exact flow of one layer, against the others, and by mode."""
    finest = config.rates[-1]
    errors = width_laws.errors_by_rate(problem, times, products)
    worst = np.array([[errors[h, rate].max() for rate in config.rates] for h in config.hidden])
    mode_record, arrays = width_laws.modes(problem, times[finest], runs)
    record = {
        "max_projector_error": worst.tolist(),
        "order": [width_laws.order(config.rates, row) for row in worst],
        "max_difference_between_widths": width_laws.largest_difference(runs),
        **mode_record,
    }
    metrics = {
        "hidden": np.concatenate([np.full(len(error), h) for (h, _), error in errors.items()]),
        "rate": np.concatenate([np.full(len(error), rate) for (_, rate), error in errors.items()]),
        "time": np.concatenate([times[rate] for _, rate in errors]),
        **{
            f"projector_error_{name}": np.concatenate([measured(error, axis=1) for error in errors.values()])
            for name, measured in (("median", np.median), ("min", np.min), ("max", np.max))
        },
    }
    arrays["projector_errors"] = np.stack([errors[h, finest] for h in config.hidden])
    return record, arrays | {"worst_errors": worst}, metrics


def _stiefel(
    config: WidthConfig,
    problem: Problem,
    layers: dict[int, tuple[Tensor, Tensor]],
    time: np.ndarray,
    runs: dict[str, Tensor],
) -> tuple[dict[str, Any], Arrays]:
    """The counterexample: with the Euclidean metric of the Stiefel manifold the product depends on the hidden width."""
    laws = [_stiefel_law(time, layers[h], problem.matrix) for h in config.hidden]
    arrays = {f"excess_{metric}": problem.excess(runs[metric].numpy()) for metric in METRICS}
    arrays["excess_law"] = problem.excess(np.stack(laws))
    arrays["excess_one_layer"] = problem.excess(problem.one_layer(time))
    speeds = {name: width_laws.speeds(problem, time, arrays[f"excess_{name}"]) for name in (*METRICS, "law")}
    pairs = zip(runs["stiefel"], laws, strict=True)
    record = {
        "max_projector_error": [float(measure.projector_errors(trained, law).max()) for trained, law in pairs],
        "max_difference_between_widths": width_laws.largest_difference(runs["stiefel"]),
        "median_speed": {name: np.median(speed, axis=1).tolist() for name, speed in speeds.items()},
    }
    return record, arrays | {f"speed_{name}": speed for name, speed in speeds.items()}


def _stiefel_law(time: np.ndarray, layers: tuple[Tensor, Tensor], matrix: Tensor) -> np.ndarray:
    first, second = (w.numpy() for w in layers)
    return np.moveaxis(theory.two_layer.stiefel_product_flow(time, first, second, matrix.numpy()), -3, 0)


def _findings(config: WidthConfig, record: dict[str, Any]) -> list[Finding]:
    """Findings in the Grassmannian metric, in the Euclidean metric by width, and of the free layer."""
    grassmann, stiefel, free = record["grassmann"], record["stiefel"], record["free"]
    finest, limit, gap = config.rates[-1], record["max_learning_rate"], record["data"]["gap"]
    worst = max(row[-1] for row in grassmann["max_projector_error"])
    orders = [o for o in grassmann["order"] if o is not None]
    lines = [
        Finding(
            f"learning rates {finest:g} to {config.rates[0]:g}",
            f"stable below {limit:.3g}",
            None,
            "below the limit"
            if config.rates[0] < limit
            else "beyond it the largest rates oscillate: no law holds there",
        ),
        Finding(
            "projector P(t) against the exact one-layer flow, every h",
            "error of first order in the learning rate",
            f"at most {worst:.2g} at learning rate {finest:g}"
            + (f", order {min(orders):.2f} to {max(orders):.2f}" if orders else ""),
        ),
    ]
    if grassmann["max_difference_between_widths"] is not None:
        lines += [
            Finding(
                f"two widths apart, {metric} metric",
                theoretical,
                f"{values['max_difference_between_widths']:.2g}",
                f"{values['max_difference_between_widths'] / worst:.2g} of the largest error of the flow",
            )
            for metric, theoretical, values in (
                ("Grassmannian", "0", grassmann),
                ("Euclidean", "depends on h", stiefel),
            )
        ]
    lines += [
        Finding(
            "principal angles to the bottom-d eigenspace",
            f"median of the largest ends at {grassmann['exact_final_largest_angle']:.2g} rad",
            f"{grassmann['final_largest_angle']:.2g} rad",
            f"within {grassmann['max_angle_error']:.2g} rad at all times; 2 gap t = {2 * gap * config.horizon:.2g}"
            + ("" if 2 * gap * config.horizon > 1 else ": too short for the last angle to fall"),
        ),
        Finding(
            "rates of the tangent coordinates T_ij",
            "2 (λ_{d+i} − λ_j)",
            f"{grassmann['rate_ratio']:.4f} times as large",
            f"median error {100 * grassmann['median_rate_error']:.2g} %",
        ),
    ]
    for i, h in enumerate(config.hidden):
        speed = {name: values[i] for name, values in stiefel["median_speed"].items()}
        law = {config.dim: "the one-layer flow", record["data"]["m"]: "the one-layer flow 1.5 times faster"}
        measured = f"{speed['stiefel']:.3f}" if speed["stiefel"] else "not reached in this run"
        lines.append(
            Finding(
                f"speed in the Euclidean metric, h = {h}, against one layer",
                f"{speed['law']:.3f}" if speed["law"] else None,
                f"{measured}; Grassmannian metric {speed['grassmann']:.3f}",
                f"P(t) within {stiefel['max_projector_error'][i]:.2g} of {law.get(h, 'the flow of this h')}",
            )
        )
    return lines + _collapse_findings(config, free)


def _collapse_findings(config: WidthConfig, free: dict[str, Any]) -> list[Finding]:
    lines = [
        Finding(
            "effective rank of a free layer's outputs",
            f"{free['exact_final_effective_rank']:.3f}",
            f"{free['final_effective_rank']:.3f}; |cos| between two outputs {free['mean_cosine'][2]:.3f} (constrained "
            f"{free['mean_cosine'][3]:.2f}), sign as that of v₁ᵀx v₁ᵀx′ in {100 * free['sign_agreement']:.0f} % of pairs",
        )
    ]
    slope = free["slope"]
    if slope["predicted"] is not None:
        reached = slope["measured"] is not None
        lines.append(
            Finding(
                "slope of log σ₂/σ₁ of a free layer",
                f"{slope['predicted']:.4g}"
                + (f" ({slope['at_learning_rate']:.4g} at this learning rate)" if reached else ""),
                f"{slope['measured']:.4g}" if reached else None,
                f"within {100 * slope['relative_error']:.2g} %" if reached else slope["reason"],
            )
        )
    return lines
