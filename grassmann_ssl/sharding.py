"""Parameters under fully_shard (FSDP2): gathered for a step that every process takes alike, and written back by shards."""

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Any) -> bool:
    """Whether this is a DTensor; asked by attribute, because importing DTensor is slow and rarely needed."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """The full tensor, plain: a view of its memory, or a gathered copy of a sharded one."""
    if type(tensor) is Tensor:
        return tensor
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor.as_subclass(Tensor)
    return full


def local(tensor: Any) -> Tensor:
    """The local shard of a tensor, or the tensor itself."""
    own: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return own


def write(tensor: Any, value: Tensor) -> None:
    """Copy a replicated value into a tensor, shard by shard where it is sharded."""
    if is_sharded(tensor):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    with torch.no_grad():
        local(tensor).copy_(local(value))
