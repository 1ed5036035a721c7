"""SIGReg and LeJEPA: match the distribution of the embedding to an isotropic Gaussian along random directions."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.registry import declare, positive, share
from grassmann_ssl.precision import full_precision

KNOTS, LAST_KNOT = 16, 3.0  # t = 0 is a knot too: both characteristic functions are 1 there, it adds nothing
ENTRIES = {"cpu": 2**16, "cuda": 2**24}  # projections held at a time: what stays in a core's cache; what fills a GPU


@full_precision
def sigreg(*, z: Float[Tensor, " n d"], directions: Float[Tensor, " k d"]) -> Float[Tensor, ""]:
    """SIGReg: Epps-Pulley distance of the embedding from N(0, I) along given directions, by characteristic functions.

    L = (n/K) sum_k int_{-3}^{3} |(1/n) sum_i e^{i t u_k . z_i} - e^{-t^2/2}|^2 e^{-t^2/2} dt, u_k unit vectors, n the rows of all
    processes; the integral by the trapezoidal rule on t = 0, 3/16, ..., 3, twice. Shapes (n, d), (k, d) -> scalar. Not
    rotation-invariant for fixed directions; in expectation over random ones it is. The directions get no gradient.
    Memory n d and one block of projections, for any K. Once differentiable.
    Source: Balestriero & LeCun 2025, arXiv 2511.08544, sec. 4, with the knots of its code. `penalties.sliced_normality` has the exact
    integral over all t, without the factor n.
    """
    loss: Tensor = _Sigreg.apply(z, directions)  # type: ignore[no-untyped-call]  # torch gives it no types
    return loss


@full_precision
def lejepa(
    *,
    z: Float[Tensor, " n d"],
    z_positive: Float[Tensor, " n d"],
    directions: Float[Tensor, " k d"],
    weight: float = 0.05,
) -> Float[Tensor, ""]:
    """LeJEPA on two views, both global: SIGReg of each, and their distance from their mean.

    L = weight [S(z) + S(z')] / 2 + (1 - weight) (1/4nd) sum_k ||z_k - z'_k||^2, S = `sigreg`. Shapes (n, d), (n, d), (k, d) -> scalar.
    Raises ValueError where weight is outside [0, 1]. Not rotation-invariant for fixed directions. As in the authors' code, the distance
    is a mean over dimensions too. Source: Balestriero & LeCun 2025, arXiv 2511.08544, sec. 5.
    """
    share("weight", weight)
    normality = sum(_Sigreg.apply(v, directions) for v in (z, z_positive)) / 2  # type: ignore[no-untyped-call]  # torch gives it no types
    distance = total(torch.nn.functional.mse_loss(z, z_positive)) / (4 * process_count())
    return weight * normality + (1 - weight) * distance


def random_directions(
    *,
    dimension: int,
    count: int,
    seed: int,
    step: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Float[Tensor, " count dimension"]:
    """Unit vectors drawn uniformly on the sphere, a function of seed and step alone.

    They are the same on all processes with the same kind of device, and in a resumed run.
    """
    word = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    generator = torch.Generator(device).manual_seed(word)
    rows = torch.randn(count, dimension, dtype=dtype, device=device, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1)


@declare(
    name="lejepa",
    source="Balestriero & LeCun 2025, arXiv 2511.08544, sec. 5",
    rotation_invariant=False,
    checks={"directions": positive, "weight": share},
)
class Lejepa:
    """`lejepa` with new directions in every step: `renew(step)` draws them, a function of seed and step alone."""

    def __init__(self, *, directions: int = 1024, seed: int = 0, weight: float = 0.05) -> None:
        self.count, self.seed, self.weight = directions, seed, weight
        self.renew(0)

    def renew(self, step: int) -> None:
        """Use the directions of a step, drawn at its first call."""
        self.step = step
        self.directions: Tensor | None = None

    def __call__(self, *, z: Tensor, z_positive: Tensor) -> Tensor:
        if self.directions is None:
            self.directions = random_directions(
                dimension=z.shape[1], count=self.count, seed=self.seed, step=self.step, device=z.device
            )
        # Not rounded to a half-precision z.
        directions = self.directions.to(torch.promote_types(z.dtype, torch.float32))
        return lejepa(z=z, z_positive=z_positive, directions=directions, weight=self.weight)


class _Sigreg(torch.autograd.Function):
    """Value and gradient, a block of directions at a time.

    With w = e^{i v dt}, v = u . z, dt the distance of knots: the characteristic function at knot j is the mean of w^j, and the
    gradient in v is Re sum_j g_j w^j, g_j of the block alone.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, directions: Tensor) -> Tensor:
        n, k = process_count() * len(z), len(directions)
        step = LAST_KNOT / KNOTS
        times = step * torch.arange(1, KNOTS + 1, dtype=z.dtype, device=z.device)[:, None]
        phi = (-times.square() / 2).exp()
        weights = 2 * step * phi  # both signs of t
        weights[-1] /= 2  # the last knot of a trapezoidal rule
        slope = torch.zeros_like(z) if ctx.needs_input_grad[0] else None
        value = z.new_zeros(())
        for block in torch.split(directions, max(16, ENTRIES.get(z.device.type, ENTRIES["cuda"]) // len(z))):
            angle = (z @ block.T).mul_(step)
            wave = torch.complex(angle.cos(), angle.sin())
            power, sums = wave.clone(), []
            for j in range(KNOTS):
                if j:
                    power.mul_(wave)
                sums.append(power.sum(0))
            gap = total(torch.view_as_real(torch.stack(sums))) / n
            real, imaginary = gap[..., 0] - phi, gap[..., 1]
            value += (weights * (real.square() + imaginary.square())).sum()
            if slope is not None:
                # d|gap|^2 / dv = (2/n) t Re[(imaginary + i real) w^j]; the factor n of L cancels 1/n
                factor = 2 / k * weights * times
                terms = torch.complex(factor * imaginary, factor * real)
                horner = terms[-1] * wave
                for term in terms[:-1].flip(0):
                    horner.add_(term).mul_(wave)
                slope.addmm_(horner.real, block)
        if slope is not None:
            ctx.save_for_backward(slope)
        return value * (n / k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * total(gradient), None
