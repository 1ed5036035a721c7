"""Where parameters and their states lie in memory: matrices of weights, in place where that can be, and what cannot be stepped at all."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.manifolds.layout import WeightLayout
from grassmann_ssl.sharding import is_sharded, local, whole, write


def in_place(tensor: Tensor) -> bool:
    """Whether the matrix of a tensor is a view of its memory: not where it is sharded, or stored in another order, as channels_last is."""
    return not is_sharded(tensor) and tensor.is_contiguous()


def matrix_of(manifold: Any, tensor: Any) -> tuple[Any, Tensor]:
    """The matrix manifold of a parameter and its values as points: a view where it is `in_place`, else a view or a copy."""
    tensor = whole(tensor.detach())
    if isinstance(manifold, WeightLayout):
        return manifold.manifold, manifold.to_point(tensor)
    return manifold, tensor


def write_matrix(manifold: Any, tensor: Tensor, value: Tensor) -> None:
    """Write a point or tangent vector into a parameter or its state, however that is stored."""
    write(tensor.detach(), manifold.to_weight(value) if isinstance(manifold, WeightLayout) else value)


def stack(tensors: list[Tensor]) -> Tensor:
    """Tensors as one; a single one as it is."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0]


def in_memory_order(lists: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[tuple[Tensor, Tensor]]]:
    """Lists of tensors, each with its axes in the memory order of the tensor at its place in the first list, and contiguous.

    For torch's fused steps, which take every tensor for a contiguous one. Views where possible; the others are copies, which are also
    returned as pairs (view to write to, copy).
    """
    if any(map(is_sharded, lists[0])):
        lists = [[local(t) for t in tensors] for tensors in lists]
    copies: list[tuple[Tensor, Tensor]] = []
    if all(t.is_contiguous() for tensors in lists for t in tensors):
        return lists, copies
    lists = [[*tensors] for tensors in lists]
    for k, reference in enumerate(lists[0]):
        axes = sorted(range(reference.ndim), key=reference.stride, reverse=True)
        for tensors in lists:
            if tensors[k].ndim == reference.ndim:
                view = tensors[k].detach().permute(axes)
                tensors[k] = view.contiguous()
                if not view.is_contiguous():
                    copies.append((view, tensors[k]))
    return lists, copies


def overlaps(tensor: Tensor) -> bool:
    """Whether entries of a tensor share memory with one another, as those of an expanded one do."""
    extent = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= extent:
                return True
            extent += stride * (size - 1)
    return False


def sharing(tensors: list[Tensor]) -> Iterator[tuple[int, int]]:
    """The places of every two tensors that share memory."""
    storages: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for k, t in enumerate(tensors):
        if not is_sharded(t) and not t.is_meta and t.numel():
            start = int(t.storage_offset())
            last = sum(stride * (size - 1) for stride, size in zip(t.stride(), t.shape, strict=True))
            storages[t.untyped_storage().data_ptr()].append((start, start + last, k))
    for spans in storages.values():
        for (start, end, k), (begin, stop, other) in itertools.combinations(sorted(spans), 2):
            if begin <= end:  # spans meet, as those of every second row and of the others do; entries need not
                memory = torch.arange(max(end, stop) - start + 1)
                entries = (
                    memory.as_strided(tensors[i].shape, tensors[i].stride(), first - start).flatten()
                    for i, first in ((k, start), (other, begin))
                )
                if bool(torch.isin(*entries).any()):
                    yield k, other
