"""Batches of views from any iterable, such as a DataLoader: by the number of the step, divided among processes, the same when resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from grassmann_ssl.data.augment import keyed_generator
from grassmann_ssl.data.randomness import GlobalRandomness
from grassmann_ssl.distributed import Process

NO_VIEWS = ("mask", "label", "target", "type_ids")  # in the keys of what dicts hold beside views
EPOCH_KEY, LOOKED_AT = 3, 2**40  # of the order of an epoch; the number of the pass that is looked at, beyond all epochs
Source = Iterable[Any] | Callable[[], Iterable[Any]]
Pick = Callable[[Any], Sequence[Tensor]] | Sequence[int | str] | None


@dataclass(frozen=True)
class Loaded:
    """Views of batches that come from an iterable, or from a function that returns one, as often as they are gone through.

    pick  from a batch to its views: a function, or the places or keys of the views; None: the tensors (n, ...) with two or more axes, of
          the batch, or of its first entry where that is a list of its own, as in (views, labels)
    seed  decides all random numbers of Python, numpy and torch that the iterable draws, and a DataLoader's own generator: epoch k is the
          same whatever ran before
    """

    data: Source
    seed: int
    process: Process
    pick: Pick = None

    def __post_init__(self) -> None:
        iterable = self._opened()
        if not isinstance(iterable, Iterable):
            raise ValueError(
                f"it must be an iterable of batches of views, such as a DataLoader, got {type(iterable).__name__}"
            )
        if isinstance(iterable, Iterator) and not callable(self.data):
            raise ValueError(
                f"a {type(iterable).__name__} can be gone through once only: give a DataLoader, a list, or a function that returns one"
            )
        if type(getattr(iterable, "sampler", None)).__name__ == "DistributedSampler":
            raise ValueError(
                "it has a DistributedSampler, and every batch is divided among the processes here: leave it out"
            )
        self._check_last_batch(iterable)

    def _check_last_batch(self, loader: Any) -> None:
        """Raise ValueError for a DataLoader whose last batch is one row, or cannot be shared by the processes."""
        size, rows = getattr(loader, "batch_size", None), getattr(loader, "sampler", None)
        if not size or getattr(loader, "drop_last", True) or not isinstance(rows, Sized):
            return
        last = len(rows) % size
        if last == 1 or last % self.process.count:
            reason = (
                "which no loss compares" if last == 1 else f"which {self.process.count} processes cannot share equally"
            )
            raise ValueError(
                f"the last batch of an epoch has {last} row{'s' * (last > 1)}, {reason}: give the DataLoader drop_last=True"
            )

    def __len__(self) -> int:
        """Batches of an epoch. Raises TypeError where the iterable does not know."""
        return len(self._opened())  # type: ignore[arg-type]  # it may have a length or not

    def epoch(self, number: int, whole: bool = False) -> Iterator[tuple[Tensor, ...]]:
        """The views of the batches of an epoch, the rows of this process or the `whole` batch, on its device; bytes as pixels in [0, 1]."""
        GlobalRandomness(self.process.device).seed(self.seed, number)
        iterable = self._opened()
        generator = getattr(iterable, "generator", None)
        if isinstance(generator, torch.Generator):
            key = keyed_generator(seed=self.seed, step=number, rank=0, view=EPOCH_KEY, device="cpu").initial_seed()
            generator.manual_seed(key)
        owner: Any
        for owner in (iterable, getattr(iterable, "sampler", None), getattr(iterable, "batch_sampler", None)):
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(number)
        for batch in iterable:
            yield tuple(self._ready(x, whole) for x in views_of(batch, self.pick))

    def looked_at(self, rows: int) -> Iterator[tuple[Tensor, ...]]:
        """The views of the first rows of an epoch of its own, whatever was drawn before, and without a trace in the random states."""
        randomness = GlobalRandomness(self.process.device)
        with randomness.kept():
            for views in self.epoch(LOOKED_AT, whole=True):
                yield tuple(x[:rows] for x in views)
                rows -= len(views[0])
                if rows <= 0:
                    break

    def steps(self, parts: int = 1) -> Steps:
        """The views of every step, in `parts` batches each."""
        return Steps(self, parts)

    def _opened(self) -> Iterable[Any]:
        iterable: Iterable[Any] = self.data() if callable(self.data) else self.data
        return iterable

    def _ready(self, x: Tensor, whole: bool) -> Tensor:
        own = x if whole or self.process.count == 1 else x[self.process.rows(len(x))]
        own = own.to(self.process.device, non_blocking=True)
        return own.float() / 255 if own.dtype == torch.uint8 else own


class Steps:
    """`steps(step, part)`: the views of a batch, epoch after epoch. Batches that come before the first one asked for are passed over."""

    def __init__(self, loaded: Loaded, parts: int) -> None:
        self.loaded, self.parts = loaded, parts
        self._next, self._epoch = 0, -1
        self._batches: Iterator[tuple[Tensor, ...]] = iter(())

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, ...]:
        index = step * self.parts + part
        if index != self._next:
            self._pass_over(index)
        self._next += 1
        return self._batch()

    def _batch(self) -> tuple[Tensor, ...]:
        for views in self._batches:
            return views
        self._epoch += 1
        self._batches = self.loaded.epoch(self._epoch)
        for views in self._batches:
            return views
        raise ValueError(f"data: epoch {self._epoch} has no batch")

    def _pass_over(self, index: int) -> None:
        """Go to where the batch before that of the index was taken: what a resumed training draws next is what it would have drawn."""
        with GlobalRandomness(self.loaded.process.device).kept():
            try:
                self._epoch, places = divmod(index - 1, len(self.loaded))
                self._batches = self.loaded.epoch(self._epoch)
                for _ in islice(self._batches, places + 1):
                    pass
            except TypeError:  # of no known length
                self._epoch, self._batches = -1, iter(())
                for _ in range(index):
                    self._batch()
        self._next = index


def views_of(batch: Any, pick: Pick = None) -> tuple[Tensor, ...]:
    """The views of a batch, tensors of equally many rows. Raises ValueError, saying what the batch holds, for fewer than two."""
    if pick is None:
        entries = batch if isinstance(batch, (list, tuple)) else _values_of(batch)
        if entries and isinstance(entries[0], (list, tuple)):
            entries = entries[0]
        found = [x for x in entries if _is_view(x)]
    elif callable(pick):
        found = _picked(batch, pick)
    elif isinstance(pick, (str, int)):
        raise ValueError(
            f"views must be places or keys of a batch, or a function from a batch to its views, got {pick!r}"
        )
    else:
        try:
            found = [batch[one] for one in pick]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"views = {list(pick)!r} are not in a batch of {described(batch)}") from None
    if len(found) < 2:
        raise ValueError(
            f"a batch must hold two views or more, tensors (n, ...) of two axes or more, got {described(batch)}; `views` says which "
            "they are, or makes them"
        )
    kinds = [(x.shape, x.dtype) for x in found if pick is None or _is_view(x)]
    if len(kinds) < len(found) or kinds[1:] != kinds[:-1] or len(found[0]) < 2:
        _check_unlike(found)
    return tuple(found)


def _check_unlike(found: Sequence[Any]) -> None:
    """Raise ValueError for views that are not of one kind, unless they are smaller crops, and for those of one row."""
    for x in found:
        if not _is_view(x) or x.shape[0] != found[0].shape[0] or x.dtype != found[0].dtype:
            raise ValueError(
                f"the views of a batch must be tensors (n, ...) of one n and one type, got {described(found)}; `views` says which they are"
            )
    if len(found[0]) < 2:
        raise ValueError(
            f"a batch has one row, which no loss compares: {described(found)}; leave it out, as drop_last=True does"
        )
    if any(x.shape != found[0].shape for x in (found if found[0].ndim == 2 else found[1:2])):
        raise ValueError(
            f"the first two views must have one shape, and all where rows are vectors, got {described(found)}; smaller crops come after "
            "whole views; `views` says which they are"
        )


def _picked(batch: Any, pick: Callable[[Any], Sequence[Tensor]]) -> list[Tensor]:
    """The views that the user's function makes of a batch."""
    try:
        found = pick(batch)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"views fails on a batch of {described(batch)}: {type(error).__name__}: {reason}") from error
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"views must return a tuple or list of views, got {described(found)}")
    return list(found)


def _values_of(batch: Any) -> list[Any]:
    """What a dict holds; nothing of what is none. Raises ValueError where its keys say that a tensor may be no view."""
    if not isinstance(batch, Mapping):
        return []
    unclear = [
        str(key) for key, x in batch.items() if _is_view(x) and any(word in str(key).lower() for word in NO_VIEWS)
    ]
    if unclear:
        raise ValueError(
            f"a batch holds {described(batch)}, and {', '.join(unclear)} may be no view: say which are, views=(NAME, NAME)"
        )
    return list(batch.values())


def described(batch: Any) -> str:
    """What a batch holds, in short."""
    if isinstance(batch, Tensor):
        kind = "" if batch.layout is torch.strided else "sparse "
        return f"{kind}{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {described(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, (list, tuple)):
        return "(" + ", ".join(described(x) for x in batch[:6]) + (", ..." if len(batch) > 6 else "") + ")"
    return type(batch).__name__


def fingerprint_of(views: Iterable[tuple[Tensor, ...]]) -> str:
    """Of batches of views: equal for equal ones alone."""
    found = hashlib.blake2b(digest_size=8)
    for batch in views:
        for x in batch:
            found.update(f"{x.dtype} {tuple(x.shape)}".encode())
            found.update(x.contiguous().reshape(-1).view(torch.uint8).numpy(force=True).tobytes())
    return found.hexdigest()


def _is_view(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim >= 2 and x.shape[0] > 0 and x.layout is torch.strided
