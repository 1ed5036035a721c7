"""Detection of the first non-finite loss, without a device synchronisation in every step."""

from collections.abc import Mapping

import torch
from torch import Tensor

NEVER = 2**62


class Diverged(RuntimeError):
    """Training whose loss is no longer finite; the message names the step."""


class FiniteWatch:
    """Running mean of the loss since it was last read, and the first step at which the loss was not finite.

    Checked at every step on a CPU; elsewhere by `check` alone, which waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._first = torch.full((), NEVER, dtype=torch.int64, device=device)
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._count = 0

    def note(self, step: int, loss: Tensor) -> None:
        """Take the loss of a step. Raises Diverged on a CPU where it is not finite."""
        now = torch.full_like(self._first, step)
        self._first = torch.where(torch.isfinite(loss), self._first, torch.minimum(self._first, now))
        self._sum += loss
        self._count += 1
        if self.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise Diverged where some loss so far was not finite. Waits for the device."""
        first = int(self._first)
        if first != NEVER:
            raise Diverged(f"the loss is not finite from step {first} on")

    def state(self) -> dict[str, Tensor]:
        """The sum of the loss since it was last read, and of how many, for a checkpoint."""
        return {"sum": self._sum, "count": torch.tensor(self._count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self._sum, self._count = state["sum"].to(self.device), int(state["count"])

    def mean(self) -> Tensor:
        """The mean loss since the last call, nan where there was none."""
        mean = self._sum / self._count if self._count else torch.full_like(self._sum, float("nan"))
        self._sum, self._count = torch.zeros_like(self._sum), 0
        return mean
