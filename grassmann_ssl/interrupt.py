"""Ctrl-C in a training: what was recorded until then travels with the exception. After it: Ctrl-C waits until that is written."""

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The KeyboardInterrupt of a training that recorded something after its start: `recorded`, what it would have returned, until then.

    Its text is the last recorded step: "after step 40 of 60". Whoever does not ask for `recorded` sees a KeyboardInterrupt like any other.
    """

    def __init__(self, recorded: Any, done: int, steps: int) -> None:
        super().__init__(f"after step {done} of {steps}")
        self.recorded = recorded


class Patience:
    """Ctrl-C while something short must not be lost: the first is remembered until `end`, the second raises KeyboardInterrupt at once.

    `run` arms it, and the parts of a run begin and end it. Without effect outside of the main thread, and where somebody else answers
    the signal.
    """

    def __init__(self) -> None:
        self._armed = self._waiting = self._pressed = False

    def arm(self) -> None:
        """Let `begin` take effect, until `disarm`."""
        self._armed = True

    def begin(self) -> None:
        """From now on Ctrl-C waits."""
        ours = self._armed and threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._remember)
            self._waiting, self._pressed = True, False

    def end(self) -> bool:
        """From now on Ctrl-C raises; whether one was waiting."""
        pressed, self._pressed = self._pressed, False
        if self._waiting:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._waiting = False
        return pressed

    def disarm(self) -> bool:
        """As `end`, for good."""
        self._armed = False
        return self.end()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            self.end()
            raise KeyboardInterrupt
        self._pressed = True
        print("Ctrl-C: what was recorded is compared and written first; press it again to lose that", file=sys.stderr)


# Signals belong to the process, and so does this.
patience = Patience()
