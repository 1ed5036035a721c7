"""What a command shows: its result on stdout, errors and progress on stderr. A stream that fails never ends a run."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

LINES = "\n\t"
EVERY = 60.0
"""seconds between two lines of progress where stderr is no terminal"""


class _Lines(tqdm):  # type: ignore[misc]
    """Progress as whole lines, for logs: no carriage return, nothing that is erased."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.n:
            say(str(self))
        return True


class ProgressBar:
    """Progress on stderr, from the first step until the last or until it is closed: a bar on a terminal, elsewhere a line every minute."""

    bar: tqdm | None = None

    def __call__(self, total: int, unit: str = "step") -> Callable[..., None]:
        self.bar = None
        failed = False

        def tick(label: str, steps: int = 1) -> None:
            nonlocal failed
            if failed:
                return
            try:
                if self.bar is None:
                    self.bar = _bar(total, unit)
                if self.bar.desc != label + ": ":
                    self.bar.set_description(label, refresh=False)
                self.bar.update(steps)
                if self.bar.n >= total:
                    self.close()
            except (OSError, ValueError):  # a stream that fails or is closed
                failed = True

        return tick

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self.bar is not None:
            try:
                self.bar.close()
            except (OSError, ValueError):
                pass
            self.bar = None  # what ticks next has a bar of its own


def _bar(total: int, unit: str) -> tqdm:
    if sys.stderr.isatty():
        return tqdm(total=total, unit=unit, unit_scale=True, leave=False, mininterval=0.3, smoothing=0.05)
    silent = io.StringIO()  # tqdm's own carriage returns end here
    return _Lines(total=total, unit=unit, unit_scale=True, file=silent, mininterval=EVERY, delay=EVERY, miniters=1)


progress = ProgressBar()


def steady() -> None:
    """Make both streams safe to write to: closed ones lead nowhere, and letters that their encoding lacks are written as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def printed(text: str, kept: str = "") -> bool:
    """Print a result. Where stdout fails, that and what is `kept` all the same is said on stderr, and False returned."""
    try:
        print(plain(text, LINES), flush=True)
    except (OSError, ValueError) as error:
        unprinted(error, kept)
        return False
    return True


def unprinted(error: Exception, kept: str = "") -> None:
    """Say on stderr why stdout could not be written, and what is `kept` all the same."""
    _lead_nowhere(sys.stdout)
    reason = error.strerror if isinstance(error, OSError) else error
    say(f"grassmann-ssl: stdout cannot be written: {reason}{kept}")


def say(text: str) -> None:
    """A line on stderr, where that can be written."""
    try:
        print(plain(text, LINES), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _lead_nowhere(sys.stderr)


def plain(text: str, kept: str = "") -> str:
    """Text with escapes for what a terminal would obey, such as an ESC or an end of line in the name of a file, but for what is `kept`."""
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text)


def _lead_nowhere(stream: Any) -> None:
    """What is still in the buffer of a stream that failed goes nowhere, or the end of the process would fail on it."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass
