"""The collapse monitor as a callback of Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

from grassmann_ssl.audit.callback import AttachedMonitor
from grassmann_ssl.audit.monitor import CollapseMonitor

try:
    from transformers import TrainerCallback as TrainerCallback
except ImportError as error:
    raise ImportError(
        "grassmann_ssl.audit.transformers needs transformers; to get it: pip install 'grassmann_ssl[transformers]'"
    ) from error


class TrainerCollapse(TrainerCallback):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
    """`CollapseMonitor` on the submodule `module` of the model of a Trainer; options are those of the monitor.

        trainer.add_callback(TrainerCollapse(trainer, "projector"))

    A step is one of the optimizer (`global_step`). Numbers go through `trainer.log` as collapse/dimensions_used and so on: callbacks get no
    trainer of their own. on_collapse may be "stop" too: warn, and end the training in order. `monitor` holds the judgements.
    Raises ValueError as the monitor does.
    """

    def __init__(self, trainer: Any, module: str, **options: Any) -> None:
        self._trainer = trainer
        self._attached = AttachedMonitor(module, options)

    @property
    def monitor(self) -> CollapseMonitor:
        """The monitor of this training, or of the last one."""
        return self._attached.monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach."""
        self._attached.begin(given["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Judge where that is due."""
        due = control.should_log
        self._attached.end_step(state.global_step, self._trainer.log)
        control.should_log = due  # trainer.log takes it for done
        control.should_training_stop = control.should_training_stop or self._attached.stopped

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Detach."""
        self.monitor.detach()
