"""The audit over time, in a training loop that is there already."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grassmann_ssl.audit.buffer import RowBuffer
from grassmann_ssl.audit.judgement import Array, Judgement, judgement_of
from grassmann_ssl.audit.result import CollapseError
from grassmann_ssl.audit.rows import as_rows
from grassmann_ssl.audit.rule import Rule
from grassmann_ssl.audit.trend import State, risen_dimensions, trend_of
from grassmann_ssl.distributed import process_count
from grassmann_ssl.extras import extra
from grassmann_ssl.registry import nearest

if TYPE_CHECKING:
    import pandas as pd

GROWTH = 1.1  # from one judgement to the next, where they are evenly spaced in log steps


class CollapseWarning(UserWarning):
    """Embeddings of a training run have collapsed, or are not finite; the message says how, and whether they still change."""


class CollapseMonitor:
    """Judges the last rows of a training run as `audit_embeddings` does, now and then, and acts where they have collapsed.

    rows         how many of the last rows are judged. Memory: rows x D in the dtype of the batches, on their device, whatever number of
                 batches; a few times that and three matrices of side min(rows, D) while it judges
    every        judge every so many steps; None: 10 % more steps each time
    directions   judge z / ||z||, as in `audit_embeddings`; `rule` holds the thresholds
    on_collapse  "warn" (CollapseWarning), "raise" (CollapseError) or a function of the `Judgement`
    patience     it acts when so many judgements in a row say collapsed, or find no finite row, once until one says "none"

    Networks that have not learned yet use few dimensions, and more of them while they learn; from small weights the first one outgrows all
    others. So it waits while it is too early to tell a trend, and with dimensional collapse alone while more dimensions are used or the
    variance outgrows what there was; with complete collapse it never waits. The first rows that are not finite are left out with a warning.
    In several processes the rows of all are judged together, and all act alike; each must take the same steps.
    Raises ValueError, one line that names the argument.
    """

    def __init__(
        self,
        *,
        rows: int = 1024,
        every: int | None = None,
        directions: bool = False,
        rule: Rule | None = None,
        on_collapse: Literal["warn", "raise"] | Callable[[Judgement], object] = "warn",
        patience: int = 3,
    ) -> None:
        if rows < 2:
            raise ValueError(f"rows must be at least 2, got {rows}: one row has no variance")
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if not callable(on_collapse) and on_collapse not in ("warn", "raise"):
            raise ValueError(f"on_collapse must be 'warn', 'raise' or a function, got {on_collapse!r}")
        self.every, self.directions, self.rule = every, directions, rule or Rule()
        self.on_collapse, self.patience = on_collapse, patience
        self.judgements: list[Judgement] = []
        self._buffer = RowBuffer(rows)
        self._first: int | None = None
        self._step, self._due = 0, 0
        self._in_a_row, self._acted, self._left_out = 0, False, False
        self._spectrum: Array | None = None  # at the first judgement
        self._largest = 0.0
        self._handle: Any = None

    @property
    def history(self) -> pd.DataFrame:
        """A frame of pandas, one row for each judgement."""
        rows = [{**asdict(one), "kinds": ", ".join(one.kinds)} for one in self.judgements]
        columns = [one.name for one in fields(Judgement)]
        frame: pd.DataFrame = extra("pandas", "CollapseMonitor.history").DataFrame(rows, columns=columns)
        return frame

    @property
    def step(self) -> int:
        """The last step that was over; 0 before the first."""
        return self._step

    @property
    def state(self) -> State:
        """Whether dimensions used are "changing" or "settled", by `trend_of`, or it is "too early" to tell."""
        return self.judgements[-1].state if self.judgements else "too early"

    @property
    def modes(self) -> int:
        """How many dimensions have risen since the first judgement, by `risen_dimensions`."""
        return self.judgements[-1].modes if self.judgements else 0

    def add(self, z: Any) -> None:
        """Keep rows z (n, D), or (n, T, D) whose tokens are averaged; does not wait for the device. Raises ValueError for other z."""
        if getattr(z, "ndim", 2) not in (2, 3):
            raise ValueError(f"z must have shape (n, D), or (n, T, D) with T tokens, got {tuple(z.shape)}")
        self._buffer.add(as_rows(z, "mean" if getattr(z, "ndim", 2) == 3 else None)[0])

    def update(self, z: Any, step: int | None = None) -> Judgement | None:
        """`add`, then `end_step`: one call a step. The judgement, where one was due."""
        self.add(z)
        return self.end_step(step)

    def end_step(self, step: int | None = None) -> Judgement | None:
        """A step is over, by default the one after the last: judge if that is due. Rows of one step may come in several `add`.

        Raises ValueError for a step before the last, CollapseError where that is asked for.
        """
        step = self._step + 1 if step is None else int(step)
        if self._first is None:
            self._first = step
        elif step < self._step:
            raise ValueError(f"step must not be before the last one, {self._step}, got {step}")
        self._step = step
        return self.judge() if step - self._first >= self._due else None

    def judge(self) -> Judgement:
        """Judge now, and act. In several processes all must call it. Raises ValueError before the first row."""
        past = self.judgements
        one, spectrum = judgement_of(self._buffer.last(), self._step, self.rule, self.directions)
        if spectrum is not None:
            self._spectrum = spectrum if self._spectrum is None else self._spectrum
            self._largest = max(self._largest, float(spectrum[0]))
            one = replace(one, modes=risen_dimensions(spectrum, self._spectrum, self._largest))
        seen = [*past, one] if not past or past[-1].step < one.step else [*past[:-1], one]
        # Rows without any variance use no dimension; as one, they are on a log scale.
        used = [1.0 if "complete" in each.kinds else each.dimensions_used for each in seen]
        past_modes, variances = [each.modes for each in seen], [each.total_variance for each in seen]
        trend = trend_of([each.step for each in seen], used, past_modes, variances)
        one = replace(one, state=trend.state, change=trend.change, growing=trend.growing)
        self.judgements = [*seen[:-1], one]
        elapsed = self._step - (self._first or 0) + 1
        self._due = (
            max(elapsed + 1, math.ceil(GROWTH * elapsed)) - 1 if self.every is None else elapsed - 1 + self.every
        )
        self._act(one)
        return one

    def attach(self, model: nn.Module, name: str, *, judge: bool = True) -> CollapseMonitor:
        """Update with every output of the submodule `name` of `model.named_modules()`, in training mode; returns the monitor, for `with`.

        Outputs are (n, D), or (n, T, D) whose tokens are averaged. Every forward pass is a step; with judge=False its rows are kept only,
        and `end_step` is called by hand. Raises ValueError for an unknown name, and where it is attached already; the forward
        pass raises it for other outputs.
        """
        if self._handle is not None:
            raise ValueError("the monitor is attached already: detach() it first")
        known = dict(model.named_modules())
        if name not in known:
            raise ValueError(f"the model has no submodule {name!r}{nearest(name, filter(None, known))}")

        def keep(module: nn.Module, inputs: object, output: object) -> None:
            if not module.training:
                return
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"the output of {name!r} must be a tensor, got {type(output).__name__}: attach to a submodule that returns one"
                )
            (self.update if judge else self.add)(output)

        # Compilers of the model are not to look inside.
        hook = torch.compiler.disable(keep)  # type: ignore[no-untyped-call]  # torch gives it no types
        self._handle = known[name].register_forward_hook(hook)
        return self

    def detach(self) -> None:
        """Take the hook off again; nothing happens where there is none."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def __enter__(self) -> CollapseMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        return f"CollapseMonitor({self.judgements[-1] if self.judgements else 'nothing judged yet'})"

    def _act(self, one: Judgement) -> None:
        if one.left_out and not self._left_out and not one.broken:
            self._left_out = True
            warnings.warn(str(one), CollapseWarning, stacklevel=5)
        self._in_a_row = self._in_a_row + 1 if one.kinds or one.broken else 0
        if one.kind == "none":
            self._acted = False
        over = one.broken or "complete" in one.kinds
        waits = not over and (one.state == "too early" or (one.growing and one.kinds == ("dimensional",)))
        ready = self._in_a_row >= self.patience and not self._acted and not waits
        if not self._agreed(ready):
            return
        self._acted = True
        if callable(self.on_collapse):
            self.on_collapse(one)
        elif self.on_collapse == "raise":
            raise CollapseError(str(one))
        else:
            warnings.warn(str(one), CollapseWarning, stacklevel=5)

    def _agreed(self, ready: bool) -> bool:
        """What the first process says: rounding on different devices must not part them."""
        if process_count() == 1:
            return ready
        flag = torch.tensor([int(ready)], device=self._buffer.device)
        dist.broadcast(flag, 0)
        return bool(flag)
