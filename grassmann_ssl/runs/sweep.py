"""A sweep as values: the cells of a grid of settings, each with a folder of its own, and what these folders hold."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grassmann_ssl.runs import toml
from grassmann_ssl.runs.config import ConfigError, RunConfig
from grassmann_ssl.runs.folder import binding

GRID = "grid"
LONGEST = 120
"""letters of a name; file systems allow 255 bytes, and the names of files beside the folder are longer"""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its name, which is that of its folder, and its settings."""

    name: str
    config: RunConfig


def described(path: Path, config_type: type[RunConfig]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The settings that all cells share and the grid, of a TOML file of settings with a table `grid` of lists.

    Raises ConfigError, which names file and key, as `toml.load` does, and for a grid that is no table of lists.
    """
    content = toml.read(path)
    grid = content.pop(GRID, {})
    if not isinstance(grid, dict):
        raise ConfigError(f"config: {path}: {GRID} must be a table of lists, got {grid!r}")
    for name, values in grid.items():
        if not isinstance(values, list):
            raise ConfigError(f"config: {path}: {GRID}.{name} must be a list of the values to try, got {values!r}")
    place = f"config: {path}: {GRID}: "
    fitted = {name: [toml.fitted(config_type, name, one, place) for one in values] for name, values in grid.items()}
    return toml.settings(content, config_type, f"config: {path}"), fitted


def assigned(option: str, words: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE words of an option of the command line. Raises ConfigError for a word of another form and a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().lstrip("-").replace("-", "_").replace(".", "_")
        if not equals:
            raise ConfigError(f"{option}: {word!r} is not NAME=VALUE")
        if name in found:
            raise ConfigError(f"{option}: {name} is given twice")
        found[name] = text
    return found


def cells(
    config_type: type[RunConfig], settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], out: Path
) -> list[Cell]:
    """Every combination of the values of the grid, the last of its settings the fastest, on the settings that all share.

    A cell is named by its values, such as `lr=0.1,seed=2`: every cell another name. Raises ConfigError, which names the cell, for
    settings that cannot be run together, and for a grid without values, with a value twice, or of what is not to be varied.
    """
    for name in grid:
        if name in ("out", *toml.ONCE):
            raise ConfigError(f"{GRID}: {name} is the same for all cells")
    for name, values in grid.items():
        if not values:
            raise ConfigError(f"{GRID}: {name} has no values")
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{GRID}: {name} has the value {value!r} twice")
    found = []
    for combination in itertools.product(*grid.values()):
        own = dict(zip(grid, combination, strict=True))
        name = _name(own)
        try:
            config = config_type.of(**{**settings, **own, "out": out / name})
        except ConfigError as error:
            raise ConfigError(f"cell {name}: {error}") from None
        found.append(Cell(name, config))
    return found


def _name(values: Mapping[str, Any]) -> str:
    """The values of a cell as the name of a folder; where letters are left out, a hash of all values keeps it apart from any other."""
    whole = ",".join(f"{name}={_short(value)}" for name, value in values.items()) or "run"
    plain = re.sub(r"[^A-Za-z0-9=,.+_-]", "-", whole)
    words = (_short(value) for value in values.values())
    if plain == whole and len(whole) <= LONGEST and not any(set(word) & set("=,") for word in words):
        return whole
    return f"{plain[: LONGEST - 9]}-{hashlib.sha256(repr(values).encode()).hexdigest()[:8]}"


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def finished(cell: Cell) -> bool:
    """Whether the folder of the cell holds its run, come to its end. Raises ConfigError where it is a run of other settings."""
    at = cell.config.folder / "run.json"
    try:
        record = json.loads(at.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise ConfigError(f"cell {cell.name}: {at} cannot be read: {str(error).splitlines()[0]}") from None
    stored = {**record.get("config", {}), "experiment": record.get("experiment")}
    for name, value in binding(cell.config).items():
        if stored.get(name) != value:
            held = f"{name} = {stored.get(name)!r}, not {value!r}"
            raise ConfigError(f"cell {cell.name}: {cell.config.folder} holds another run: {held}; give another out")
    return record.get("interrupted") is None
