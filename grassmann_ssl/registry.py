"""Things by name: each is declared in the file that defines it, and found here by whoever lists, checks or makes it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

Thing = TypeVar("Thing")


class Registry(dict[str, Thing]):
    """Declared things by name, in the order of their declaration. Indexing with an unknown name raises the ValueError of `unknown`.

    kind  what a message calls one of them: objective, constraint, ...
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, name: str, thing: Thing) -> Thing:
        """Declare a thing under a name and return it. Raises ValueError where the name is taken."""
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is declared twice")
        self[name] = thing
        return thing

    def __missing__(self, name: str) -> Thing:
        raise ValueError(unknown(self.kind, name, self))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is none of the known ones: it suggests the nearest of them, and lists them all."""
    names = list(known)
    nearest = get_close_matches(name, names, n=1)
    suggestion = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {kind} {name!r}: known are {', '.join(names)}{suggestion}"
