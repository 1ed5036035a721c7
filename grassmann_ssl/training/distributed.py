"""Several processes started by torchrun: who this one is, which device is its own, and which rows of a batch."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from grassmann_ssl.runs import ConfigError, device_of


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
        """The rows of a batch that are this process's own, equally many for each. Raises ConfigError where that cannot be."""
        if batch % self.count:
            raise ConfigError(
                f"batch = {batch} cannot be shared equally by {self.count} processes: give a multiple of {self.count}"
            )
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)


def parallelise(model: nn.Module) -> nn.Module:
    """The model under DistributedDataParallel where there are several processes, itself where there is one.

    Buffers are not sent around in every step: they are equal by construction.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in torch 2.13
    option: dict[str, Any] = {name: False}
    return nn.parallel.DistributedDataParallel(model, **option)


@contextmanager
def processes(device: str) -> Iterator[Process]:
    """Join the processes that torchrun has started, for as long as the context lasts; alone, where it has not.

    The backend is nccl on GPUs, one of them for each process by its local rank, and gloo on CPUs. Raises ConfigError where the device is
    not there, or there are fewer GPUs than processes on this machine.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ or dist.is_initialized():
        alone = not dist.is_initialized()
        yield Process(0 if alone else dist.get_rank(), 1 if alone else dist.get_world_size(), device_of(device))
        return
    cuda = device.startswith("cuda")
    own = device_of(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device)
    if cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Process(dist.get_rank(), count, own)
    finally:
        dist.destroy_process_group()
