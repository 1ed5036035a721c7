"""Signals in a run: what was recorded until then travels with the exception, and what is short is finished first."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

# What is answered here: Ctrl-C, and the ends that terminals and clusters announce. Nothing where somebody else answers it, or ignores it.
DEFAULT: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
WRITING = "what was recorded is compared and written first; press it again to lose that"
STEP = "the run ends after this step; once more ends it at once"


class Interrupted(KeyboardInterrupt):
    """The KeyboardInterrupt of a training that recorded something after its start: `recorded`, what it would have returned, until then.

    Its text is the last recorded step: "after step 40 of 60". Whoever does not ask for `recorded` sees a KeyboardInterrupt like any other.
    """

    def __init__(self, recorded: Any, done: int, steps: int) -> None:
        super().__init__(f"after step {done} of {steps}")
        self.recorded = recorded


class Again(KeyboardInterrupt):
    """Ctrl-C for the second time, while the first one waited or was answered: nothing is kept but what is on the disk."""


class Terminated(SystemExit):
    """SIGTERM or SIGHUP: the process ends with the exit code 128 + its number. `where` says what that leaves."""

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(128 + number)
        self.number, self.name = number, signal.Signals(number).name
        self.where = where


class Patience:
    """Signals while something short must not be lost: the first is remembered until it is asked for, the second ends the run at once.

    `run` arms it, and the parts of a run begin and end it. In between a signal is an exception at once: KeyboardInterrupt of Ctrl-C, else
    Terminated. Without effect outside of the main thread, and where somebody else answers the signal.
    """

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._says: str | None = None
        self._pressed: int | None = None
        self._answered = False

    def arm(self) -> None:
        """Answer signals, until `disarm`."""
        if threading.current_thread() is threading.main_thread():
            for number, default in DEFAULT.items():
                if signal.getsignal(number) == default:
                    signal.signal(number, self._answer)
                    self._taken.append(number)

    def begin(self, says: str = WRITING) -> None:
        """From now on the first signal waits, and `says` what for; unless one was answered before."""
        if self._taken and not self._answered:
            self._says = says

    def end(self) -> bool:
        """From now on a signal is an exception; whether Ctrl-C was waiting. Raises Terminated if another one was."""
        pressed, self._pressed, self._says = self._pressed, None, None
        if pressed not in (None, signal.SIGINT):
            raise Terminated(pressed)
        return pressed is not None

    @property
    def waiting(self) -> bool:
        """Whether a signal waits."""
        return self._pressed is not None

    def answer(self, where: str) -> None:
        """Raise the waiting signal; what comes after it does not wait."""
        pressed, self._pressed, self._says = self._pressed, None, None
        self._answered = True
        if pressed == signal.SIGINT:
            raise KeyboardInterrupt
        if pressed is not None:
            raise Terminated(pressed, where)

    def disarm(self) -> int | None:
        """Leave signals to others; the one that was waiting."""
        for number in self._taken:
            signal.signal(number, DEFAULT[number])
        pressed = self._pressed
        self._taken, self._says, self._pressed, self._answered = [], None, None, False
        return pressed

    def _answer(self, number: int, frame: FrameType | None) -> None:
        again = self._pressed is not None or self._answered
        if self._says is not None and not again:
            self._pressed = number
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            try:
                print(f"{name}: {self._says}", file=sys.stderr)
            except (OSError, RuntimeError, ValueError):  # closed, or written to right now
                pass
        elif number == signal.SIGINT:
            raise Again if again else KeyboardInterrupt
        else:
            raise Terminated(number)


# Signals belong to the process, and so does this.
patience = Patience()
