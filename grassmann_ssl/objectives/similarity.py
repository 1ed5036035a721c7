"""Row-wise log-sum-exp of a similarity matrix, tile by tile, so that the matrix is never stored.

Forward needs the similarity of each pair once, backward once more. Where both rows of a pair are this process's own, one tile serves
both: s_ij = s_ji. With that, m rows of width d take 2 m^2 d multiply-adds and m^2 exponentials, forward and backward together, and the
memory of two tiles, where the whole matrix takes 3 m^2 d multiply-adds and several m x m tensors.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from grassmann_ssl.distributed import all_rows, process_rank
from grassmann_ssl.precision import no_autocast

# Rows and columns of a tile. Two of them fit into the second-level cache of a core; other devices want fewer, larger products.
CPU_TILE = 128, 1024
DEVICE_TILE = 2048, 8192
# Up to so many similarities (of 1024 rows) are all kept from forward to backward: to compute them again costs more than 4 MB are worth.
KEPT = 2**20


def on_unit_sphere(z: Float[Tensor, " n d"]) -> Float[Tensor, " n d"]:
    """z_i / ||z_i||. A zero row has no direction: it stays 0, and so does its gradient."""
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z / torch.where(length > 0, length, math.inf)


def row_logsumexp(u: Float[Tensor, " m d"], temperature: float, apart: int) -> Float[Tensor, " m"]:
    """l_i = log sum_j exp(u_i . u_j / T), j over the rows of all processes except i and, of the own ones, i +- `apart`.

    Rows have length 1 at most, and each has at least one j. `apart` = m / 2 leaves out the other view of a row of two stacked views, 0 the
    row alone. Backward, with p_ij = exp(u_i . u_j / T - l_i) and g_i the gradient with respect to l_i: (1/T) sum_j (g_i p_ij + g_j p_ji)
    u_j, the gradient of the sum of all processes' losses, as that of `distributed.all_rows`. Shapes (m, d) -> (m,).
    """
    out: Tensor = _RowLogSumExp.apply(u, temperature, apart)  # type: ignore[no-untyped-call]  # torch gives it no types
    return out


class _RowLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, temperature: float, apart: int) -> Tensor:
        ctx.scale = temperature**-0.5
        ctx.start, ctx.apart = process_rank() * len(u), apart
        # Where e^(1/T) and e^(-1/T), times any number of rows, are within range, no exponential needs a shift.
        ctx.bounded = 1 / temperature <= 0.7 * math.log(torch.finfo(u.dtype).max)
        rows = all_rows(u * ctx.scale)
        if ctx.bounded and len(u) * len(rows) <= KEPT:
            own = slice(ctx.start, ctx.start + len(u))
            kept = rows[own] @ rows.T
            _leave_out(kept[:, own], 0, apart)
            kept.exp_()
            out = kept.sum(1).log()
            ctx.save_for_backward(rows, out, kept)
        else:
            out = OPERATORS.row_logsumexp(rows, ctx.start, len(u), apart, ctx.bounded)
            ctx.save_for_backward(rows, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, out, *kept = ctx.saved_tensors
        every, gradients = all_rows(out), all_rows(gradient)
        with no_autocast(rows.device.type):  # backward may run where forward did not
            if kept:
                weight = gradients * (-every).exp()
                own = weight[ctx.start : ctx.start + len(out), None]
                unscaled = (kept[0] * (own + weight)) @ rows
            else:
                place = ctx.start, len(out), ctx.apart, ctx.bounded
                unscaled = OPERATORS.row_logsumexp_backward(rows, every, gradients, *place)
        return ctx.scale * unscaled, None, None


def _row_logsumexp(rows: Tensor, start: int, count: int, apart: int, bounded: bool) -> Tensor:
    """l of rows start to start + count of `rows`, the rows of all processes times T^(-1/2)."""
    out = rows.new_full((len(rows),), 0 if bounded else -math.inf)
    for i, j, mirrored, s in _tiles(rows, start, start + count, apart):
        if bounded:
            s.exp_()
            out[i] += s.sum(1)
            if mirrored:
                out[j] += s.sum(0)
        else:
            out[i] = torch.logaddexp(out[i], s.logsumexp(1))
            if mirrored:
                out[j] = torch.logaddexp(out[j], s.logsumexp(0))
    own = out[start : start + count]
    return own.log() if bounded else own.clone()


def _row_logsumexp_backward(
    rows: Tensor, logsumexp: Tensor, gradient: Tensor, start: int, count: int, apart: int, bounded: bool
) -> Tensor:
    """sum_j (g_i p_ij + g_j p_ji) u_j of the same rows, from l and g of all rows."""
    weight = gradient * (-logsumexp).exp() if bounded else gradient
    out = torch.zeros_like(rows)
    for i, j, mirrored, s in _tiles(rows, start, start + count, apart):
        if bounded:
            s = s.exp_().mul_(weight[i, None] + weight[j])
        else:
            s = weight[i, None] * (s - logsumexp[i, None]).exp() + weight[j] * (s - logsumexp[j]).exp()
        out[i].addmm_(s, rows[j])
        if mirrored:
            out[j].addmm_(s.T, rows[i])
    return out[start : start + count].clone()


def _tiles(rows: Tensor, start: int, stop: int, apart: int) -> Iterator[tuple[slice, slice, bool, Tensor]]:
    """Row range i, column range j, whether the tile also stands for (j, i), and rows[i] rows[j]^T, -inf for pairs left out.

    All pairs of a row from start to stop with any row. The tile is overwritten by the next.
    """
    height, width = CPU_TILE if rows.device.type == "cpu" else DEVICE_TILE
    height, width = min(height, stop - start), min(width, len(rows))
    buffer = rows.new_empty(height * max(height, width))
    for top in range(start, stop, height):
        i = slice(top, min(top + height, stop))
        others = ((0, start, False), (i.stop, stop, True), (stop, len(rows), False))
        columns = [(slice(k, min(k + width, end)), own) for begin, end, own in others for k in range(begin, end, width)]
        for j, mirrored in [(i, False), *columns]:
            a, b = rows[i], rows[j]
            s = torch.mm(a, b.T, out=buffer[: len(a) * len(b)].view(len(a), len(b)))
            if mirrored or i is j:
                _leave_out(s, i.start - j.start, apart)
            yield i, j, mirrored, s


def _leave_out(s: Tensor, offset: int, apart: int) -> None:
    """-inf for pairs of rows 0 or `apart` from each other, in a tile whose first row is `offset` after its first column."""
    for distance in {0, apart, -apart}:
        if -s.shape[0] < offset + distance < s.shape[1]:
            s.diagonal(offset + distance).fill_(-math.inf)


# Operators, so that torch.compile takes each as one node instead of unrolling the tiles. `torch.library.custom_op` would say the same in
# fewer lines, but its first call imports the compiler: two seconds and 75 MB.
OPERATORS = torch.ops.grassmann_ssl
_PLACE = "int start, int count, int apart, bool bounded"
torch.library.define("grassmann_ssl::row_logsumexp", f"(Tensor rows, {_PLACE}) -> Tensor")
torch.library.impl("grassmann_ssl::row_logsumexp", "CompositeExplicitAutograd", _row_logsumexp)
torch.library.define(
    "grassmann_ssl::row_logsumexp_backward", f"(Tensor rows, Tensor logsumexp, Tensor gradient, {_PLACE}) -> Tensor"
)
torch.library.impl("grassmann_ssl::row_logsumexp_backward", "CompositeExplicitAutograd", _row_logsumexp_backward)


@torch.library.register_fake("grassmann_ssl::row_logsumexp")  # type: ignore[untyped-decorator]  # torch gives it no types
def _(rows: Tensor, start: int, count: int, apart: int, bounded: bool) -> Tensor:
    return rows.new_empty(count)


@torch.library.register_fake("grassmann_ssl::row_logsumexp_backward")  # type: ignore[untyped-decorator]  # torch gives it no types
def _(rows: Tensor, logsumexp: Tensor, gradient: Tensor, start: int, count: int, apart: int, bounded: bool) -> Tensor:
    return rows.new_empty(count, rows.shape[1])
