"""Free, constrained and predicted, side by side: the project's main question, asked of a linear model on real data."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data import SOURCES, Moments, View, moments_of, triplets
from grassmann_ssl.experiments.linear import agreement, measure
from grassmann_ssl.experiments.linear.initialisation import horizon_steps, initialisation_law
from grassmann_ssl.experiments.linear.predictions import PREDICTED, LearningRate, Prediction, predict
from grassmann_ssl.metrics import COLLAPSE_RULE
from grassmann_ssl.objectives import Objective, objective, options_of
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import ConfigError, choice, device_of
from grassmann_ssl.runs.folder import provenance
from grassmann_ssl.training import ARMS, Trajectory, train

LOGGED = 300
LAW = "initialisation_law"


@dataclass(frozen=True)
class CompareConfig:
    """Train free and constrained weights on the same data from the same draw, and hold both against theory."""

    data: str = "digits"
    """data set: digits, photos, gaussian or extent_bias"""
    objectives: tuple[Annotated[str, choice(PREDICTED)], ...] = PREDICTED
    """objectives to train"""
    arms: tuple[str, ...] = ("free", "grassmann")
    """how the weights may move: free (gradient descent from small initialisation), grassmann (Riemannian gradient descent on the
    Grassmannian), stiefel (the same on the Stiefel manifold, for objectives that are not rotation-invariant)"""
    dim: int = 8
    """embedding dimension d, from 1 to the input dimension m (64 for digits and photos)"""
    seeds: int = 20
    """how many initialisations are trained, all in one batch"""
    steps: int = 6000
    """gradient steps of every arm; the time of theory is t = learning rate x step"""
    lr: float | Literal["auto"] = "auto"
    """learning rate of every arm, or auto: a fraction of each arm's stability limit"""
    init_scale: float = 1e-5
    """alpha: free weights start as alpha times a standard Gaussian matrix; constrained ones at its column space"""
    init_scales: tuple[float, ...] = (1e-3, 1e-5, 1e-8, 1e-12)
    """the alphas at which free Barlow Twins is trained once more, to measure how its final angle depends on alpha; empty: none"""
    barlow_lambda: float = 1.0
    """weight of the off-diagonal terms of Barlow Twins; other than 1, the loss is not rotation-invariant"""
    max_shift: float = 1.0
    """views of images: shift by up to so many pixels"""
    max_rotation: float = 5.0
    """views of images: rotation by up to so many degrees"""
    noise: float = 0.1
    """standard deviation of the noise of a view; pixels lie in [0, 1]"""
    spectrum: tuple[float, ...] = (1.0, 0.7, 0.5, 0.36, 0.25, 0.18, 0.13, 0.09, 0.05, 0.03, 0.02, 0.01)
    """eigenvalues of the population cross-moment of the gaussian data, before scaling; their number is its m"""
    seed: int = 1
    """seed of the data's views and of the initialisations"""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float64", "float32"] = "float64"
    """precision of the training"""
    out: Path | None = None
    """run folder to write; runs/compare-DATA where not given"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    allow_unstable: bool = False
    """run although the learning rate is above a stability limit"""

    def __post_init__(self) -> None:
        if self.data not in SOURCES:
            raise ConfigError(f"data: unknown data set {self.data!r}; known are {', '.join(SOURCES)}")
        _check_names("objectives", self.objectives, PREDICTED)
        _check_names("arms", self.arms, tuple(ARMS))
        for name in ("seeds", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim < 1:
            raise ConfigError(f"dim must be at least 1, got {self.dim}")
        positive = {"init_scale": self.init_scale, "barlow_lambda": self.barlow_lambda}
        positive |= {f"init_scales[{i}]": scale for i, scale in enumerate(self.init_scales)}
        if self.lr != "auto":
            positive["lr"] = float(self.lr)
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be finite and positive, got {value}")
        try:
            self.view()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be an integer from 0 to 2^63 - 1, got {self.seed}")
        for name in self.objectives:
            if "grassmann" in self.arms and not self.objective(name).rotation_invariant:
                raise ConfigError(
                    f"{name} with barlow_lambda = {self.barlow_lambda:g} is not rotation-invariant, so it is no function on the "
                    "Grassmannian; use --arms free stiefel, or --barlow-lambda 1"
                )

    def objective(self, name: str) -> Objective:
        """The objective of this name with this config's settings."""
        return objective(name, **options_of(name, lambda_=self.barlow_lambda))

    def view(self) -> View:
        """How a view is made of an image."""
        return View(self.max_shift, self.max_rotation, self.noise)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out) if self.out else Path("runs") / f"compare-{self.data}"


def _check_names(option: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names:
        raise ConfigError(f"{option}: give at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{option}: unknown {option.removesuffix('s')} {name!r}; known are {', '.join(known)}{nearest(name, known)}"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"{option}: {' '.join(names)} names one twice")


@dataclass(frozen=True)
class Arm:
    """One trained arm with everything the report draws: (K, S, ...) arrays over logged steps and seeds."""

    trajectory: Trajectory
    spectra: dict[str, np.ndarray]
    angles: np.ndarray | None = None
    flow_errors: np.ndarray | None = None


@dataclass
class Comparison:
    """All that a run produced. `result` is the content of run.json."""

    config: CompareConfig
    moments: Moments
    predictions: dict[str, Prediction]
    initial: Tensor
    result: dict
    arms: dict[tuple[str, str], Arm] = field(default_factory=dict)


def compare(config: CompareConfig, progress: Callable[[int], Callable[[str], object]] | None = None) -> Comparison:
    """Train every arm of every objective and compare with theory; `grassmann_ssl.run.compare` writes the run folder too.

    `progress(total_steps)` returns a function that is called with the name of the arm at every step. Returns the comparison; its
    `result` is what run.json holds. Raises ConfigError, before any training, for settings that cannot be run. An interrupt (Ctrl-C)
    keeps what was recorded, and `result["interrupted"]` says where.
    """

    begin = time.perf_counter()
    device = device_of(config.device)
    generator = torch.Generator().manual_seed(config.seed)
    try:
        data = triplets(config.data, config.view(), generator, config.spectrum)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    moments = moments_of(data)
    m = moments.mean.numel()
    if config.dim > m:
        raise ConfigError(f"dim = {config.dim} is larger than the input dimension m = {m} of {config.data}")
    predictions = {
        name: predict(config.objective(name), moments, config.dim, config.arms) for name in config.objectives
    }
    rates = {
        (name, arm): _learning_rate(config, predictions[name], arm) for name in config.objectives for arm in config.arms
    }
    initial = torch.randn(config.seeds, m, config.dim, dtype=torch.float64, generator=generator)
    initial = initial.to(device, getattr(torch, config.dtype))

    law = LAW if _has_law(config, predictions) else None
    total = len(rates) * config.steps
    if law:
        total += horizon_steps(
            config.init_scales,
            initial.double().cpu().numpy(),
            predictions["barlow_twins"],
            rates["barlow_twins", "free"].default,
        )
    tick = progress(total) if progress else lambda name: None

    result = {
        "config": _plain(asdict(config) | {"out": str(config.folder)}),
        **provenance(device),
        "data": {
            "m": m,
            "n": len(data.x),
            "gamma": predictions[config.objectives[0]].gamma.tolist(),
            "input_variance": float(moments.covariance.trace() / m),
        },
        "collapse_rule": COLLAPSE_RULE,
        "learning_rates": _nested({key: asdict(rate) for key, rate in rates.items()}),
        "arms": {name: {} for name in config.objectives},
        "agreement": {name: {"subspace": {}} for name in config.objectives},
        "interrupted": None,
    }
    comparison = Comparison(config, moments, predictions, initial, result)
    try:
        for (name, arm), rate in rates.items():
            lr = rate.default if config.lr == "auto" else float(config.lr)
            trajectory = _train_arm(comparison, name, arm, lr, partial(tick, f"{name} {arm}"))
            _judge(comparison, name, arm, trajectory)
            if trajectory.interrupted:
                result["interrupted"] = f"{name}, arm {arm}, after step {int(trajectory.step[-1])} of {config.steps}"
                break
        if law and not result["interrupted"]:
            result["agreement"]["barlow_twins"][law] = initialisation_law(
                config.init_scales,
                initial,
                moments,
                predictions["barlow_twins"],
                rates["barlow_twins", "free"].default,
                LOGGED,
                partial(tick, "initialisation scales"),
            )
    except KeyboardInterrupt:
        result["interrupted"] = "between two arms or in the scan of initialisation scales"
    result["wall_time_s"] = round(time.perf_counter() - begin, 2)
    return comparison


def _has_law(config: CompareConfig, predictions: dict[str, Prediction]) -> bool:
    if not ("barlow_twins" in config.objectives and "free" in config.arms and len(config.init_scales) > 1):
        return False
    prediction = predictions["barlow_twins"]
    m = len(prediction.gamma)
    return (
        config.barlow_lambda == 1
        and config.dim < m
        and "free" in prediction.subspaces
        and bool(prediction.gamma[config.dim] > 0)
    )


def _learning_rate(config: CompareConfig, prediction: Prediction, arm: str) -> LearningRate:
    rate = prediction.learning_rate(arm, config.barlow_lambda)
    if config.lr != "auto" and float(config.lr) > rate.limit and not config.allow_unstable:
        raise ConfigError(
            f"lr = {config.lr:g} is above the stability limit {rate.limit:.4g} ({rate.meaning}) of {prediction.objective.name}, "
            f"arm {arm}: training will oscillate; lower it, or run it all the same with --allow-unstable"
        )
    return rate


def _train_arm(comparison: Comparison, name: str, arm: str, lr: float, on_step: Callable[[], object]) -> Trajectory:
    config, initial = comparison.config, comparison.initial
    objective = comparison.predictions[name].objective
    assert objective.from_moments is not None
    manifold = ARMS[arm]()
    return train(
        objective.from_moments(comparison.moments.to(initial)),
        config.init_scale * initial if arm == "free" else manifold.projx(initial),
        manifold,
        learning_rate=lr,
        steps=config.steps,
        log_every=max(1, config.steps // LOGGED),
        homogeneous=objective.is_trace and arm == "free",
        on_step=on_step,
    )


def _judge(comparison: Comparison, name: str, arm: str, trajectory: Trajectory) -> None:
    """Measure one arm and compare it with its prediction; fills the comparison."""
    result, prediction = comparison.result, comparison.predictions[name]
    agreements = result["agreement"][name]
    time_axis = trajectory.time.numpy()
    finite = torch.isfinite(trajectory.weights).flatten(1).all(1)
    if not finite.all():
        kept = trajectory.first(int(finite.int().argmin()))
        comparison.arms[name, arm] = Arm(kept, measure.spectra(kept, comparison.moments))
        result["arms"][name][arm] = {
            "learning_rate": trajectory.learning_rate,
            "steps": int(kept.step[-1]),
            "collapsed": None,
            "effective_rank": None,
            "orthonormality_error": None,
            "reason": f"diverged: the weights of some seed are not finite after t = {kept.time[-1]:.3g}",
        }
        return
    spectra = measure.spectra(trajectory, comparison.moments)
    result["arms"][name][arm] = agreement.arm_result(
        trajectory, spectra, result["data"]["input_variance"], constrained=arm != "free"
    )
    exact_end = flow_errors = None
    if prediction.matrix is not None and arm == "grassmann":
        agreements["flow"], flow_errors, exact_end = agreement.flow(trajectory, prediction)
    angles = None
    if arm in prediction.subspaces:
        target = prediction.subspaces[arm]
        angles = measure.angles_to(trajectory.weights, target)
        expected = None if exact_end is None else measure.angles_to(torch.as_tensor(exact_end), target)
        agreements["subspace"][arm] = agreement.subspace(angles, expected)
    else:
        agreements["subspace"][arm] = {
            "max_principal_angle": None,
            "median_principal_angle": None,
            "reason": prediction.reasons[arm],
        }
    if arm == "free" and prediction.matrix is not None:
        agreements["collapse_slope"] = agreement.collapse_slope(
            time_axis, spectra["singular_values"], prediction.matrix, trajectory.learning_rate
        )
    if arm == "free" and name == "barlow_twins":
        initial = trajectory.weights[0].double().numpy()
        agreements["step_times"] = agreement.step_times(time_axis, spectra["cross_eigenvalues"], initial, prediction)
    comparison.arms[name, arm] = Arm(trajectory, spectra, angles, flow_errors)


def _nested(table: dict[tuple[str, str], dict]) -> dict:
    nested: dict = {}
    for (name, arm), value in table.items():
        finite = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in value.items()}
        nested.setdefault(name, {})[arm] = finite
    return nested


def _plain(config: dict) -> dict:
    return {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
