"""Free against constrained training of a linear model on real data, both compared with theory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data import SOURCES, Moments, View, moments_of, triplets
from grassmann_ssl.experiments.linear import summary
from grassmann_ssl.experiments.linear.initialisation import horizon_steps, initialisation_law
from grassmann_ssl.experiments.linear.judged import Judged, input_variance, judge
from grassmann_ssl.experiments.linear.predictions.base import LearningRate, Prediction
from grassmann_ssl.experiments.linear.predictions.predict import PREDICTED, predict
from grassmann_ssl.experiments.linear.verdicts import RULE
from grassmann_ssl.objectives import Objective, objective, options_of
from grassmann_ssl.objectives.registry import MomentLoss
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import (
    ConfigError,
    Outcome,
    Progress,
    Run,
    RunConfig,
    choice,
    device_of,
    joined,
    setting,
    ticking,
)
from grassmann_ssl.training import ARMS, Trajectory, train_full_batch

LOGGED = 300
LAW, SCAN = "initialisation_law", "initialisation scales"


@dataclass(frozen=True, kw_only=True)
class CompareConfig(RunConfig):
    """Train free and constrained weights on the same data from the same draw, and compare both with theory."""

    NAME: ClassVar[str] = "compare"
    EXAMPLE: ClassVar[str] = "compare --objectives barlow_twins --arms free grassmann --seeds 5"
    data: str = "digits"
    """data set: digits, photos, gaussian or extent_bias"""
    objectives: tuple[Annotated[str, choice(PREDICTED)], ...] = tuple(PREDICTED)
    """objectives to train"""
    arms: tuple[str, ...] = ("free", "grassmann")
    """constraint on the weights: free (gradient descent from small initialisation), grassmann (Riemannian gradient descent on the
    Grassmannian), stiefel (on the Stiefel manifold, for objectives that are not rotation-invariant)"""
    dim: int = 8
    """embedding dimension d, from 1 to the input dimension m (64 for digits and photos)"""
    seeds: int = 20
    """random initialisations, trained in one batch"""
    steps: int = 6000
    """gradient steps per arm; theory's time is t = learning rate x step"""
    lr: float | Literal["auto"] = "auto"
    """learning rate of every arm, or auto: a fraction of each arm's stability limit"""
    init_scale: float = 1e-5
    """initialisation scale alpha of free weights, alpha times a standard Gaussian matrix; constrained arms start from its column space"""
    init_scales: tuple[float, ...] = (1e-3, 1e-5, 1e-8, 1e-12)
    """scan of alpha: free Barlow Twins is trained at each, to fit how its final angle scales with alpha; empty: no scan"""
    barlow_lambda: float = 1.0
    """off-diagonal weight lambda of Barlow Twins; the loss is rotation-invariant at 1 only"""
    max_shift: float = 1.0
    """largest shift of an image view, in pixels"""
    max_rotation: float = 5.0
    """largest rotation of an image view, in degrees"""
    noise: float = 0.1
    """standard deviation of the additive noise of a view; pixels lie in [0, 1]"""
    spectrum: tuple[float, ...] = (1.0, 0.7, 0.5, 0.36, 0.25, 0.18, 0.13, 0.09, 0.05, 0.03, 0.02, 0.01)
    """gaussian data: eigenvalues of the population cross-moment, before scaling; their number is the input dimension m"""
    dtype: Literal["float64", "float32"] = "float64"
    """training precision"""
    allow_unstable: bool = False
    """allow a learning rate above the stability limit"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in SOURCES:
            raise ConfigError(f"data: unknown data set {self.data!r}; known are {', '.join(SOURCES)}")
        _check_names("objectives", self.objectives, tuple(PREDICTED))
        _check_names("arms", self.arms, tuple(ARMS))
        self.need("dim", "seeds", "steps", least=1)
        self.need("init_scale", "barlow_lambda", above=0)
        if self.init_scales:
            self.need("init_scales", above=0)
        if self.lr != "auto":
            self.need("lr", above=0)
        with setting():
            self.view()
        for name in self.objectives:
            if "grassmann" in self.arms and not self.objective(name).rotation_invariant:
                raise ConfigError(
                    f"{name} with barlow_lambda = {self.barlow_lambda:g} is not rotation-invariant, so it is no function on the "
                    "Grassmannian; use arms = free stiefel, or barlow_lambda = 1"
                )

    def objective(self, name: str) -> Objective:
        """The objective of this name with this config's options."""
        return objective(name, **options_of(name, lambda_=self.barlow_lambda))

    def view(self) -> View:
        """The augmentation of an image. Raises ValueError for a setting outside its range."""
        return View(self.max_shift, self.max_rotation, self.noise)

    @property
    def folder(self) -> Path:
        """The run folder; runs/compare-DATA where none was given."""
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
class Problem:
    """What is known before training: moments of the data, predictions, the learning rate of every arm, and the shared initial draw."""

    config: CompareConfig
    samples: int
    moments: Moments
    predictions: dict[str, Prediction]
    rates: dict[tuple[str, str], LearningRate]
    initial: Tensor

    def learning_rate(self, key: tuple[str, str]) -> float:
        """That of an objective and an arm."""
        return self.rates[key].default if self.config.lr == "auto" else float(self.config.lr)

    def start(self, arm: str) -> Tensor:
        """The initial weights of an arm (S, m, d)."""
        return self.config.init_scale * self.initial if arm == "free" else ARMS[arm]().projx(self.initial)

    def loss(self, name: str, moments: Moments) -> MomentLoss:
        """The loss of an objective on these moments."""
        from_moments = self.predictions[name].objective.from_moments
        assert from_moments is not None
        return from_moments(moments.to(self.initial))


def compare(
    config: CompareConfig,
    progress: Progress | None = None,
    trained: tuple[Problem, Mapping[tuple[str, str], Trajectory]] | None = None,
) -> Outcome:
    """Train every arm of every objective and compare with theory.

    Metrics: one row per objective, arm, seed and step, about 40 of the logged ones, of the recorded weights, which are to be multiplied by
    exp(log_norm); spectra in decreasing order; principal_angle and flow_projector_error are NaN where theory has no prediction.
    Arrays: moments of the data, the initial draw, the last recorded weights of every arm (S, m, d), the predictions, and what the page
    draws at all logged steps (`judged`). Findings are those of all logged steps.
    Raises ConfigError, before training, for settings that cannot be run. Ctrl-C keeps the completed arms and what was recorded of
    the one in training; the scan of initialisation scales is left out unless it is complete. `trained`: the problem of this config and its
    arms, where they were trained together with those of other configs.
    """
    run = Run(config)
    problem, trajectories = trained or (problem_of(config), {})
    law = _has_law(config, problem.predictions)
    tick = ticking(progress, _steps(problem, law))
    record: dict[str, Any] = {
        "data": {
            "m": len(problem.moments.mean),
            "n": problem.samples,
            "gamma": problem.predictions[config.objectives[0]].gamma.tolist(),
            "input_variance": input_variance(problem.moments),
        },
        "collapse_rule": str(RULE),
        "learning_rates": _nested({key: asdict(rate) for key, rate in problem.rates.items()}),
        "arms": {name: {} for name in config.objectives},
        "agreement": {name: {"subspace": {}} for name in config.objectives},
    }

    def judged_arm(key: tuple[str, str]) -> Judged:
        name, arm = key
        trajectory = trajectories.get(key) or run.keep(_train_arm, problem, name, arm, partial(tick, f"{name} {arm}"))
        return judge(problem.predictions[name], arm, trajectory, problem.moments)

    judged = run.parts(list(problem.rates), judged_arm, ", arm ".join)
    for (name, arm), one in zip(problem.rates, judged, strict=False):
        record["arms"][name][arm] = one.end
        subspace = record["agreement"][name]["subspace"] | one.agreement.get("subspace", {})
        record["agreement"][name] |= one.agreement | {"subspace": subspace}
    scans = run.parts(
        [SCAN] if law else [],
        lambda label: initialisation_law(
            config.init_scales,
            problem.initial,
            problem.moments,
            problem.predictions["barlow_twins"],
            problem.rates["barlow_twins", "free"].default,
            LOGGED,
            partial(tick, label),
        ),
    )
    for scan in scans:
        record["agreement"]["barlow_twins"][LAW] = scan
    record["table"] = asdict(summary.table(record))
    arrays = _known(problem) | {name: values for one in judged for name, values in one.arrays.items()}
    return run.finish(summary.findings(record), record, joined([one.rows for one in judged]), arrays)


def problem_of(config: CompareConfig) -> Problem:
    """What is known of a comparison before its training. Raises ConfigError for settings that cannot be run."""
    device = device_of(config.device)
    with setting():
        moments, samples, state = _data(config.data, config.view(), config.spectrum, config.seed)
    m = len(moments.mean)
    if config.dim > m:
        raise ConfigError(f"dim = {config.dim} is larger than the input dimension m = {m} of {config.data}")
    predictions = {
        name: predict(config.objective(name), moments, config.dim, config.arms) for name in config.objectives
    }
    rates = {
        (name, arm): _learning_rate(config, predictions[name], arm) for name in config.objectives for arm in config.arms
    }
    generator = torch.Generator()
    generator.set_state(state)
    initial = torch.randn(config.seeds, m, config.dim, dtype=torch.float64, generator=generator)
    return Problem(config, samples, moments, predictions, rates, initial.to(device, getattr(torch, config.dtype)))


@lru_cache(maxsize=64)
def _data(source: str, view: View, spectrum: tuple[float, ...], seed: int) -> tuple[Moments, int, Tensor]:
    """Moments of the data of a seed, the number of samples, and the state of the generator after them; cells of a sweep share them."""
    generator = torch.Generator().manual_seed(seed)
    data = triplets(source, view, generator, spectrum)
    return moments_of(data), len(data.x), generator.get_state()


def _learning_rate(config: CompareConfig, prediction: Prediction, arm: str) -> LearningRate:
    rate = prediction.learning_rate(arm)
    if config.lr != "auto" and float(config.lr) > rate.limit and not config.allow_unstable:
        raise ConfigError(
            f"lr = {config.lr:g} is above the stability limit {rate.limit:.4g} ({rate.meaning}) of {prediction.objective.name}, "
            f"arm {arm}: training will oscillate; lower it, or run it all the same with allow_unstable = True (--allow-unstable)"
        )
    return rate


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


def _steps(problem: Problem, law: bool) -> int:
    """Total number of steps."""
    steps = len(problem.rates) * problem.config.steps
    if law:
        initial, rate = problem.initial.double().cpu().numpy(), problem.rates["barlow_twins", "free"].default
        steps += horizon_steps(problem.config.init_scales, initial, problem.predictions["barlow_twins"], rate)
    return steps


def _train_arm(problem: Problem, name: str, arm: str, on_step: Callable[[], object]) -> Trajectory:
    loss = problem.loss(name, problem.moments)
    return train(problem, name, arm, loss, problem.start(arm), problem.learning_rate((name, arm)), on_step)


def train(
    problem: Problem,
    name: str,
    arm: str,
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    learning_rate: float,
    on_step: Callable[[], object] = lambda: None,
) -> Trajectory:
    """The training of an arm from these weights."""
    steps = problem.config.steps
    return train_full_batch(
        loss,
        start,
        ARMS[arm](),
        learning_rate=learning_rate,
        steps=steps,
        log_every=max(1, steps // LOGGED),
        homogeneous=problem.predictions[name].objective.is_trace and arm == "free",
        on_step=on_step,
    )


def _known(problem: Problem) -> dict[str, np.ndarray]:
    """What was known before training."""
    content = {
        "moments/cross": problem.moments.cross.numpy().copy(),  # other runs share the moments
        "moments/second": problem.moments.second.numpy().copy(),
        "moments/mean": problem.moments.mean.numpy().copy(),
        "weights/initial_draw": problem.initial.cpu().numpy(),
    }
    for name, prediction in problem.predictions.items():
        if prediction.matrix is not None:
            content[f"trace_matrix/{name}"] = prediction.matrix
        content |= {f"predicted_subspace/{name}/{arm}": value for arm, value in prediction.subspaces.items()}
    return content


def _nested(table: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    nested: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, arm), value in table.items():
        finite = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in value.items()}
        nested.setdefault(name, {})[arm] = finite
    return nested
