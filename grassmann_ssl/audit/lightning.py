"""The collapse monitor as a callback of Lightning: of lightning, or of pytorch_lightning where that alone is loaded or there."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch

from grassmann_ssl.audit.callback import AttachedMonitor
from grassmann_ssl.audit.monitor import CollapseMonitor

PACKAGES = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)


def _base() -> Any:
    missing: ImportError | None = None
    for name in PACKAGES:
        try:
            return import_module(name).Callback
        except ImportError as error:
            missing = error
    raise ImportError(
        "grassmann_ssl.audit.lightning needs lightning; to get it: pip install 'grassmann_ssl[lightning]'"
    ) from missing


Callback = _base()


class LightningCollapse(Callback):  # type: ignore[misc, valid-type]  # one of two packages
    """`CollapseMonitor` on the submodule `module` of a LightningModule while it is fitted; options are those of the monitor.

    A step is one of the optimizers (`trainer.global_step`). Numbers go to the loggers and to `callback_metrics` as
    collapse/dimensions_used and so on. on_collapse may be "stop" too: warn, and end the fit in order. `monitor` holds the judgements.
    Raises ValueError as the monitor does.
    """

    def __init__(self, module: str, **options: Any) -> None:
        self._attached = AttachedMonitor(module, options)

    @property
    def monitor(self) -> CollapseMonitor:
        """The monitor of this fit, or of the last one."""
        return self._attached.monitor

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach."""
        self._attached.begin(pl_module)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Judge where that is due."""

        def log(numbers: dict[str, float]) -> None:
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in numbers.items()})
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)

        self._attached.end_step(trainer.global_step, log)
        trainer.should_stop = trainer.should_stop or self._attached.stopped

    def on_train_end(self, *_: Any) -> None:
        """Detach."""
        self.monitor.detach()

    def on_exception(self, *_: Any) -> None:
        """Detach."""
        self.monitor.detach()
