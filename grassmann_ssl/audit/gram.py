"""Sums of products of rows over units and over pairs of blocks of units, from one Gram matrix on the smaller side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grassmann_ssl.audit.rows import wide

HELD = 2**27  # entries of centred rows that are held at a time: 512 MiB in float32
STRIP = (
    128  # rows of a symmetric matrix formed at a time, from the diagonal on: what is left of it is their mirror image
)


@dataclass(frozen=True)
class Units:
    """Rows in independent units, and units in blocks.

    number  (N,) the unit of every row
    weight  (N,) 1 / (rows of its unit)
    place   (G,) the block of every unit
    blocks  how many blocks there are
    """

    number: Tensor
    weight: Tensor
    place: Tensor
    blocks: int

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(self.place)

    @property
    def single(self) -> bool:
        """Whether every row is a unit."""
        return self.count == len(self.number)

    def over_blocks(self, values: Tensor) -> Tensor:
        """Sums (B,) of values (G,) over the units of each block."""
        return values.new_zeros(self.blocks).index_add_(0, self.place, values)

    def over_units(self, values: Tensor) -> Tensor:
        """Sums (G, ...) of values (N, ...) over the rows of each unit."""
        return values.new_zeros(self.count, *values.shape[1:]).index_add_(0, self.number, values)


@dataclass(frozen=True)
class Products:
    """Sums over units, with A, A_g and s_g as in `sample_of`."""

    eigenvalues: Tensor  # of A
    half: Callable[[], Tensor]  # of the part of A that comes from half of the units
    pairs: Tensor  # (B, B) of tr A_g A_h over pairs of different units,
    inner: Tensor  # and of s_g . s_h
    trace: Tensor  # (G,) tr A_g
    own: float  # sum |A_g|^2
    length: float  # sum |s_g|^2
    across: float  # sum s_g^T A s_g
    within: float  # sum s_g^T A_g s_g
    outer: float  # |sum s_g s_g^T|^2
    fourth: float  # sum |s_g|^4
    mixed: float  # sum |s_g|^2 tr A_g

    @property
    def whole(self) -> float:
        """|A|^2."""
        return float(self.pairs.sum()) + self.own


def products(z: Tensor, mean: Tensor, units: Units, dtype: torch.dtype) -> Products:
    """The sums for rows z (N, D) of this mean (D,). The Gram matrix is formed in `dtype`, sums of its entries in float64."""
    return (_by_rows if len(z) <= z.shape[1] else _by_columns)(z, mean, units, dtype)


def _by_rows(z: Tensor, mean: Tensor, units: Units, dtype: torch.dtype) -> Products:
    every = torch.arange(len(z), device=z.device)
    x = _centred(z, mean, units, every, dtype)
    gram = _symmetric(x)
    values = torch.linalg.eigvalsh(gram)
    few = units.place[units.number] < _half(units.blocks)

    def half() -> Tensor:
        own = gram[few][:, few]
        own = own - own.mean(0)
        found: Tensor = torch.linalg.eigvalsh(own - own.mean(1, keepdim=True))
        return found

    member = torch.nn.functional.one_hot(units.place, units.blocks).T.to(dtype)
    if units.single:
        halves = gram.new_zeros(units.blocks, len(x))
        for rows in torch.split(every, STRIP):
            squares = gram[rows].square()
            squares[every[: len(rows)], rows] = 0
            halves += member[:, rows] @ squares
        return _of_single(values, half, halves @ member.T, member @ x, gram.diagonal().double(), units)
    member, gram, share = member.double(), gram.double(), units.weight.sqrt()
    trace = units.over_units(gram.diagonal())
    mixed = units.over_units(gram * share[:, None])  # (G, N) of s_g . x_i
    inner = units.over_units((mixed * share).T)  # (G, G) of s_g . s_h
    table = units.over_units(units.over_units(gram.square()).T)  # (G, G) of tr A_g A_h
    own, lengths = table.diagonal(), inner.diagonal()
    return Products(
        eigenvalues=values,
        half=half,
        pairs=member @ table @ member.T - units.over_blocks(own).diag(),
        inner=member @ inner @ member.T - units.over_blocks(lengths).diag(),
        trace=trace,
        own=float(own.sum()),
        length=float(lengths.sum()),
        across=float(mixed.square().sum()),
        within=float(mixed[units.number, every].square().sum()),
        outer=float(inner.square().sum()),
        fourth=float(lengths.square().sum()),
        mixed=float(lengths @ trace),
    )


def _by_columns(z: Tensor, mean: Tensor, units: Units, dtype: torch.dtype) -> Products:
    d = z.shape[1]
    sums = _Sums.of_none(units, d, z.device)
    portions = _portions(units, max(1, HELD // d))

    def centred() -> Iterator[list[tuple[int, Tensor]]]:
        for rows in portions:
            held = []
            for block, own in _by_block(rows, units):
                x = _centred(z, mean, units, own, dtype)
                sums.add(block, units.number[own], x, units.weight[own].sqrt())
                held.append((block, x))
            yield held

    pairs = torch.zeros(units.blocks, units.blocks, dtype=torch.float64, device=z.device)
    half, whole = (torch.zeros(d, d, dtype=dtype, device=z.device) for _ in range(2))  # of A, from the diagonal on
    few = _half(units.blocks)
    for start, strip in _strips(centred(), len(portions), units.blocks, half):
        rows, flat = slice(start, start + strip.shape[1]), strip.flatten(1)
        square = strip[:, :, : strip.shape[1]].flatten(1)  # holds both triangles of A
        pairs += (2 * (flat @ flat.T) - square @ square.T).double()
        half[rows, start:], whole[rows, start:] = strip[:few].sum(0), strip[few:].sum(0)
    whole += half
    values = torch.linalg.eigvalsh(whole, UPLO="U")

    def of_half() -> Tensor:
        found: Tensor = torch.linalg.eigvalsh(half, UPLO="U")
        return found

    if units.single:
        own = units.over_blocks(sums.trace.square())
        return _of_single(values, of_half, pairs - own.diag(), sums.blocks, sums.trace, units)
    s, trace = sums.units, sums.trace
    lengths, moment = s.square().sum(1), s.T @ s
    block_sums = s.new_zeros(units.blocks, d).index_add_(0, units.place, s)
    return Products(
        eigenvalues=values,
        half=of_half,
        pairs=pairs - units.over_blocks(sums.own).diag(),
        inner=block_sums @ block_sums.T - units.over_blocks(lengths).diag(),
        trace=trace,
        own=float(sums.own.sum()),
        length=float(lengths.sum()),
        across=float(((whole.triu() + whole.triu(1).T).double() * moment).sum()),
        within=sums.within,
        outer=float(moment.square().sum()),
        fourth=float(lengths.square().sum()),
        mixed=float(lengths @ trace),
    )


def _of_single(
    values: Tensor, half: Callable[[], Tensor], pairs: Tensor, block_sums: Tensor, trace: Tensor, units: Units
) -> Products:
    """Where every row is a unit, x = s_g and A_g = x x^T."""
    pairs, block_sums = pairs.double(), block_sums.double()
    own = float(trace.square().sum())
    whole = float(pairs.sum()) + own
    return Products(
        eigenvalues=values,
        half=half,
        pairs=pairs,
        inner=block_sums @ block_sums.T - units.over_blocks(trace).diag(),
        trace=trace,
        own=own,
        length=float(trace.sum()),
        across=whole,
        within=own,
        outer=whole,
        fourth=own,
        mixed=own,
    )


@dataclass
class _Sums:
    """Sums over rows that are no products of two units."""

    of: Units
    trace: Tensor  # (G,) tr A_g
    own: Tensor  # (G,) |A_g|^2, and
    units: Tensor  # (G, D) s_g, where units are not single
    blocks: Tensor  # (B, D) sums of s_g over the units of a block, where they are
    within: float = 0.0  # sum s_g^T A_g s_g

    @classmethod
    def of_none(cls, units: Units, d: int, device: torch.device) -> _Sums:
        grouped, none = 0 if units.single else units.count, torch.zeros(0, dtype=torch.float64, device=device)
        return cls(
            units,
            trace=none.new_zeros(units.count),
            own=none.new_zeros(grouped),
            units=none.new_zeros(grouped, d),
            blocks=none.new_zeros(units.blocks, d),
        )

    def add(self, block: int, number: Tensor, x: Tensor, share: Tensor) -> None:
        """Rows x of a block, of these units; `share` is sqrt(weight)."""
        self.trace.index_add_(0, number, torch.linalg.vector_norm(x, dim=1).double().square())
        if self.of.single:
            self.blocks[block] += x.new_ones(len(x)) @ x
            return
        x = x.double()
        part = x * share[:, None]
        self.units.index_add_(0, number, part)
        for members in _of_one_size(number):
            unit = x[members]
            self.own[number[members[:, 0]]] += torch.linalg.matrix_norm(unit @ unit.mT).square()
            self.within += float((unit @ part[members].sum(1, keepdim=True).mT).square().sum())


def _half(blocks: int) -> int:
    """How many blocks are half of them."""
    return (blocks + 1) // 2


def _centred(z: Tensor, mean: Tensor, units: Units, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """sqrt(weight) (z - mean) of some rows: the sum of their squares over a unit is A_g."""
    x = wide(z[rows]).to(dtype).sub_(mean.to(dtype))  # in the copy; near the mean the difference is exact
    return x if units.single else x.mul_(units.weight[rows, None].sqrt().to(dtype))


def _symmetric(x: Tensor) -> Tensor:
    """x x^T."""
    n = len(x)
    product = x.new_empty(n, n)
    for start in range(0, n, STRIP):
        rows, rest = slice(start, start + STRIP), slice(start + STRIP, n)
        product[rows, start:] = x[rows] @ x[start:].T
        product[rest, rows] = product[rows, rest].T
    return product


def _portions(units: Units, size: int) -> list[Tensor]:
    """Rows to be held together: all, if there are at most `size`; else as many in their order, and whole blocks of larger units."""
    rows = torch.arange(len(units.number), device=units.number.device)
    if units.single or len(rows) <= size:
        return list(torch.split(rows, size))
    of_row = units.place[units.number]
    return [rows[of_row == block] for block in range(units.blocks)]


def _by_block(rows: Tensor, units: Units) -> Iterator[tuple[int, Tensor]]:
    """The rows of each block that there are."""
    place = units.place[units.number[rows]]
    sizes = torch.bincount(place, minlength=units.blocks).tolist()
    for block, own in enumerate(torch.split(rows[place.argsort(stable=True)], sizes)):
        if len(own):
            yield block, own


def _strips(
    portions: Iterator[list[tuple[int, Tensor]]], count: int, blocks: int, like: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Rows from `start` on, and columns from there on, of the scatter matrices of all blocks: (B, STRIP, D - start), each until the next.

    Of one portion a strip is finished before the next begins; of several all of them grow together.
    """
    d = len(like)
    shapes = {start: (blocks, min(STRIP, d - start), d - start) for start in range(0, d, STRIP)}

    def grow(strip: Tensor, start: int, rows: list[tuple[int, Tensor]], kept: int) -> Tensor:
        for block, x in rows:
            strip[block].addmm_(x[:, start : start + strip.shape[1]].T, x[:, start:], beta=kept)
        return strip

    if count == 1:
        rows = next(portions)
        room = like.new_empty(math.prod(shapes[0]))  # new memory for each strip would cost as much as forming it
        for start, shape in shapes.items():
            yield start, grow(room[: math.prod(shape)].view(shape), start, rows, 0)
        return
    strips = {start: like.new_zeros(shape) for start, shape in shapes.items()}
    for rows in portions:
        for start, strip in strips.items():
            grow(strip, start, rows, 1)
    yield from strips.items()


def _of_one_size(number: Tensor) -> list[Tensor]:
    """Rows of each unit (k, T), for every number T of rows that units have."""
    order = number.argsort(stable=True)
    _, sizes = torch.unique_consecutive(number[order], return_counts=True)
    starts = sizes.cumsum(0) - sizes
    return [
        order[starts[sizes == size][:, None] + torch.arange(int(size), device=number.device)] for size in sizes.unique()
    ]
