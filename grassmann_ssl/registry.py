"""Things by name: each is declared in the file that defines it, and found here by whoever lists, checks or makes it."""

import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

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


def nearest(name: object, known: Iterable[str]) -> str:
    """What a message says after the known names: "; did you mean X?" with the nearest of them, nothing where none is near."""
    found = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def is_own(name: str) -> bool:
    """Whether a name is that of a user's own thing, PACKAGE.MODULE:NAME."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def own(name: str, needed: bool = True) -> Any:
    """What a name PACKAGE.MODULE:NAME stands for, in a module that Python finds, or that lies in the working directory.

    Raises ValueError where there is no such module or name, where importing it fails, and where it cannot be called and that is `needed`.
    """
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
    except Exception as error:  # whatever the module raises
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{name}: {module} cannot be imported: {type(error).__name__}: {reason}") from None
    finally:
        sys.path.remove(here)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [one for one in vars(found) if not one.startswith("_")]
            raise ValueError(f"{name}: {module} has no {attribute!r}{nearest(attribute, known)}")
        found = getattr(found, part)
    if needed and not callable(found):
        raise ValueError(f"{name} must be callable, got {type(found).__name__}")
    return found
