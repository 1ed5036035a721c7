"""Does the tangent kernel predict stepwise learning? Two-layer networks of several widths against their kernels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import geoopt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from torch import Tensor

import theory
from grassmann_ssl.data import View, triplets
from grassmann_ssl.experiments.linear import measure
from grassmann_ssl.experiments.networks import tangent_networks as networks
from grassmann_ssl.experiments.networks.layers import descend
from grassmann_ssl.metrics import first_crossing
from grassmann_ssl.nn.ntk import not_scalar, scalar_kernel
from grassmann_ssl.objectives import objective
from grassmann_ssl.runs import ConfigError, Finding, Outcome, Progress, Run, RunConfig, ticking
from theory.kernel import KernelModes

Array = NDArray[np.float64]
DATA = ("digits", "photos")
BEYOND = 1.25  # horizon over the last predicted step
MOST_STEPS = 20_000
TIMES = ("predicted", "linearised", "trained", "coupled")
ANGLES = {
    "prediction": "network and prediction from the kernel at the start",
    "afterwards": "network and top-d span of the kernel after training",
    "linearised": "network and its linearisation",
    "closed_form": "linearisation and prediction",
}


@dataclass(frozen=True, kw_only=True)
class NtkConfig(RunConfig):
    """Stepwise learning of two-layer networks of several widths, predicted from their neural tangent kernel."""

    NAME: ClassVar[str] = "ntk"
    EXAMPLE: ClassVar[str] = "ntk --widths 96 384"
    data: str = "digits"
    """data set: digits or photos"""
    dim: int = 3
    """embedding dimension d"""
    pairs: int = 80
    """positive pairs of the training set"""
    widths: tuple[int, ...] = (30, 120, 480)
    """hidden widths, increasing multiples of dim"""
    seeds: int = 4
    """networks per width, trained in one batch"""
    init_scale: float = 1e-4
    """scale of the Gaussian perturbation of the centre, where the output is zero, at the start"""
    share: float = 0.2
    """learning rate times the largest growth rate, which the predicted step times account for"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in DATA:
            raise ConfigError(f"data must be one of {', '.join(DATA)}, got {self.data!r}")
        self.need("dim", "pairs", "seeds", "widths", least=1)
        self.need("init_scale", above=0, most=0.1)
        self.need("share", above=0, most=0.5)
        if any(h % self.dim for h in self.widths) or any(np.diff(self.widths) <= 0):
            raise ConfigError(f"widths must be increasing multiples of dim = {self.dim}, got {self.widths}")


@dataclass(frozen=True)
class Prediction:
    """Predictions from the initial kernels of S networks: modes, learning rate, step times (S, d), eigenvalues (K + 1, S, d) of C."""

    modes: list[KernelModes]
    rate: float
    steps: int
    times: Array
    curves: Array


def ntk(config: NtkConfig, progress: Progress | None = None) -> Outcome:
    """Train networks of every width and kind of start, and their linearisations, and compare both with the kernel's closed form.

    The closed form assumes a kernel that is constant and scalar, Theta_ab = delta_ab K. The linearised network has the full, constant
    kernel, which separates the two assumptions. Their errors, a kernel change of order 1/h and, with an independent start, a non-scalar
    part of order h^{-1/2}, couple a learned mode to the others, which then rise early if they started smaller than that: the smaller the
    scale, the wider a network must be for the prediction to hold. The angle to the predicted subspace shrinks as scale^(1 -
    gamma_{d+1}/gamma_d) on its own (`theory.stepwise.initialisation_exponent`). Ctrl-C keeps the completed widths, of both kinds of start.
    Raises ConfigError for more pairs than data, or a kernel with fewer than d positive modes.
    """
    run = Run(config)
    generator = run.generator()
    x = _stacked_pairs(config, generator).to(run.device)
    drawn = {
        (start, h): _draw(config, x.shape[1], start, h, generator) for start in networks.STARTS for h in config.widths
    }
    tick = ticking(progress, len(drawn))

    def trained(h: int) -> list[dict[str, Any]]:
        found = []
        for start in networks.STARTS:
            found.append(_cell(config, x, *drawn[start, h]))
            tick(f"{start}, width {h}")
        return found

    results = run.parts(config.widths, trained, lambda h: f"width {h}")  # (widths, starts)
    completed = replace(config, widths=config.widths[: len(results)])
    keys = ("times", "angles", "kernel_change", "off_diagonal", "steps", "gamma", "degenerate")
    tables = {name: np.array([[cell[name] for cell in one] for one in zip(*results, strict=True)]) for name in keys}
    record = {"axes": {"start": list(networks.STARTS), "angle": list(ANGLES), "time": list(TIMES)}} | _record(
        completed, tables
    )
    arrays = {name: tables[name] for name in ("times", "angles", "kernel_change", "off_diagonal")}
    for start, widest in zip(networks.STARTS, results[-1], strict=True):
        arrays |= {f"{start}_{name}": curve for name, curve in widest["curves"].items()}
    return run.finish(_findings(completed, record), record, _metrics(completed, tables), arrays)


def _stacked_pairs(config: NtkConfig, generator: torch.Generator) -> Tensor:
    """The list (x_1 .. x_n, x'_1 .. x'_n), (2n, m), with a mean squared norm of 1."""
    data = triplets(config.data, View(), generator)
    if config.pairs > len(data.x):
        raise ConfigError(f"pairs must be at most {len(data.x)} for {config.data}, got {config.pairs}")
    chosen = torch.randperm(len(data.x), generator=generator)[: config.pairs]
    x = torch.cat([data.x[chosen], data.x_positive[chosen]])
    return x / x.square().sum(1).mean().sqrt()


def _draw(
    config: NtkConfig, m: int, start: str, h: int, generator: torch.Generator
) -> tuple[networks.Weights, networks.Weights]:
    """The centre of one kind of start and width, and weights beside it."""
    centre = networks.centre(start, config.seeds, m, h, config.dim, generator)
    return centre, networks.near(centre, config.init_scale, generator)


def _cell(config: NtkConfig, x: Tensor, *drawn: networks.Weights) -> dict[str, Any]:
    """All networks of one start and width: trained, linearised and predicted."""
    centre, weights = (networks.Weights(*(w.to(x.device) for w in one)) for one in drawn)
    offset = networks.outputs(x, *centre)
    kernels = networks.tangent_kernels(x, centre)
    prediction = predict(config, scalar_kernel(kernels), networks.outputs(x, *weights) - offset)

    def network(*parameters: Tensor) -> Tensor:
        return networks.outputs(x, *parameters) - offset

    moved, spectra = train(network, weights, prediction)
    trained = network(*moved)
    after = networks.tangent_kernels(x, networks.Weights(*moved))
    initial, root = network(*weights), networks.roots(kernels)

    def linearised(omega: Tensor) -> Tensor:
        return initial + (root @ omega).reshape(initial.shape)

    omega = initial.new_zeros(config.seeds, root.shape[-1], 1)
    (omega,), linear_spectra = train(linearised, (omega,), prediction)
    final, linear = (f.numpy(force=True) for f in (trained, linearised(omega)))
    time = prediction.rate * np.arange(prediction.steps + 1)
    later = [modes_of(kernel, config.dim) for kernel in scalar_kernel(after).numpy(force=True)]
    pairs = {
        "prediction": zip(final, (top_span(modes, config.dim) for modes in prediction.modes), strict=True),
        "afterwards": zip(final, (top_span(modes, config.dim) for modes in later), strict=True),
        "linearised": zip(final, linear, strict=True),
        "closed_form": zip(linear, (top_span(modes, config.dim) for modes in prediction.modes), strict=True),
    }
    gamma = np.array([np.append(modes.gamma, 0.0)[: config.dim + 1] for modes in prediction.modes])
    return {
        "times": np.array(
            [
                prediction.times,
                *(first_crossing(time, values, 0.5) for values in (linear_spectra, spectra)),
                coupled_times(kernels, initial, prediction),
            ]
        ),
        "angles": np.array([[subspace_angles(a, b).max() for a, b in pairs[name]] for name in ANGLES]),
        "kernel_change": measure.relative_change(after, kernels).numpy(force=True),
        "off_diagonal": not_scalar(kernels).numpy(force=True),
        "steps": prediction.steps,
        "gamma": np.median(gamma, 0),
        "degenerate": sum(top_modes(modes, config.dim).stop > config.dim for modes in prediction.modes),
        "curves": {
            "time": time,
            "trained": spectra[:, 0],
            "linearised": linear_spectra[:, 0],
            "predicted": prediction.curves[:, 0],
        },
    }


def modes_of(kernel: Array, d: int) -> KernelModes:
    """Modes of a scalar kernel. Raises ConfigError if fewer than d have positive gamma."""
    modes = theory.kernel.kernel_modes(kernel)
    positive = int((modes.gamma > 0).sum())
    if positive == 0:
        raise ConfigError("the cross-moment K_Gamma of the kernel has no positive eigenvalue: nothing will be learned")
    if positive < d:
        raise ConfigError(f"dim = {d} is above {positive}, the number of positive eigenvalues of K_Gamma")
    return modes


def top_modes(modes: KernelModes, d: int) -> range:
    """The first d modes; if gamma_d = gamma_{d+1}, with all of that degenerate group."""
    return theory.stepwise.top_group(modes.gamma, d)


def top_span(modes: KernelModes, d: int) -> Array:
    """The predicted embeddings of the training samples; if gamma_d = gamma_{d+1}, with all functions of that group."""
    return theory.kernel.training_embeddings(modes, top_modes(modes, d).stop)


def predict(config: NtkConfig, kernels: Tensor, initial: Tensor) -> Prediction:
    """Step times from the kernels (S, 2n, 2n) and the initial outputs (S, 2n, d).

    The coordinates of the initial outputs along the kernel's functions, <u_j, f_a> = sum_i coefficients_ij f_a(x_i), are the weights of a
    linear model whose Gamma is diagonal: `aligned_initialisation` of them gives s_j(0). From there s_j follows gradient
    descent at this learning rate. Raises ConfigError for modes that are never learned or need too many steps.
    """
    d = config.dim
    modes = [modes_of(kernel, d) for kernel in kernels.numpy(force=True)]
    starts = []
    for one, outputs in zip(modes, initial.numpy(force=True), strict=True):
        aligned = theory.stepwise.aligned_initialisation(one.coefficients.T @ outputs, np.diag(one.gamma))
        starts.append(aligned.singular_values)
    gamma = np.array([one.gamma[:d] for one in modes])
    rate = float(config.share * theory.stepwise.max_learning_rate(gamma.ravel()))
    last = max(theory.stepwise.step_times(s, g).max() for s, g in zip(starts, gamma, strict=True))
    if not np.isfinite(last):
        raise ConfigError("theory says that some of the first dim modes are never learned: lower dim")
    steps = int(np.ceil(BEYOND * last / rate))
    if steps > MOST_STEPS:
        raise ConfigError(
            f"the last predicted step needs {steps:,} gradient steps, more than {MOST_STEPS:,}: lower dim or raise share"
        )
    counts = np.arange(steps + 1)
    curves = np.stack(
        [
            g * theory.stepwise.discrete_singular_values(counts, rate, s, g) ** 2
            for s, g in zip(starts, gamma, strict=True)
        ],
        1,
    )
    # Eigenvalues of C are sorted: the k-th to rise is compared with the k-th predicted one.
    times = first_crossing(rate * counts, np.sort(curves, -1)[..., ::-1], 0.5)
    return Prediction(modes, rate, steps, times, curves)


def coupled_times(kernels: Tensor, initial: Tensor, prediction: Prediction) -> Array:
    """Step times (S, d) to first order in the coupling of outputs, from the full kernels (S, 2n, 2n, d, d) and the initial outputs."""
    several = zip(kernels.numpy(force=True), initial.numpy(force=True), prediction.modes, strict=True)
    return np.array([theory.tangent.step_times(*one, learning_rate=prediction.rate) for one in several])


def train(
    model: Callable[..., Tensor], start: tuple[Tensor, ...], prediction: Prediction
) -> tuple[tuple[Tensor, ...], Array]:
    """Final parameters, and the eigenvalues (K + 1, S, d) of C = (1/2n) sum_i (f f'^T + f' f^T) after every step."""
    barlow_twins = objective("barlow_twins").loss
    spectra: list[Tensor] = []

    def note(z: Tensor, z_positive: Tensor) -> None:
        cross = z.mT @ z_positive / z.shape[1]
        spectra.append(torch.linalg.eigvalsh((cross + cross.mT) / 2).flip(-1))

    def loss(*parameters: Tensor) -> Tensor:  # called once in every step, before it
        z, z_positive = model(*parameters).chunk(2, 1)
        note(z.detach(), z_positive.detach())
        return torch.vmap(lambda a, b: barlow_twins(z=a, z_positive=b))(z, z_positive)

    final = descend(
        loss,
        start,
        [geoopt.Euclidean()] * len(start),
        learning_rate=prediction.rate,
        steps=prediction.steps,
    )
    note(*model(*final).chunk(2, 1))
    return final, torch.stack(spectra).numpy(force=True)


def _record(config: NtkConfig, tables: dict[str, Array]) -> dict[str, Any]:
    errors = _errors(tables["times"])
    record: dict[str, Any] = {}
    for i, start in enumerate(networks.STARTS):
        record[start] = {
            "gamma": tables["gamma"][i].tolist(),
            "steps": tables["steps"][i].tolist(),
            "degenerate_gaps": tables["degenerate"][i].tolist(),
            "step_times": {
                name: {
                    "median_error": [_number(np.median, v) for v in values[i]],
                    "worst_error": [_number(np.max, v) for v in values[i]],
                    "not_seen": np.isnan(values[i]).sum((-2, -1)).tolist(),
                }
                for name, values in errors.items()
            },
            "angles": {
                name: {"median": np.median(values, -1).tolist(), "worst": values.max(-1).tolist()}
                for name, values in zip(ANGLES, np.moveaxis(tables["angles"][i], 1, 0), strict=True)
            },
            **{
                name: {
                    "median": np.median(tables[name][i], -1).tolist(),
                    "exponent": _exponent(config.widths, tables[name][i]),
                    "predicted_exponent": predicted,
                }
                for name, predicted in _predicted_exponents(config, start).items()
            },
        }
    return record


def _predicted_exponents(config: NtkConfig, start: str) -> dict[str, float | None]:
    """Exponents of h in the kernel change and in its non-scalar part; None where that part is 0."""
    scalar = start == "grouped" or config.dim == 1
    return {
        "kernel_change": theory.lazy.free("smooth").whole,
        "off_diagonal": None if scalar else theory.lazy.independent_signs(),
    }


def _errors(times: Array) -> dict[str, Array]:
    """Relative errors (starts, widths, S, d) of step times, nan for steps that were not seen."""
    predicted, linearised, trained, coupled = np.moveaxis(times, 2, 0)
    return {
        "coupled": np.abs(trained / coupled - 1),
        "prediction": np.abs(trained / predicted - 1),
        "linearised": np.abs(trained / linearised - 1),
        "closed_form": np.abs(linearised / predicted - 1),
    }


def _number(summary: Callable[[Array], Any], values: Array) -> float | None:
    seen = values[~np.isnan(values)]
    return float(summary(seen)) if seen.size else None


def _exponent(widths: tuple[int, ...], values: Array) -> float | None:
    """Slope of the logarithm of the median over seeds against that of the width; None for one width, or for rounding."""
    medians = np.median(values, -1)
    if len(widths) < 2 or medians.min() < 1e-12:
        return None
    return float(measure.exponent(np.array(widths), medians))


def _metrics(config: NtkConfig, tables: dict[str, Array]) -> dict[str, np.ndarray]:
    starts, widths, seeds, steps = np.meshgrid(
        networks.STARTS, config.widths, range(config.seeds), range(1, config.dim + 1), indexing="ij"
    )
    labels = {"start": starts, "width": widths, "seed": seeds, "step": steps}
    times = dict(zip(TIMES, np.moveaxis(np.nan_to_num(tables["times"], nan=np.inf), 2, 0), strict=True))
    return {name: values.ravel() for name, values in (labels | times).items()}


def _findings(config: NtkConfig, record: dict[str, Any]) -> list[Finding]:
    widths = ", ".join(str(h) for h in config.widths)
    lines = []
    for start in networks.STARTS:
        found = record[start]
        for name, reference in (
            ("prediction", "the scalar kernel's closed form"),
            ("coupled", "the full kernel, to first order in the coupling of outputs"),
            ("linearised", "the linearised network"),
        ):
            errors = found["step_times"][name]
            missed = sum(errors["not_seen"])
            lines.append(
                Finding(
                    f"{start} start: step times of the network",
                    f"those of {reference} as h grows",
                    None,
                    f"median error {_per_cent(errors['median_error'])} for h = {widths}; worst {_per_cent(errors['worst_error'])}"
                    + (f"; {missed} steps not seen" if missed else ""),
                )
            )
        angles = found["angles"]
        for name, title in ANGLES.items():
            lines.append(
                Finding(
                    f"{start} start: angle of {title} [rad]",
                    "0 as h grows"
                    if name == "linearised"
                    else f"~ scale^{theory.stepwise.initialisation_exponent(found['gamma'][-1], config.dim):.2g} as h grows",
                    "; ".join(
                        f"{one} {', '.join(f'{v:.2g}' for v in angles[name][one])}" for one in ("median", "worst")
                    ),
                )
            )
        for name, title in (
            ("kernel_change", "change of the kernel by training"),
            ("off_diagonal", "part of the kernel that is not scalar"),
        ):
            exponent, law = found[name]["exponent"], found[name]["predicted_exponent"]
            fitted = "" if law is None or exponent is None else f"h^{exponent:.2f}; "
            lines.append(
                Finding(
                    f"{start} start: {title}, relative",
                    "0 to rounding" if law is None else f"h^{law:g}",
                    fitted + ", ".join(f"{v:.2g}" for v in found[name]["median"]) + f" for h = {widths}",
                )
            )
        if any(found["degenerate_gaps"]):
            lines.append(
                Finding(
                    f"{start} start: subspace",
                    f"gamma_{config.dim} = gamma_{config.dim + 1} in {sum(found['degenerate_gaps'])} networks",
                    None,
                    "compared with all functions of the group",
                )
            )
    return lines


def _per_cent(values: list[float | None]) -> str:
    return ", ".join("–" if v is None else f"{100 * v:.2g} %" for v in values)
