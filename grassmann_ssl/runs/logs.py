"""Numbers of a training while it goes on, for TensorBoard and Weights & Biases. A log that fails never ends a run."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from grassmann_ssl.distributed import writes
from grassmann_ssl.runs.config import ConfigError, RunConfig, choice
from grassmann_ssl.streams import plain, say

Tell = Callable[[int, Mapping[str, float]], None]
PATIENCE = 30
"""seconds that W&B may take to begin, and to send what is left at the end; `wandb sync` sends the rest later"""


@dataclass(frozen=True)
class Open:
    """An open log: where it is, and what writes the numbers of a step and closes it."""

    at: str
    write: Tell
    close: Callable[[], object]


def _tensorboard(folder: Path, name: str, settings: Mapping[str, Any]) -> Open:
    """Event files in a folder of their own, in `tensorboard` beside the run folders."""
    from torch.utils.tensorboard import SummaryWriter

    at = folder.parent / "tensorboard" / name
    writer = SummaryWriter(at)

    def write(step: int, numbers: Mapping[str, float]) -> None:
        for tag, value in numbers.items():
            writer.add_scalar(tag, value, step)
        writer.flush()  # what cannot be written is known now

    return Open(str(at), write, writer.close)


def _wandb(folder: Path, name: str, settings: Mapping[str, Any]) -> Open:
    """A run of W&B, its files in `wandb` beside the run folders."""
    import wandb

    settled = wandb.Settings(
        console="off", silent=True, login_timeout=PATIENCE, init_timeout=PATIENCE, finish_timeout=PATIENCE
    )
    wandb.setup(settled)  # or it would wait for a key to be typed for good
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "grassmann_ssl"),
        name=name,
        config={key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
        dir=folder.parent,
        reinit="create_new",
        settings=settled,
    )
    at = str(Path(run.dir).parent) if run.offline else str(run.url)
    return Open(at, lambda step, numbers: run.log(dict(numbers), step=step), run.finish)


LOGS: dict[str, Callable[[Path, str, Mapping[str, Any]], Open]] = {"tensorboard": _tensorboard, "wandb": _wandb}


@dataclass(frozen=True, kw_only=True)
class LoggedConfig(RunConfig):
    """Settings of a run whose trainings can be watched. Raises ConfigError for a log whose extra is not installed."""

    log: tuple[Annotated[str, choice(LOGS)], ...] = ()
    """logs of loss, ranks and eigenvalues while it trains: tensorboard, wandb, or both"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_one_of("log", LOGS)
        for name in self.log:
            if find_spec(name) is None:
                raise ConfigError(f"log: {name} is not installed: pip install 'grassmann_ssl[{name}]'")


class Logs:
    """The logs of a run, of each of its trainings one: where they are, and why some are not whole."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._names = dict.fromkeys(config.log if isinstance(config, LoggedConfig) and writes() else ())
        self._start = datetime.now().strftime("%Y%m%d-%H%M%S")
        self.at: dict[str, list[str]] = {name: [] for name in self._names}
        self.lost: dict[str, str] = {}

    def record(self) -> dict[str, Any]:
        """What run.json says of them: `logs`, where they are, and `unlogged`, what is missing in them; nothing where there are none."""
        return {"logs": self.at, "unlogged": "; ".join(self.lost.values()) or None} if self._names else {}

    @contextmanager
    def of(self, training: str = "") -> Iterator[Tell]:
        """What is told the numbers of a training of this name, by step. A log that raises is said, once, and left out from then on."""
        name = re.sub(r"[^\w=,.+-]+", "-", f"{self._config.folder.name}-{self._start} {training}".strip())
        step = 0
        opened: dict[str, Open] = {}

        def attempt(log: str, act: Callable[[], object]) -> None:
            if log in self.lost:
                return
            try:
                act()
            except Exception as error:  # whatever another library finds to raise
                reason = (str(error).splitlines() or [""])[0].rstrip(". ") or type(error).__name__
                self.lost[log] = plain(f"{log}: nothing is logged from step {step} on: {reason}")
                if training:
                    self.lost[log] = f"{plain(training)}, {self.lost[log]}"
                say(f"{self.lost[log]}; the run goes on")

        def begin(log: str) -> None:
            opened[log] = LOGS[log](self._config.folder, name, self._config.values())
            self.at[log].append(opened[log].at)

        def tell(now: int, numbers: Mapping[str, float]) -> None:
            nonlocal step
            step = now
            for log, one in opened.items():
                attempt(log, partial(one.write, now, numbers))

        for log in self._names:
            attempt(log, partial(begin, log))
        try:
            yield tell
        finally:
            for log, one in opened.items():
                attempt(log, one.close)
