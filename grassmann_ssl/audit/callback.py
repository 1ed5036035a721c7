"""What the callbacks of training frameworks share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from grassmann_ssl.audit.judgement import Judgement
from grassmann_ssl.audit.monitor import CollapseMonitor, CollapseWarning
from grassmann_ssl.audit.result import CollapseError

LOGGED = ("dimensions_used", "low", "high", "live_least", "live_most", "total_variance", "concentration", "modes")


class AttachedMonitor:
    """A monitor on a submodule of a model that a framework trains; `on_collapse` may be "stop" too: warn, and set `stopped`.

    Every training has its own `monitor`. Raises ValueError as `CollapseMonitor` does.
    """

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        self.module = module
        self.options = {**options, "on_collapse": self._stop} if options.get("on_collapse") == "stop" else options
        self.monitor = CollapseMonitor(**self.options)
        self.stopped = False

    def begin(self, model: nn.Module) -> None:
        """Attach a new monitor."""
        self.monitor.detach()  # of a training that ended by an error
        self.monitor, self.stopped = CollapseMonitor(**self.options), False
        self.monitor.attach(model, self.module, judge=False)

    def end_step(self, step: int, log: Callable[[dict[str, float]], object]) -> None:
        """Judge where that is due; log numbers that are known, also before an error. Raises CollapseError where that is asked for."""
        known = len(self.monitor.judgements)
        try:
            self.monitor.end_step(step)
        except CollapseError:
            self.monitor.detach()
            raise
        finally:
            if len(self.monitor.judgements) > known:
                last = self.monitor.judgements[-1]
                numbers = {f"collapse/{name}": float(getattr(last, name)) for name in LOGGED}
                log({name: value for name, value in numbers.items() if math.isfinite(value)})

    def _stop(self, found: Judgement) -> None:
        warnings.warn(f"{found}; training stops", CollapseWarning, stacklevel=2)
        self.stopped = True
