"""The last rows of a stream of batches, on their device and over all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from grassmann_ssl.distributed import all_rows, process_count, process_rank


class RowBuffer:
    """The last `size` rows of batches (n, D), as a ring on the device and in the dtype of the first; of different dtypes, the wider.

    Memory: size x D entries, whatever comes. `add` does not wait for the device.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._held = self._next = self._calls = 0
        self._rows: Tensor | None = None
        self._call = torch.full((size,), -1)  # which call brought a row: the order of rows over processes

    @property
    def device(self) -> torch.device | None:
        """The device of the rows; None before the first."""
        return None if self._rows is None else self._rows.device

    def add(self, z: Tensor) -> None:
        """Keep the rows of z (n, D). Raises ValueError where D is not that of the rows before."""
        if self._rows is None:
            with torch.inference_mode(False):  # an inference tensor could not be written to outside that mode
                self._rows = torch.zeros(self.size, z.shape[1], dtype=z.dtype, device=z.device)
        if z.shape[1] != self._rows.shape[1]:
            raise ValueError(f"z must have the {self._rows.shape[1]} columns of the batches before, got {z.shape[1]}")
        if z.dtype != self._rows.dtype:
            self._rows = self._rows.to(torch.promote_types(z.dtype, self._rows.dtype))
        z = z.detach()[-self.size :]
        until_end = min(len(z), self.size - self._next)
        for start, part in ((self._next, z[:until_end]), (0, z[until_end:])):
            self._rows[start : start + len(part)] = part
            self._call[start : start + len(part)] = self._calls
        self._next = (self._next + len(z)) % self.size
        self._held = min(self._held + len(z), self.size)
        self._calls += 1

    def last(self) -> Tensor:
        """The last `size` rows of all processes together, the same on each: by call, then by process, as they came.

        So the rows of one process that gets the whole batches. All processes must call it, after equally many calls of `add`. Raises
        ValueError before the first row.
        """
        if self._rows is None:
            raise ValueError("nothing to judge: no rows have come yet")
        own, call = (self._in_order(x) for x in (self._rows, self._call))
        if process_count() == 1:
            return own
        mark = torch.nn.functional.pad(call, (0, self.size - self._held), value=-1).to(own.device)
        marks = all_rows(mark)
        order = marks.argsort(stable=True)[-self.size :]
        order = order[marks[order] >= 0]
        chosen = torch.zeros_like(marks, dtype=torch.bool)
        chosen[order] = True
        share = chosen.view(-1, self.size)
        most = int(share.sum(1).max())
        mine = own[share[process_rank(), : self._held]]
        sent = all_rows(torch.nn.functional.pad(mine, (0, 0, 0, most - len(mine))))
        process, place = order // self.size, (share.cumsum(1) - 1).flatten()[order]
        return sent[process * most + place]

    def _in_order(self, ring: Tensor) -> Tensor:
        return ring[: self._held] if self._held < self.size else ring.roll(-self._next, 0)
