"""Many small systems at once: every cell of a grid of starts and settings advances in one tensor program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from grassmann_ssl.interrupt import Interrupted
from grassmann_ssl.shown import Shown
from grassmann_ssl.training.recorder import Recorder

State = dict[str, Tensor]
Rule = Callable[..., Mapping[str, Tensor]]
Fixed = dict[str, Tensor | float]
Recorded = tuple[Tensor, State]  # the logged steps of a chunk, and the states at them, on the host
Step = Callable[[State, Fixed, float], State]

GIBIBYTE = 2**30
LIVE_COPIES = 16  # of the state, alive at once in a step: the stages of Runge-Kutta and the temporaries of a rule
CACHE = 2**18  # bytes of state in a chunk beyond which a CPU waits for its memory


@dataclass(frozen=True, repr=False)
class Simulation(Shown):
    """States (K, N, ...) at the K logged steps, on the host, and their times (K,)."""

    step: Tensor
    time: Tensor
    states: State

    def __getitem__(self, name: str) -> Tensor:
        return self.states[name]


def simulate(
    rule: Rule,
    state: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor | float] | None = None,
    *,
    step: float,
    steps: int,
    method: str = "rk4",
    log_every: int | None = None,
    memory: int = GIBIBYTE,
    compiled: bool = False,
    on_step: Callable[[int], object] = lambda cells: None,
) -> Simulation:
    """Advance N cells together: dx/dt = rule(x) by Runge-Kutta 4 with a fixed step, or x <- x + step rule(x).

    `state` names tensors (N, ...), one leading index a cell; `parameters` are tensors (N, ...) that stay as they are, one entry a
    cell, or numbers shared by all. rule(**state, **parameters) returns the derivative of every state, as tensors of their shapes;
    it must treat cells apart, and nothing in it may wait for the device. Device and dtype are those of the state.
    Logs step 0, every `log_every`-th and the last; without it only the last. Time = step x number of steps.
    `memory` (bytes) bounds the device memory in use: cells advance in chunks that fit, on a CPU into its cache too.
    `compiled` fuses each step by torch.compile: 10 to 20 s and a C++ compiler the first time, several times faster afterwards for long or
    repeated simulations of many small cells. Results agree to rounding.
    A cell that blows up ends as inf or nan in its own entries and leaves the others as they are.
    `on_step` is called after every step of a chunk with the number of its cells: N x steps in all.
    Raises ValueError where shapes disagree, nothing is to be done, or one cell does not fit into the memory; and Interrupted, a
    KeyboardInterrupt that carries the steps logged until Ctrl-C, if every cell has some beyond the start.
    """
    if method not in ("rk4", "discrete"):
        raise ValueError(f"method must be 'rk4' or 'discrete', got {method!r}")
    if not (step > 0 and step < float("inf")):
        raise ValueError(f"step must be positive and finite, got {step}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if log_every is not None and log_every < 1:
        raise ValueError(f"log_every must be at least 1, got {log_every}")
    constants = dict(parameters or {})
    cells = _cells(state, constants)
    advance = _advance(rule, method, compiled)
    logged = {k for k in range(steps + 1) if k == steps or (log_every is not None and k % log_every == 0)}
    size = _chunk_size(state, len(logged), memory, compiled)
    parts: list[Recorded] = []
    for first in range(0, cells, size):
        part = slice(first, first + size)
        x = {name: value[part].clone() for name, value in state.items()}
        fixed = {name: value[part] if isinstance(value, Tensor) else value for name, value in constants.items()}
        recorder = Recorder(logged)
        try:
            _run(advance, x, fixed, step, steps, recorder, on_step)
        except KeyboardInterrupt:
            if first + size < cells or not recorder.done:  # some cells have no step yet
                raise
            raise Interrupted(_joined([*parts, recorder.stacked()], step), recorder.done, steps) from None
        parts.append(recorder.stacked())
    return _joined(parts, step)


def _joined(parts: list[Recorded], step: float) -> Simulation:
    """The cells of all chunks, at the steps that the last of them has logged."""
    counts = parts[-1][0]
    states = {name: torch.cat([kept[name][: len(counts)] for _, kept in parts], 1) for name in parts[0][1]}
    return Simulation(counts, counts.double() * step, states)


@torch.no_grad()
def _run(
    advance: Step, x: State, fixed: Fixed, step: float, steps: int, recorder: Recorder, on_step: Callable[[int], object]
) -> None:
    cells = len(next(iter(x.values())))
    for k in range(steps + 1):
        if recorder.due(k):
            recorder.record(k, **x)
        if k < steps:
            x = advance(x, fixed, step)
            on_step(cells)


@lru_cache(maxsize=64)  # a rule that was compiled stays so
def _advance(rule: Rule, method: str, compiled: bool) -> Step:
    """One step of a rule."""

    def runge_kutta(x: State, fixed: Fixed, step: float) -> State:
        total = dict(rule(**x, **fixed))
        slope: Mapping[str, Tensor] = total
        for weight, fraction in ((2, 0.5), (2, 0.5), (1, 1.0)):
            slope = rule(**{name: torch.add(x[name], slope[name], alpha=fraction * step) for name in x}, **fixed)
            total = {name: torch.add(total[name], slope[name], alpha=weight) for name in x}
        return {name: torch.add(x[name], total[name], alpha=step / 6) for name in x}

    def euler(x: State, fixed: Fixed, step: float) -> State:
        slope = rule(**x, **fixed)
        return {name: torch.add(x[name], slope[name], alpha=step) for name in x}

    advance = runge_kutta if method == "rk4" else euler
    return torch.compile(advance) if compiled else advance


def _cells(state: Mapping[str, Tensor], parameters: Mapping[str, Tensor | float]) -> int:
    if not state:
        raise ValueError("state must name at least one tensor")
    counts = {name: value.shape[0] if value.ndim else None for name, value in state.items()}
    cells = next(iter(counts.values()))
    if cells is None or cells == 0 or any(count != cells for count in counts.values()):
        raise ValueError(f"state needs tensors (N, ...) of one N >= 1, got leading sizes {counts}")
    for name, value in parameters.items():
        if isinstance(value, Tensor) and (value.ndim == 0 or value.shape[0] != cells):
            raise ValueError(f"parameters[{name!r}] needs a leading size of {cells}, got shape {tuple(value.shape)}")
    return cells


def _chunk_size(state: Mapping[str, Tensor], logged: int, memory: int, compiled: bool) -> int:
    per_cell = sum(value[0].numel() * value.element_size() for value in state.values())
    size = memory // (per_cell * (LIVE_COPIES + logged))
    if size < 1:
        raise ValueError(f"memory must hold one cell, {per_cell * (LIVE_COPIES + logged)} bytes, got {memory}")
    if next(iter(state.values())).device.type == "cpu" and not compiled:
        size = min(size, max(1, CACHE // per_cell))
    return size
