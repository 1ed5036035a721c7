"""Things by name: each is declared in the file that defines it, and found here by whoever lists, checks or makes it."""

import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
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


METHODS = {
    "simclr": "nt_xent",
    "sigreg": "lejepa",
    "simsiam": "negative_cosine, with a predictor",
    "byol": "negative_cosine, with a predictor and a teacher",
}
"""methods of the literature that are known here by their loss"""


def nearest(name: object, known: Iterable[str]) -> str:
    """What a message says after the known names: "; did you mean X?" with the nearest of them, nothing where none is near."""
    known = list(known)
    method = METHODS.get(str(name).lower(), "")
    if method.partition(",")[0] in known:
        return f"; did you mean {method}?"
    found = get_close_matches(str(name), known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


WORDS = {"true": True, "false": False, "none": None}


def parted(name: str) -> tuple[str, dict[str, Any]]:
    """A name and the options after it: "vicreg:variance=10:covariance=2" is vicreg, with variance 10 and covariance 2.

    Values are numbers, true, false, none, or text. Raises ValueError for an option that is no NAME=VALUE, or is given twice.
    """
    base, texts = _split(name)
    options: dict[str, Any] = {}
    for part in texts:
        option, equals, text = (one.strip() for one in part.partition("="))
        if not equals or not option.isidentifier() or option in options:
            fault = f"{option} is given twice" if option in options else f"{part!r} is not NAME=VALUE"
            raise ValueError(f"{name}: {fault}; options follow the name, each after a colon")
        options[option] = _value(text)
    return base, options


def _split(name: str) -> tuple[str, list[str]]:
    """What comes before the first part with an equals sign, and the parts from there on."""
    parts = name.split(":")
    first = next((k for k, part in enumerate(parts) if "=" in part), len(parts))
    return ":".join(parts[:first]), parts[first:]


def _value(text: str) -> Any:
    """What the text of an option stands for."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def with_options(name: str, options: dict[str, Any]) -> str:
    """The inverse of `parted`."""
    said = {value: text for text, value in WORDS.items()}
    texts = (
        f"{key}={said[value] if isinstance(value, (bool, type(None))) else value}" for key, value in options.items()
    )
    return ":".join([name, *texts])


def is_own(name: str) -> bool:
    """Whether a name is that of a user's own thing, PACKAGE.MODULE:NAME, with options after it or not."""
    module, colon, attribute = _split(name)[0].partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def own(name: str, needed: bool = True) -> Any:
    """What a name PACKAGE.MODULE:NAME stands for, in a module that Python finds, or that lies in the working directory.

    Options after the name are those of the function: what it stands for has them bound. Raises ValueError where there is no such module or
    name, where importing it fails, where it cannot be called and that is `needed`, and for an option that it does not take.
    """
    base, options = parted(name)
    module, _, attribute = base.partition(":")
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
    if (needed or options) and not callable(found):
        raise ValueError(f"{name} must be callable, got {type(found).__name__}")
    return partial(found, **_taken(found, options, base)) if options else found


def _taken(function: Any, options: dict[str, Any], name: str) -> dict[str, Any]:
    """The options, which the function takes by name. Raises ValueError for one that it does not."""
    parameters = signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        for option in options.keys() - set(known):
            raise ValueError(
                f"{name} has no option {option!r}: it takes {', '.join(known) or 'none'}{nearest(option, known)}"
            )
    return options
