"""Distributed data-parallel training under torchrun."""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from grassmann_ssl.distributed import Process, process_count, process_rank
from grassmann_ssl.runs import device_of


def parallelise(model: nn.Module) -> nn.Module:
    """The model under DistributedDataParallel where there are several processes, itself where there is one.

    Buffers are not broadcast: they are equal by construction.
    """
    if process_count() == 1:
        return model
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in torch 2.13
    option: dict[str, Any] = {name: False}
    return nn.parallel.DistributedDataParallel(model, **option)


@contextmanager
def processes(device: str) -> Iterator[Process]:
    """Join the process group of torchrun for the duration of the context; one process where torchrun was not used.

    The backend is nccl on GPUs, one per process by local rank, and gloo on CPUs. Raises ConfigError where the device is not available or
    this machine has fewer GPUs than processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield Process(process_rank(), process_count(), device_of(device))
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
