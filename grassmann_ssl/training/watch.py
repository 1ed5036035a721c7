"""Detection of the first loss or gradient that is not finite, without a device synchronisation in every step."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from grassmann_ssl.optim.base import finite_norm

NEVER = 2**62
NONE: Mapping[str, Tensor] = MappingProxyType({})


class Diverged(RuntimeError):
    """Training whose loss or gradient is no longer finite; the message says which of them, and the step."""


class FiniteWatch:
    """Running mean of the loss since it was last read, and the first step at which the loss, or a gradient, was not finite.

    Checked at every step on a CPU; elsewhere by `check` alone, which waits for the device. `skipped` counts the steps whose gradient was
    too large for the scale of the loss in float16: they are left out, and the scale is halved.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first = torch.full((), NEVER, dtype=torch.int64, device=device)
        self._gradient = self._first.clone()
        self._skipped = torch.zeros_like(self._first)
        # Numbers of Python on a CPU: a handful of operations on tensors would take as long as the step of a small model.
        self._sum: Tensor | float = 0.0 if self._host else torch.zeros((), dtype=torch.float64, device=device)
        self._count = 0

    @property
    def _host(self) -> bool:
        return self.device.type == "cpu"

    def note(self, step: int, loss: Tensor) -> None:
        """Take the loss of a step. Raises Diverged on a CPU where it is not finite."""
        self._count += 1
        if self._host:
            value = loss.item()
            self._sum += value
            if not math.isfinite(value):
                self._first.clamp_(max=step)
                self.check()
            return
        now = torch.full_like(self._first, step)
        self._first = torch.where(torch.isfinite(loss), self._first, torch.minimum(self._first, now))
        self._sum += loss.detach()

    def note_gradients(
        self, step: int, parameters: Mapping[str, Tensor], scale: Tensor | None = None
    ) -> Tensor | bool | None:
        """Take the gradients of a step, before the step of the optimizers, and return whether they are finite, if there are any.

        `scale` (): what the loss was multiplied with. A norm that is not finite at a scale above 1 is skipped and counted. Otherwise, as
        the losses were finite, it raises Diverged on a CPU, which names the parameters.
        """
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        finite = finite_norm(gradients) if gradients else None
        if finite is None or finite is True:
            return finite
        bad = ~torch.as_tensor(finite)
        again = torch.zeros_like(bad) if scale is None else scale > 1
        now = torch.full_like(self._first, step)
        self._gradient = torch.where(bad & ~again, torch.minimum(self._gradient, now), self._gradient)
        self._skipped += bad & again
        if self._host:
            self.check(parameters)
        return finite

    @property
    def skipped(self) -> int:
        """How many steps were skipped. Waits for the device."""
        return int(self._skipped)

    def check(self, parameters: Mapping[str, Tensor] = NONE) -> None:
        """Raise Diverged where some loss or gradient so far was not finite, naming the parameters it is of. Waits for the device."""
        first, gradient = int(self._first), int(self._gradient)
        if min(first, gradient) == NEVER:
            return
        if first <= gradient:
            raise Diverged(f"the loss is not finite from step {first} on")
        bad = [
            name.removeprefix("module.")  # of DistributedDataParallel
            for name, p in parameters.items()
            if p.grad is not None and not bool(torch.isfinite(p.grad).all())
        ]
        what = f"the gradient of {', '.join(bad)}" if bad else "the norm of the gradient"
        raise Diverged(f"{what} is not finite from step {gradient} on, while the loss is")

    def state(self) -> dict[str, Tensor]:
        """The sum of the loss since it was last read, and of how many, and the skipped steps, for a checkpoint."""
        return {
            "sum": torch.as_tensor(self._sum, dtype=torch.float64),
            "count": torch.tensor(self._count),
            "skipped": self._skipped,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        total = state["sum"].to(self.device)
        self._sum, self._count = float(total) if self._host else total, int(state["count"])
        self._skipped = state["skipped"].to(self.device)

    def mean(self) -> Tensor:
        """The mean loss since the last call, nan where there was none."""
        total = torch.as_tensor(self._sum, dtype=torch.float64)
        mean = total / self._count if self._count else torch.full_like(total, math.nan)
        self._sum, self._count = 0.0 if self._host else torch.zeros_like(total), 0
        return mean
