"""The batch of a loss under data parallelism: all-gather and all-reduce with the gradient of one process.

Every process computes the loss L of the whole batch. Backward gives each process W dL/dz of its own rows, W the number of processes: the
gradient of the sum of the W equal losses. DistributedDataParallel takes the mean of the parameters' gradients over processes, which is
dL/dtheta of one process with the concatenated batch. Without an initialised process group both functions return what they got.
All processes hold equally many rows.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """This process: its rank among `count`, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """The rows of a batch for this process, equally many for each. Raises ValueError for a batch that is not divisible."""
        if batch % self.count:
            raise ValueError(
                f"batch = {batch} cannot be shared equally by {self.count} processes: give a multiple of {self.count}"
            )
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)


def process_count() -> int:
    """W: the size of the default process group, 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process, 0 where there is no process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def writes() -> bool:
    """Whether this is the process that writes and prints, also before torchrun's processes have met."""
    return process_rank() == 0 and os.environ.get("RANK", "0") == "0"


def all_rows(x: Tensor) -> Tensor:
    """The rows of all processes, (n, ...) -> (W n, ...), those of process r from r n on."""
    return x if process_count() == 1 else _Gather.apply(x)  # type: ignore[no-untyped-call]  # torch gives it no types


def total(x: Tensor) -> Tensor:
    """The sum of x over all processes."""
    return x if process_count() == 1 else _Sum.apply(x)  # type: ignore[no-untyped-call]  # torch gives it no types


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
        dist.all_gather(list(out.chunk(dist.get_world_size())), x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)
