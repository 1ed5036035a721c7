"""Detection of the first loss or gradient that is not finite, without a device synchronisation in every step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

NEVER = 2**62


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

    def note_gradients(self, step: int, model: nn.Module, scale: Tensor | None = None) -> None:
        """Take the gradients of a step, before the step of the optimizers; `scale` (): what the loss was multiplied with.

        A norm that is not finite at a scale above 1 is skipped and counted. Otherwise, as the losses were finite, it raises Diverged on a
        CPU, which names the parameters.
        """
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not gradients:
            return
        # Ten times as fast as the largest entry. Constrained optimizers skip a step whose norm overflows, too.
        bad = ~torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()
        again = torch.zeros_like(bad) if scale is None else scale > 1
        now = torch.full_like(self._first, step)
        self._gradient = torch.where(bad & ~again, torch.minimum(self._gradient, now), self._gradient)
        self._skipped += bad & again
        if self.device.type == "cpu":
            self.check(model)

    @property
    def skipped(self) -> int:
        """How many steps were skipped. Waits for the device."""
        return int(self._skipped)

    def check(self, model: nn.Module | None = None) -> None:
        """Raise Diverged where some loss or gradient so far was not finite, of a model with its parameters' names. Waits for the device."""
        first, gradient = int(self._first), int(self._gradient)
        if min(first, gradient) == NEVER:
            return
        if first <= gradient:
            raise Diverged(f"the loss is not finite from step {first} on")
        bad = [
            name.removeprefix("module.")  # of DistributedDataParallel
            for name, p in (model.named_parameters() if model is not None else ())
            if p.grad is not None and not bool(torch.isfinite(p.grad).all())
        ]
        what = f"the gradient of {', '.join(bad)}" if bad else "the norm of the gradient"
        raise Diverged(f"{what} is not finite from step {gradient} on, while the loss is")

    def state(self) -> dict[str, Tensor]:
        """The sum of the loss since it was last read, and of how many, and the skipped steps, for a checkpoint."""
        return {"sum": self._sum, "count": torch.tensor(self._count), "skipped": self._skipped}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self._sum, self._count = state["sum"].to(self.device), int(state["count"])
        self._skipped = state["skipped"].to(self.device)

    def mean(self) -> Tensor:
        """The mean loss since the last call, nan where there was none."""
        mean = self._sum / self._count if self._count else torch.full_like(self._sum, float("nan"))
        self._sum, self._count = torch.zeros_like(self._sum), 0
        return mean
