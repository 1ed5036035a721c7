"""Training of encoders: views, objective, backward pass, optimizer step; mixed precision, gradient accumulation, callbacks."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from grassmann_ssl.optim.base import RiemannianOptimizer
from grassmann_ssl.training.watch import FiniteWatch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Together:
    """Several optimizers as one to a GradScaler, so that a gradient that overflows keeps all of them from their step, not its own alone."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self, finite: Tensor | bool | None = None) -> None:
        optimizer: Any
        for optimizer in self.optimizers:
            if type(optimizer).step is RiemannianOptimizer.step:  # ours looks itself where it is not told
                optimizer.step(finite=finite)
            else:
                optimizer.step()


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """What scales the loss of float16, and does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=PRECISIONS[precision] is torch.float16)


def train_encoder(
    method: nn.Module,
    views: Callable[[int, int], tuple[Tensor, ...]],
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    steps: int,
    rate: Callable[[int], float],
    watch: FiniteWatch,
    start: int = 0,
    accumulate: int = 1,
    precision: str = "float32",
    scaler: torch.amp.GradScaler | None = None,
    observers: Sequence[Callable[[int], object]] = (),
    after_step: Sequence[Callable[[int], object]] = (),
) -> None:
    """Train `method`, a module that maps views to a loss, from step `start` to `steps`.

    views(step, part)   the views of a batch, on the device of the method; gradients are accumulated over `accumulate` parts
    rate(step)          schedule: factor of the initial learning rate of every parameter group
    scaler              `grad_scaler` of that precision, for a training that goes on from a checkpoint
    observers           callbacks(steps done), before every step and at the end; read-only
    after_step          callbacks(step) after the optimizers: updates that depend on the weights, such as those of an EMA teacher

    Raises Diverged where the loss, or a gradient under a finite loss, is not finite, whatever the optimizer would do with it. In float16
    the loss is scaled (GradScaler); a step with a gradient that overflows is skipped, by all optimizers, and counted by the watch. What
    happens once per step sees the rows of all parts: the optimizers, and `after_step` (closed-form predictors, running covariances,
    teachers). The mean over parts is not the loss of the whole batch where rows are compared with each other, and batch normalisation takes
    its statistics per part. KeyboardInterrupt propagates.
    """
    device = next(method.parameters()).device
    half = PRECISIONS[precision]
    scaler = scaler or grad_scaler(precision, device)
    together: Any = _Together(optimizers)
    groups = together.param_groups
    for group in groups:
        group.setdefault("initial_lr", group["lr"])  # a checkpoint holds both
    plain, cast = nullcontext(), nullcontext() if half is None else torch.autocast(device.type, half)
    one_sum = method.no_sync if isinstance(method, nn.parallel.DistributedDataParallel) else nullcontext
    one = torch.ones((), device=device)
    parameters: dict[str, Tensor] = dict(method.named_parameters())
    stepped, inside = [p for group in groups for p in group["params"]], set(parameters.values())
    parameters |= {f"parameter {k} of the optimizers": p for k, p in enumerate(stepped) if p not in inside}
    method.train()
    for step in range(start, steps):
        for observer in observers:
            observer(step)
        factor = rate(step)
        for group in groups:
            group["lr"] = group["initial_lr"] * factor
        for part in range(accumulate):
            with plain if part == accumulate - 1 else one_sum():
                with cast:
                    loss = method(*views(step, part))
                scaler.scale(loss if accumulate == 1 else loss / accumulate).backward()
            watch.note(step, loss)
        if scaler.is_enabled():
            watch.note_gradients(step, parameters, scaler.scale(one))
            scaler.step(together)
            scaler.update()
        else:
            together.step(watch.note_gradients(step, parameters))
        for p in parameters.values():
            p.grad = None  # `zero_grad` of an optimizer takes ten times as long
        for follow in after_step:
            follow(step)
    for observer in observers:
        observer(steps)
