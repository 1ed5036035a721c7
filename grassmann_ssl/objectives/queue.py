"""The rows of past batches, first in, first out."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grassmann_ssl.distributed import all_rows
from grassmann_ssl.objectives.similarity import on_unit_sphere


class Queue(nn.Module):
    """The last `size` rows put into it, of length 1, in buffers; at first random ones.

    It is the same in all processes: the rows of all of them are put in.
    """

    rows: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", on_unit_sphere(torch.randn(size, dim)))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def put(self, rows: Float[Tensor, " n d"]) -> None:
        """Put the directions of rows in place of the oldest ones, those of all processes. They get no gradient."""
        every, size = all_rows(on_unit_sphere(rows.detach()).to(self.rows.dtype)), len(self.rows)
        places = (self.place + torch.arange(len(every), device=every.device)) % size
        self.rows.index_copy_(0, places[-size:], every[-size:])
        self.place.add_(len(every)).remainder_(size)
