"""Are modes learned one by one, at the predicted times? Any data source and loss, a linear or a random-feature model."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import theory
from grassmann_ssl.data import SOURCES, Moments, Triplets, View, moments_of, triplets
from grassmann_ssl.experiments.linear import measure
from grassmann_ssl.experiments.linear.stepwise_laws import LAWS, Law, quartic
from grassmann_ssl.metrics import first_crossing
from grassmann_ssl.nn import RandomFeatures
from grassmann_ssl.objectives import objective, options_of
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, choice, setting, ticking
from grassmann_ssl.training import ARMS, Trajectory, train_full_batch

Array = NDArray[np.float64]
MODELS = ("linear", "random_features")
LOGGED = 600
BEYOND = 1.25  # horizon over the last predicted step
MOST_STEPS = 200_000
HALF = 0.5  # of a final height: from here on a dimension is there
FRAMES, SAMPLES = 36, 120  # of the growing cloud of embeddings
BEGUN = 0.01  # of an eigenvalue whose plateau is at least 1


@dataclass(frozen=True, kw_only=True)
class StepwiseConfig(RunConfig):
    """Stepwise learning: training from small initialisation against the predicted step times."""

    NAME: ClassVar[str] = "stepwise"
    EXAMPLE: ClassVar[str] = "stepwise --dim 4 --seeds 3"
    data: str = "digits"
    """data set: digits, photos, gaussian or extent_bias (two features of extents 9 and 1)"""
    loss: Annotated[str, choice(LAWS)] = "barlow_twins"
    """objective; infonce in the population of gaussian data only. In that population spectral_contrastive and squared_vicreg have step
    times in closed form; on other data training is held against an integration of its own flow"""
    model: str = "linear"
    """model: linear, or random_features (a linear layer on fixed random ReLU features)"""
    dim: int = 5
    """embedding dimension d"""
    seeds: int = 10
    """random initialisations, trained in one batch"""
    init_scale: float = 1e-5
    """scale of the Gaussian initial weights"""
    barlow_lambda: float = 1.0
    """off-diagonal weight lambda of Barlow Twins"""
    beta: float = 1.0
    """weight of the invariance term of squared_vicreg"""
    share: float = 0.01
    """learning rate times the largest growth rate: the relative delay of the first step by the finite learning rate"""
    features: int = 128
    """random_features: number of features"""
    pairs: int = 100
    """random_features: training pairs; as many others are held out"""
    max_shift: float = 1.0
    """largest shift of an image view, in pixels"""
    max_rotation: float = 5.0
    """largest rotation of an image view, in degrees"""
    noise: float = 0.1
    """standard deviation of the additive noise of a view; pixels lie in [0, 1]"""
    spectrum: tuple[float, ...] = (1.0, 0.7, 0.5, 0.36, 0.25, 0.18, 0.13, 0.09, 0.05, 0.03, 0.02, 0.01)
    """gaussian: eigenvalues of the population cross-moment, before scaling"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("data", SOURCES), ("loss", LAWS), ("model", MODELS)):
            self.need_one_of(name, known)
        self.need("dim", "seeds", "features", "pairs", least=1)
        self.need("init_scale", "barlow_lambda", above=0)
        self.need("share", above=0, most=0.1)
        self.need("beta", least=0)
        self.need("spectrum", above=0)
        with setting():
            self.view()
        if objective(self.loss).gaussian and (self.data, self.model) != ("gaussian", "linear"):
            raise ConfigError(
                f"loss: {self.loss} of the population is known for gaussian data and the linear model only, got "
                f"{self.data} and {self.model}"
            )
        if self.model == "random_features" and (self.loss, self.barlow_lambda) != ("barlow_twins", 1.0):
            raise ConfigError("model: the kernel form is that of barlow_twins with barlow_lambda 1")

    def view(self) -> View:
        """The augmentation of an image. Raises ValueError for a setting outside its range."""
        return View(self.max_shift, self.max_rotation, self.noise)


@dataclass(frozen=True)
class Problem:
    """The moments of the training data, what theory knows before training, the learning rate, and step times (S, d), increasing."""

    moments: Moments
    law: Law
    rate: float
    times: Array

    @property
    def known(self) -> str:
        """What the times are called: "predicted", or "integrated" where they are the flow that training discretises."""
        return "predicted" if self.law.closed else "integrated"


def stepwise(config: StepwiseConfig, progress: Progress | None = None) -> Outcome:
    """Train every seed from small initialisation and compare the step times with theory.

    The measured eigenvalues are those of C = W^T Gamma W for Barlow Twins, which rise to 1, and of W^T Sigma W for the other losses,
    which rise to the spectrum of the minimiser; a step time is when the k-th largest first reaches half
    of that. Raises ConfigError for settings that cannot be run or modes that are never learned. Ctrl-C ends the training early: the steps
    due until then are compared, and what the end of training has to show is left out.
    """
    run = Run(config)
    generator = run.generator()
    data = _data(config, generator)
    held_out = None
    if config.model == "random_features":
        features = RandomFeatures(data.x.shape[1], config.features, generator)
        data, held_out = _on_features(features, data, config.pairs)
    moments = population(config) if of_population(config) else moments_of(data)
    m = len(moments.mean)
    if config.dim > m:
        raise ConfigError(f"dim = {config.dim} is larger than the input dimension m = {m} of {config.data}")
    draw = torch.randn(config.seeds, m, config.dim, dtype=torch.float64, generator=generator)
    initial = (config.init_scale * draw).to(run.device)
    problem = _predict(config, moments, initial.cpu().numpy())
    steps = _steps(problem)
    tick = ticking(progress, steps)
    goal = objective(config.loss, **_options(config))
    assert goal.from_moments is not None
    trajectory = run.keep(
        train_full_batch,
        goal.from_moments(moments.to(initial)),
        initial,
        ARMS["free"](),
        learning_rate=problem.rate,
        steps=steps,
        log_every=max(1, steps // LOGGED),
        on_step=partial(tick, "steps"),
    )
    finished = run.interrupted is None
    measured, eigenvalues = _measure(problem, trajectory)
    record, findings = _compare(config, problem, measured, trajectory, finished)
    arrays = {
        "time": trajectory.time.numpy(),
        "eigenvalues": eigenvalues[:, 0],
        "loss": trajectory.loss[:, 0].numpy(),
        "heights": problem.law.heights,
        f"{problem.known}_times": problem.times,
        "measured_times": np.nan_to_num(measured, nan=np.inf),
    }
    if problem.law.curves is not None:
        arrays["curves"] = problem.law.curves(arrays["time"])
    arrays |= _growth(data.x.numpy(), trajectory, measured[0])
    if "cloud" in arrays:
        spread = arrays["cloud"].var(1) / arrays["cloud"][-1].var(0)
        grown = (spread[arrays["cloud_stills"]] > HALF).sum(-1)
        record["growth"] = {"steps": [0, 1, 2, 3], "dimensions": grown.tolist()}
    if held_out is not None and finished:
        finding, numbers, points = _kernel_agreement(config, data, held_out, trajectory, problem)
        findings += finding
        record |= numbers
        arrays |= points
    metrics = {
        "seed": np.repeat(np.arange(config.seeds), config.dim),
        "step": np.tile(np.arange(1, config.dim + 1), config.seeds),
        problem.known: problem.times.ravel(),
        "measured": arrays["measured_times"].ravel(),
    }
    return run.finish(findings, record, metrics, arrays)


def _data(config: StepwiseConfig, generator: torch.Generator) -> Triplets:
    with setting():
        data = triplets(config.data, config.view(), generator, config.spectrum)
    if config.model == "random_features":
        if 2 * config.pairs > len(data.x):
            raise ConfigError(f"pairs must be at most {len(data.x) // 2} for {config.data}, got {config.pairs}")
        chosen = torch.randperm(len(data.x), generator=generator)[: 2 * config.pairs]
        data = Triplets(*(v[chosen] for v in (data.x, data.x_positive, data.x_negative)))
    return data


def _on_features(features: RandomFeatures, data: Triplets, pairs: int) -> tuple[Triplets, Tensor]:
    """Features of the training pairs and of held-out samples, centred and scaled by the former so that gamma_1 = 1/2."""
    first = Triplets(*(features(v[:pairs]) for v in (data.x, data.x_positive, data.x_negative)))
    mean = (first.x.mean(0) + first.x_positive.mean(0)) / 2
    centred = first.affine(mean, 1.0)
    largest = torch.linalg.eigvalsh(moments_of(centred).cross)[-1]
    if not largest > 0:
        raise ConfigError(
            "Gamma of the features has no positive eigenvalue: nothing will be learned; raise pairs or lower noise"
        )
    scale = float((0.5 / largest).sqrt())
    return first.affine(mean, scale), (features(data.x[pairs:]) - mean) * scale


def of_population(config: StepwiseConfig) -> bool:
    """Whether the population is trained on: where the loss needs it, and where its moments commute and those of a sample do not."""
    commuting = (config.data, config.model) == ("gaussian", "linear") and LAWS[config.loss] is quartic
    return commuting or objective(config.loss).gaussian


def population(config: StepwiseConfig) -> Moments:
    """Population moments of the gaussian data: signal of the given spectrum, scaled to largest eigenvalue 1/2, and isotropic noise."""
    signal = torch.tensor(sorted(config.spectrum, reverse=True), dtype=torch.float64)
    scale = 0.5 / signal[0]
    cross, second = (scale * signal).diag(), (scale * (signal + config.noise**2)).diag()
    return Moments(cross, torch.zeros_like(cross), second, second, second, torch.zeros_like(signal))


def _predict(config: StepwiseConfig, moments: Moments, initial: Array) -> Problem:
    cross, second = moments.cross.numpy(), moments.second.numpy()
    if not (theory.stepwise.spectrum(cross)[0] > 0).any():
        raise ConfigError("Gamma has no positive eigenvalue: nothing will be learned")
    law = LAWS[config.loss](cross, second, initial, **_options(config))
    if not np.isfinite(law.times).all():
        raise ConfigError("theory says that some of the first dim modes are never learned: lower dim")
    return Problem(moments, law, config.share / (4 * law.growth), np.sort(law.times, -1))


def _options(config: StepwiseConfig) -> dict[str, Any]:
    return options_of(config.loss, lambda_=config.barlow_lambda, beta=config.beta)


def _steps(problem: Problem) -> int:
    steps = int(np.ceil(BEYOND * problem.times.max() / problem.rate))
    if steps > MOST_STEPS:
        raise ConfigError(
            f"the last predicted step needs {steps:,} gradient steps, more than {MOST_STEPS:,}: lower dim, raise init_scale or share"
        )
    return steps


def _measure(problem: Problem, trajectory: Trajectory) -> tuple[Array, Array]:
    """Measured step times (S, d), nan where not seen, and eigenvalues (K, S, d) of the measured moment."""
    w, moment = trajectory.weights, torch.as_tensor(problem.law.moment)
    eigenvalues = torch.linalg.eigvalsh(w.mT @ (moment @ w)).flip(-1).numpy()
    return first_crossing(trajectory.time.numpy(), eigenvalues / problem.law.heights, HALF), eigenvalues


def _compare(
    config: StepwiseConfig, problem: Problem, measured: Array, trajectory: Trajectory, finished: bool
) -> tuple[dict[str, Any], list[Finding]]:
    error = np.abs(measured / problem.times - 1)
    due = problem.times < float(trajectory.time[-1])  # all of them, unless the training was ended early
    missed, later = int((np.isnan(error) & due).sum()), int((~due).sum())
    seen = error[~np.isnan(error)]
    worst, median = (
        float(v) if seen.size else None for v in (seen.max(initial=0.0), np.median(seen) if seen.size else 0.0)
    )
    span = f"{problem.times.min():.3g} to {problem.times.max():.3g}"
    found = f"t = {np.nanmin(measured):.3g} to {np.nanmax(measured):.3g}" if seen.size else None
    verdict = (
        "no step was seen"
        if worst is None or median is None
        else f"worst {100 * worst:.2g} %, median {100 * median:.2g} %"
    )
    findings = [
        Finding(
            f"step times, {config.seeds} seeds x {config.dim} modes"
            + ("" if problem.law.closed else ", against an integration of the same flow from the same weights"),
            f"t = {span}" if problem.law.closed else None,
            found,
            verdict
            + (f"; {missed} not seen" if missed else "")
            + (f"; {later} predicted after the end" if later else ""),
        )
    ]
    record: dict[str, Any] = {
        "learning_rate": problem.rate,
        "times": problem.known,
        "steps": int(trajectory.step[-1]),
        "step_times": {"worst_error": worst, "median_error": median, "not_seen": missed},
    }
    gamma = problem.law.gamma
    if gamma is not None:
        expected = theory.stepwise.expected_step_times(config.init_scale, gamma[: config.dim])
        deviation = np.abs(measured.mean(0) - expected.mean) / (expected.standard_deviation / np.sqrt(config.seeds))
        record["a_priori"] = {
            "mean": expected.mean.tolist(),
            "standard_deviation": expected.standard_deviation.tolist(),
            "worst_deviation": float(deviation.max()) if seen.size == error.size else None,
        }
        if seen.size == error.size:
            findings.append(
                Finding(
                    "mean step times before any draw",
                    ", ".join(f"{v:.3g}" for v in expected.mean),
                    ", ".join(f"{v:.3g}" for v in measured.mean(0)),
                    f"worst {deviation.max():.2g} standard errors of {config.seeds} seeds",
                )
            )
        group = theory.stepwise.top_group(gamma, config.dim)
        if group.stop > config.dim:
            findings.append(
                Finding(
                    "subspace",
                    f"gamma_{group.start + 1} to gamma_{group.stop} are equal",
                    None,
                    "not compared: the top-d subspace is not defined",
                )
            )
        elif finished:
            target = theory.stepwise.top_subspace(problem.moments.cross.numpy(), config.dim)
            angles = measure.angles_to(trajectory.weights[-1], target)
            record["subspace_angle"] = {"median": float(np.median(angles)), "largest": float(angles.max())}
            exponent = theory.stepwise.initialisation_exponent(gamma, config.dim) if config.dim < len(gamma) else None
            law = "" if exponent is None else f"; angle ~ scale^{exponent:.2g}"
            findings.append(
                Finding(
                    "angle to the top-d subspace of Gamma [rad]",
                    "0 as the start shrinks" + law,
                    f"median {np.median(angles):.2g}, worst {angles.max():.2g}",
                )
            )
    if problem.law.plateau is not None and finished:
        plateau, read = _first_plateau(problem, trajectory)
        record["first_plateau"] = {"measured": plateau, "seeds": read}
        findings.append(
            Finding(
                "first plateau, median over seeds",
                f"{problem.law.plateau:.4g}",
                None if plateau is None else f"{plateau:.4g}",
                f"read in {read} of {config.seeds} seeds"
                + ("" if read == config.seeds else ", where the second step has not begun half-way from the first"),
            )
        )
    return record, findings


def _first_plateau(problem: Problem, trajectory: Trajectory) -> tuple[float | None, int]:
    """Largest eigenvalue of C half-way between the first and the second step, median over seeds, and the number of seeds that it is of.

    Steps that overlap have no plateau between them: seeds whose second eigenvalue is above BEGUN there are left out, and the median
    is None where all are.
    """
    w, cross = trajectory.weights, problem.moments.cross
    eigenvalues = torch.linalg.eigvalsh(w.mT @ (cross @ w)).numpy()
    time, seeds = trajectory.time.numpy(), np.arange(eigenvalues.shape[1])
    if eigenvalues.shape[-1] == 1:
        return float(np.median(eigenvalues[-1])), seeds.size
    at = np.searchsorted(time, problem.times[:, :2].mean(-1)).clip(max=len(time) - 1)
    second, largest = eigenvalues[at, seeds, -2:].T
    apart = second < BEGUN
    return (float(np.median(largest[apart])) if apart.any() else None), int(apart.sum())


def _growth(x: Array, trajectory: Trajectory, steps: Array) -> dict[str, Array]:
    """Embeddings of the first seed along its first three learned directions, from the start until the fourth step; {} without three.

    `cloud` (F, n, 3): W^T x, centred, of samples spread over the data, at `cloud_time` (F,), on axes that do not move: the k-th is the
    direction of most variance, across those before, half-way between the k-th step and the next; `cloud_steps` (3,) and `cloud_stills`
    (4,), the frames at the start and at these times.
    """
    if not np.isfinite(steps[:3]).all() or len(steps) < 3:
        return {}
    time = trajectory.time.numpy()
    following = steps[3] if len(steps) > 3 and np.isfinite(steps[3]) else time[-1]
    moments = np.searchsorted(time, (steps[:3] + np.array([*steps[1:3], following])) / 2).clip(max=len(time) - 1)
    weights, centred = trajectory.weights[:, 0].numpy(), x - x.mean(0)
    axes = np.zeros((weights.shape[-1], 0))
    for k in moments:
        rows = centred @ weights[k]
        rows = rows - rows @ axes @ axes.T
        axes = np.column_stack([axes, np.linalg.eigh(rows.T @ rows)[1][:, -1]])
    frames = np.unique([*np.linspace(0, moments[-1], FRAMES).round().astype(int), *moments])
    shown = centred[:: max(1, len(centred) // SAMPLES)][:SAMPLES]
    return {
        "cloud": np.stack([shown @ weights[k] @ axes for k in frames]).astype(np.float32),
        "cloud_time": time[frames],
        "cloud_steps": steps[:3],
        "cloud_stills": np.searchsorted(frames, [0, *moments]),
    }


def _kernel_agreement(
    config: StepwiseConfig, data: Triplets, held_out: Tensor, trajectory: Trajectory, problem: Problem
) -> tuple[list[Finding], dict[str, Any], dict[str, Array]]:
    """Held-out embeddings from kernel values alone, from the features' closed form, and trained; each up to a rotation."""
    listed = torch.cat([data.x, data.x_positive]).numpy()
    points = held_out.numpy()
    modes = theory.kernel.kernel_modes(listed @ listed.T)
    by_kernel = theory.kernel.embeddings(modes, listed @ points.T, config.dim)
    aligned = theory.stepwise.aligned_initialisation(trajectory.weights[0, 0].numpy(), problem.moments.cross.numpy())
    by_features = points @ theory.stepwise.final_weights(aligned)
    trained = points @ trajectory.weights[-1].numpy()
    exact = _rotated(by_kernel, by_features)
    closed = float(np.abs(exact - by_features).max() / np.abs(by_features).max())
    errors = [np.linalg.norm(_rotated(by_kernel, one) - one) / np.linalg.norm(one) for one in trained]
    findings = [
        Finding(
            f"embeddings of {len(points)} held-out samples: theory from kernel values against theory from features, nothing trained",
            None,
            None,
            f"{'equal to rounding' if closed < 1e-8 else 'not equal'}: largest relative difference {closed:.1e}",
        ),
        Finding(
            f"embeddings of the same samples by the trained weights of {len(trained)} seeds",
            "those from kernel values alone, as the initialisation scale shrinks",
            None,
            f"relative difference: median {np.median(errors):.2g}, worst seed {np.max(errors):.2g}",
        ),
    ]
    numbers = {"kernel": {"closed_form_error": closed, "trained_error": float(np.median(errors))}}
    return findings, numbers, {"held_out_predicted": _rotated(by_kernel, trained[0]), "held_out_trained": trained[0]}


def _rotated(points: Array, target: Array) -> Array:
    """Points (q, d) aligned to `target` by orthogonal Procrustes."""
    u, _, vt = np.linalg.svd(points.T @ target)
    rotated: Array = points @ (u @ vt)
    return rotated
