"""Settings in TOML files: read, checked against the fields of a config, and written."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from grassmann_ssl.registry import nearest
from grassmann_ssl.runs.config import ConfigError, RunConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXPERIMENT = "experiment"
# What the folder is to do with a run that it holds is said with each command anew, and is no part of the settings that a file keeps.
MOST_PARTS = 64
ONCE = ("overwrite", "resume")


def dumps(experiment: str, values: Mapping[str, Any]) -> str:
    """The settings of an experiment as the text of a TOML file; those that are None, and `overwrite` and `resume`, are left out."""
    kept = {EXPERIMENT: experiment} | {name: value for name, value in values.items() if name not in ONCE}
    return "".join(f"{name} = {_written(value)}\n" for name, value in kept.items() if value is not None)


def _written(value: Any) -> str:
    """A value in TOML. Its strings are those of JSON but for one control character; inf and nan are words of both Python and TOML."""
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_written(k)} = {_written(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, Iterable):
        return "[" + ", ".join(map(_written, value)) + "]"
    return repr(value)


def parsed(text: str) -> dict[str, Any]:
    """The content of a text in TOML. Raises ValueError where it is none, and where it is nested deeper than any settings are."""
    bare = text.translate({ord(mark): None for mark in "\"' \t"})
    # For a dotted key of n parts tomllib takes memory of n squared.
    if any(piece.partition("#")[0].count(".") > MOST_PARTS for piece in re.split(r"[=\[\]{},\n]", bare)):
        raise ValueError(f"a key has more than {MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ConfigError where it cannot be read or is not TOML."""
    if not path.is_file():
        raise ConfigError(f"config: {path} is not a file")
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not even text
        raise ConfigError(f"config: {path} is not TOML: {str(error).splitlines()[0]}") from None


def load(path: Path, config_type: type[RunConfig]) -> dict[str, Any]:
    """The settings by name that a TOML file gives for an experiment, of the types of its fields.

    Raises ConfigError, which names file and key: for a file that cannot be read, of another experiment, an unknown name, a wrong type.
    """
    return settings(read(path), config_type, f"config: {path}")


def settings(content: Mapping[str, Any], config_type: type[RunConfig], place: str) -> dict[str, Any]:
    """As `load`, of the content of a file that is called `place`."""
    experiment = content.get(EXPERIMENT, config_type.NAME)
    if experiment != config_type.NAME:
        raise ConfigError(f"{place} holds settings of {experiment!r}, not of {config_type.NAME!r}")
    return {
        name: fitted(config_type, name, value, f"{place}: ") for name, value in content.items() if name != EXPERIMENT
    }


def fitted(config_type: type[RunConfig], name: str, value: Any, place: str = "") -> Any:
    """The value of a setting, as TOML gives it, in the type of its field. Raises ConfigError, which begins with `place`."""
    kinds = {one.name: one.type for one in config_type.known()}
    if name not in kinds:
        raise ConfigError(f"{place}{config_type.NAME} has no setting {name!r}{nearest(name, tuple(kinds))}")
    try:
        return _fit(value, kinds[name])
    except TypeError:
        raise ConfigError(f"{place}{name} must be {_described(kinds[name])}, got {value!r}") from None


def from_text(config_type: type[RunConfig], name: str, text: str) -> Any:
    """The value of a setting from the words of a command line: none, a number, true or false, a name, or several of them.

    Raises ConfigError as `fitted` does.
    """
    words = [_word(word) for word in text.split()]
    for value in ([None] if text.lower() == "none" else []) + [_word(text), text, words, text.split()]:
        try:
            return fitted(config_type, name, value)
        except ConfigError:
            pass
    return fitted(config_type, name, _word(text))


def _word(text: str) -> Any:
    try:
        return parsed(f"word = {text}")["word"]
    except (ValueError, KeyError):
        return text


def _fit(value: Any, kind: Any) -> Any:
    """The value in this type. Raises TypeError where it is of another."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for one in arguments:
            try:
                return _fit(value, one)
            except TypeError:
                pass
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(map(_fit, value, kinds))
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif kind is Path:
        if isinstance(value, (str, Path)):
            return Path(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise TypeError


WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    Path: "a path in quotes",
}


def _described(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_described(one) for one in arguments if one is not NoneType)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values, each {_described(arguments[0])}"
    if origin is tuple:
        return f"a list of values, each {_described(arguments[0])}"
    return WORDS.get(kind, str(kind))
