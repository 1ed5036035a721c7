"""Distributed data-parallel training under torchrun."""

import gc
import hashlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from grassmann_ssl.distributed import Process, process_count, process_rank
from grassmann_ssl.runs import ConfigError, device_of, setting


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


def refuse_differences(model: nn.Module) -> None:
    """Raise RuntimeError, in every process, naming the parameters and buffers that are not the same in all of them to the last bit."""
    if process_count() == 1:
        return
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    digests = [hashlib.blake2b(x.reshape(-1).view(torch.uint8).numpy().data, digest_size=8) for x in state.values()]
    own = torch.tensor([int.from_bytes(one.digest(), "big", signed=True) for one in digests])
    own = own.to(next(model.parameters()).device)  # nccl has no CPU tensors
    every = [torch.empty_like(own) for _ in range(process_count())]
    dist.all_gather(every, own)
    different = (torch.stack(every) != own).any(0).tolist()
    if any(different):
        names = [name for name, differs in zip(state, different, strict=True) if differs]
        raise RuntimeError(f"the processes have different models after training: {', '.join(names)}")


def _store_of_this_start(count: int) -> dict[str, Any]:
    """The store where the processes meet, of this start alone, for `init_process_group`.

    On one machine torchrun keeps one store for all its starts: a process that is started again could find where the last ones, which are
    gone, had been listening.
    """
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if start == "0" or os.environ.get("LOCAL_WORLD_SIZE") != str(count):  # machines count their starts apart
        return {}
    store, rank, size = next(rendezvous("env://"))
    return {"store": PrefixStore(f"start_{start}", store), "rank": rank, "world_size": size}


@contextmanager
def processes(device: str) -> Iterator[Process]:
    """Join the process group of torchrun for the duration of the context; one process where torchrun was not used.

    The backend is nccl on GPUs, one per process by local rank, and gloo on CPUs. Raises ConfigError where the device is not available,
    this machine has fewer GPUs than processes, or what torchrun leaves in the environment is missing or broken.
    """
    try:
        count = int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ConfigError(
            f"WORLD_SIZE must be a number of processes, as torchrun sets it, got {os.environ['WORLD_SIZE']!r}"
        ) from None
    if count == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield Process(process_rank(), process_count(), device_of(device))
        return
    cuda = device.startswith("cuda")
    own = device_of(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device)
    if cuda:
        torch.cuda.set_device(own)
    with setting("torchrun"):
        dist.init_process_group("nccl" if cuda else "gloo", **_store_of_this_start(count))
    try:
        yield Process(dist.get_rank(), count, own)
    finally:
        # A DistributedDataParallel lies in a circle of references. Freed after the group it would be the last that holds it, and its end
        # waits, with the lock of the interpreter, for a thread of the group that may be waiting for that lock.
        gc.collect()
        dist.destroy_process_group()
