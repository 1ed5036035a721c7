"""Losses whose batch is spread over processes, against one process that has all of it."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.processes import start

Case = tuple[str, Callable[..., Tensor], dict[str, Any]]


def check(
    tmp_path,
    cases: Sequence[Case],
    *,
    n: int = 12,
    m: int = 10,
    d: int = 6,
    world: int = 2,
    value: float = 1e-6,
    gradient: float = 1e-5,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Every case is the same in `world` processes of n rows each as in one of world * n rows.

    A case is (name, loss, settings); the loss takes z and z_positive, (n, d) each, and the settings, all by keyword, and must be
    picklable (a function of a module or a functools.partial of one). The embeddings are those of a linear encoder of m inputs under
    DistributedDataParallel. Values agree to `value` relative (absolute below 1: losses can be differences of terms of order 1),
    gradients of the parameters to `gradient` relative in norm, all cases of a call in the same processes. d > world * n and d < n choose
    between forms of the same loss.
    """
    torch.manual_seed(0)
    encoder = nn.Linear(m, d, dtype=dtype)
    x = torch.randn(2, world * n, m, dtype=dtype)
    x[1] = 0.6 * x[1] + 0.8 * x[0]
    x[:, :n] = 2 * x[:, :n] + 1  # the rows of process 0 are of another law than the others'
    expected = [_evaluate(copy.deepcopy(encoder), x, loss, settings) for _, loss, settings in cases]
    for (name, loss, settings), (whole, _) in zip(cases, expected, strict=True):
        part, _ = _evaluate(copy.deepcopy(encoder), x[:, :n], loss, settings)
        assert abs(part - whole) > 1e-4 * abs(whole), f"{name}: the rows of one process have the loss of all of them"
    address = f"file://{tmp_path}/rendezvous_{len(os.listdir(tmp_path))}"
    start(_process, (world, address, encoder, x, cases, expected, value, gradient), world)


def _evaluate(encoder: nn.Module, x: Tensor, loss: Callable[..., Tensor], settings: dict[str, Any]):
    z, z_positive = encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    value = loss(z=z, z_positive=z_positive, **settings)
    value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in encoder.parameters()])


def _process(rank, world, address, encoder, x, cases, expected, value, gradient):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    wrong = []
    for (name, loss, settings), (whole, whole_gradient) in zip(cases, expected, strict=True):
        model = nn.parallel.DistributedDataParallel(copy.deepcopy(encoder))
        got, got_gradient = _evaluate(model, x.chunk(world, dim=1)[rank], loss, settings)
        errors = (
            abs(got - whole) / max(1, abs(whole)),
            ((got_gradient - whole_gradient).norm() / whole_gradient.norm()).item(),
        )
        if not (errors[0] <= value and errors[1] <= gradient):
            wrong.append(f"{name}: value {got:.8g} for {whole:.8g}, gradient wrong by {errors[1]:.2g} relative")
    dist.barrier()
    if wrong:
        raise AssertionError(f"process {rank}: " + "; ".join(wrong))
    dist.destroy_process_group()
    os._exit(0)  # torch's own threads are not always joined when a process that used gloo ends
