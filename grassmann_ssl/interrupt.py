"""Ctrl-C in a training: what was recorded until then travels with the exception."""

from typing import Any


class Interrupted(KeyboardInterrupt):
    """The KeyboardInterrupt of a training that recorded something after its start: `recorded`, what it would have returned, until then.

    Its text is the last recorded step: "after step 40 of 60". Whoever does not ask for `recorded` sees a KeyboardInterrupt like any other.
    """

    def __init__(self, recorded: Any, done: int, steps: int) -> None:
        super().__init__(f"after step {done} of {steps}")
        self.recorded = recorded
