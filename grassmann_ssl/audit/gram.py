"""Sums of products of rows over units and over pairs of blocks of units, from one Gram matrix on the smaller side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, one_hot

from grassmann_ssl.audit.rows import CHUNK, wide
from grassmann_ssl.metrics.pairs import on_sphere

HELD = 2**27  # entries of centred rows that are held at a time: 512 MiB in float32
STRIP = (
    128  # rows of a symmetric matrix formed at a time, from the diagonal on: what is left of it is their mirror image
)
TINY = 1e-15  # rows shorter than this may lose their squares to underflow in float32


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
class Directions:
    """Sums over the units of each block, u_g the mean of z / ||z|| over unit g; zero rows have no direction and stay 0.

    sums     (B, D) of u_g
    alike    (B,) of |u_g|^2
    lengths  (B,) of the share of rows of a unit that have a direction
    """

    sums: Tensor
    alike: Tensor
    lengths: Tensor


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
    directions: Directions

    @property
    def whole(self) -> float:
        """|A|^2."""
        return float(self.pairs.sum()) + self.own


def products(z: Tensor, mean: Tensor, length: Tensor, units: Units, dtype: torch.dtype) -> Products:
    """The sums for rows z (N, D) of this mean (D,) and these lengths (N,).

    The Gram matrix is formed in `dtype`, sums of its entries in float64.
    """
    sums = _Sums.of_none(units, z, length)
    return (_by_rows if len(z) <= z.shape[1] else _by_columns)(z, mean, units, dtype, sums)


def _by_rows(z: Tensor, mean: Tensor, units: Units, dtype: torch.dtype, sums: _Sums) -> Products:
    every, rows = torch.arange(len(z), device=z.device), wide(z).to(dtype)
    sums.add_directions(every, rows)
    x = _centred(rows, mean, units, every)
    gram = _symmetric(x)
    values = torch.linalg.eigvalsh(gram)
    few = units.place[units.number] < _half(units.blocks)

    def half() -> Tensor:
        own = gram[few][:, few]
        own = own - own.mean(0)
        found: Tensor = torch.linalg.eigvalsh(own - own.mean(1, keepdim=True))
        return found

    member = one_hot(units.place, units.blocks).T.to(dtype)
    if units.single:
        halves = gram.new_zeros(units.blocks, len(x))
        for start in range(0, len(x), STRIP):
            strip = slice(start, start + STRIP)
            squares = gram[strip].square()
            squares.diagonal(start).zero_()
            halves.addmm_(member[:, strip], squares)
        inner = (member @ gram).double() @ member.T.double()
        return _of_single(values, half, halves @ member.T, inner, gram.diagonal().double(), sums)
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
        directions=sums.directions(),
    )


def _by_columns(z: Tensor, mean: Tensor, units: Units, dtype: torch.dtype, sums: _Sums) -> Products:
    d = z.shape[1]
    portions = _portions(units, max(1, HELD // d))

    def centred() -> Iterator[list[tuple[int, Tensor]]]:
        for rows in portions:
            held = []
            for block, own in _by_block(rows, units):
                x = wide(z.index_select(0, own)).to(dtype)  # z[own] takes four times as long
                sums.add_directions(own, x, block)
                x = _centred(x, mean, units, own, out=x)
                sums.add_products(own, x, block)
                held.append((block, x))
            yield held

    pairs = torch.zeros(units.blocks, units.blocks, dtype=torch.float64, device=z.device)
    half, whole = (torch.zeros(d, d, dtype=dtype, device=z.device) for _ in range(2))  # of A, from the diagonal on
    few = _half(units.blocks)
    for start, strip in _strips(centred(), len(portions), units.blocks, half):
        rows = slice(start, start + strip.shape[1])
        half[rows, start:], whole[rows, start:] = strip[:few].sum(0), strip[few:].sum(0)
        # Each entry above the diagonal stands for two.
        strip.triu_().diagonal(dim1=1, dim2=2).mul_(0.5**0.5)
        flat = strip.flatten(1)
        pairs += 2 * (flat @ flat.T).double()
    whole += half
    values = torch.linalg.eigvalsh(whole, UPLO="U")

    def of_half() -> Tensor:
        found: Tensor = torch.linalg.eigvalsh(half, UPLO="U")
        return found

    if units.single:
        own = units.over_blocks(sums.trace().square())
        return _of_single(values, of_half, pairs - own.diag(), sums.s @ sums.s.T, sums.trace(), sums)
    s, trace = sums.s, sums.trace()
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
        directions=sums.directions(),
    )


def _of_single(
    values: Tensor, half: Callable[[], Tensor], pairs: Tensor, inner: Tensor, trace: Tensor, sums: _Sums
) -> Products:
    """Where every row is a unit, x = s_g and A_g = x x^T; `inner` of all pairs."""
    pairs = pairs.double()
    own = float(trace.square().sum())
    whole = float(pairs.sum()) + own
    return Products(
        eigenvalues=values,
        half=half,
        pairs=pairs,
        inner=inner - sums.of.over_blocks(trace).diag(),
        trace=trace,
        own=own,
        length=float(trace.sum()),
        across=whole,
        within=own,
        outer=whole,
        fourth=own,
        mixed=own,
        directions=sums.directions(),
    )


@dataclass
class _Sums:
    """Sums over rows that are no products of two units; (K, D): of every block where every row is a unit, else of every unit."""

    of: Units
    short: bool  # some rows are too short to be divided by their length: they are put on the sphere
    towards: Tensor  # (N,) weight / ||z||, 0 where z is 0; the weight where rows are put on the sphere
    pointing: Tensor  # (N,) weight, 0 where z is 0
    s: Tensor  # (K, D) of s_g,
    u: Tensor  # and of u_g, as in `Directions`
    own: Tensor  # (G,) |A_g|^2, where units are not single
    within: float  # sum s_g^T A_g s_g
    norms: list[tuple[Tensor, Tensor]]  # rows, and their lengths

    @classmethod
    def of_none(cls, units: Units, z: Tensor, length: Tensor) -> _Sums:
        short = bool((length < TINY).any())
        parts = torch.split(z, max(1, CHUNK // z.shape[1]))
        pointing = units.weight * torch.cat([rows.any(1) for rows in parts]) if short else units.weight
        none, kept = length.new_zeros(0), units.blocks if units.single else units.count
        return cls(
            units,
            short=short,
            towards=pointing if short else pointing / length,
            pointing=pointing,
            s=none.new_zeros(kept, z.shape[1]),
            u=none.new_zeros(kept, z.shape[1]),
            own=none.new_zeros(units.count),
            within=0.0,
            norms=[],
        )

    def add(self, sums: Tensor, own: Tensor, rows: Tensor, weight: Tensor, block: int | None = None) -> None:
        """To sums (K, D), those of the rows `own`, each times its weight; all of them are in `block`, if that is given."""
        if not self.of.single:
            sums.index_add_(0, self.of.number[own], (rows * weight[:, None]).double())
        elif block is not None:
            sums[block] += weight @ rows
        else:
            place = self.of.place[self.of.number[own]]
            order, size = place.argsort(), torch.bincount(place, minlength=self.of.blocks)
            # A product with a matrix of as many rows as blocks takes three times as long.
            sums += embedding_bag(order, rows, size.cumsum(0) - size, mode="sum", per_sample_weights=weight[order])

    def add_directions(self, own: Tensor, z: Tensor, block: int | None = None) -> None:
        """The directions of rows z."""
        self.add(self.u, own, on_sphere(z) if self.short else z, self.towards[own].to(z.dtype), block)

    def add_products(self, own: Tensor, x: Tensor, block: int) -> None:
        """What is to be known of rows x, from which no Gram matrix of rows is made."""
        self.norms.append((own, torch.linalg.vector_norm(x, dim=1)))
        if self.of.single:
            return self.add(self.s, own, x, x.new_ones(len(x)), block)
        number, x = self.of.number[own], x.double()
        part = x * self.of.weight[own].sqrt()[:, None]
        self.s.index_add_(0, number, part)
        for members in _of_one_size(number):
            unit = x[members]
            self.own[number[members[:, 0]]] += torch.linalg.matrix_norm(unit @ unit.mT).square()
            self.within += float((unit @ part[members].sum(1, keepdim=True).mT).square().sum())

    def trace(self) -> Tensor:
        """(G,) tr A_g of the rows of `add_products`."""
        own, norms = (torch.cat(parts) for parts in zip(*self.norms, strict=True))
        return self.s.new_zeros(self.of.count).index_add_(0, self.of.number[own], norms.double().square())

    def directions(self) -> Directions:
        """Of the rows of `add_directions`."""
        lengths = self.of.over_blocks(self.of.over_units(self.pointing))
        if self.of.single:
            return Directions(self.u, lengths, lengths)
        sums = self.u.new_zeros(self.of.blocks, self.u.shape[1]).index_add_(0, self.of.place, self.u)
        return Directions(sums, self.of.over_blocks(self.u.square().sum(1)), lengths)


def _half(blocks: int) -> int:
    """How many blocks are half of them."""
    return (blocks + 1) // 2


def _centred(rows: Tensor, mean: Tensor, units: Units, own: Tensor, out: Tensor | None = None) -> Tensor:
    """sqrt(weight) (z - mean) of the rows `own`: the sum of their squares over a unit is A_g."""
    x = torch.sub(rows, mean.to(rows.dtype), out=out)  # near the mean the difference is exact
    return x if units.single else x.mul_(units.weight[own, None].sqrt().to(x.dtype))


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
