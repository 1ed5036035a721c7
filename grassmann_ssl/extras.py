"""Libraries that not everyone needs: imported when they are first used, and where one is missing, what brings it."""

from importlib import import_module
from typing import Any


def extra(name: str, user: str) -> Any:
    """The library that the extra of its name brings. Raises ImportError, which names it and its user, where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{user} needs {name}; to get it: pip install 'grassmann_ssl[{name}]'") from error
