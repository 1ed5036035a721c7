"""Things by name: each is declared in the file that defines it, and found here by whoever lists, checks or makes it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeVar

Thing = TypeVar("Thing")


class Registry(dict[str, Thing]):
    """Declared things by name, in the order of their declaration. Indexing with an unknown name raises
    a ValueError that lists the known ones and suggests the nearest.

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
        raise ValueError(f"unknown {self.kind} {name!r}: known are {', '.join(self)}{nearest(name, self)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What a message says after the known names: "; did you mean X?" with the nearest of them, nothing where none is near."""
    found = get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
