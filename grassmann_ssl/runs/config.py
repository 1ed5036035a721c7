"""The settings of a run, checked before any work."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

import torch
from tyro.constructors import PrimitiveConstructorSpec

from grassmann_ssl.registry import nearest
from grassmann_ssl.streams import plain

Config = TypeVar("Config", bound="RunConfig")


class ConfigError(ValueError):
    """A setting that cannot be run; its message is one line for the user, raised before any training starts.

    Letters that no line has, such as the end of a line in the name of a file, are written as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def choice(names: Iterable[str]) -> PrimitiveConstructorSpec[str]:
    """Annotation of a field that is one of these names: --help shows them, the shell completes them, the config itself refuses others."""
    shown = _Shown(names)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(shown) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
        choices=shown,
    )


class _Shown(tuple[str, ...]):
    """Choices that the command line lists without refusing any other: one line of a ConfigError says more than its box."""

    def __contains__(self, value: object) -> bool:
        return True


@contextmanager
def setting(name: str = "") -> Iterator[None]:
    """Turn a ValueError or TypeError raised inside into a ConfigError that begins with the name of the setting."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name}: {error}" if name else str(error)) from None


def device_of(name: str) -> torch.device:
    """The CPU or CUDA device of this name. Raises ConfigError for any other, and where it is not available."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: {name!r} is not a torch device; use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: {name!r} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"device: {name} is not there; this machine has {count} CUDA devices")
    return device


VALUE = "value"  # metadata of a field that is no setting


@dataclass(frozen=True)
class Setting:
    """A setting by the name that run.json, checkpoints and arms give it: a field, or one of an options dataclass in the field `group`."""

    name: str
    group: str
    field: str
    type: Any
    default: Any


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings that every experiment has. Raises ConfigError for a seed outside 0 .. 2^63 - 1, and for text that is not UTF-8.

    Options of one thing, such as a predictor, may be a dataclass of their own in a field; its `PREFIX`, if any, comes before their names.
    """

    NAME: ClassVar[str]
    EXAMPLE: ClassVar[str] = ""
    """what to write after `grassmann-ssl`, for its help"""
    RESUMES: ClassVar[bool] = False
    """whether an unfinished run is kept in its folder"""
    seed: int = 1
    """seed of everything that is drawn"""
    device: str = "cpu"
    """torch device: cpu, cuda, cuda:1, ..."""
    out: Path | None = None
    """run folder to write; runs/NAME where not given"""
    overwrite: bool = False
    """replace the run that the folder holds"""
    resume: bool = True
    """continue an unfinished run of the same settings that the folder holds; --no-resume starts it anew"""

    def __init_subclass__(cls) -> None:
        cls.__repr__ = RunConfig.__repr__  # type: ignore[method-assign]  # or each dataclass would have one of its own

    def __repr__(self) -> str:
        """The code that makes it: what differs from the defaults."""
        given = [one for one in fields(self) if one.repr and getattr(self, one.name) != _default(one)]
        return f"{type(self).__name__}({', '.join(f'{one.name}={getattr(self, one.name)!r}' for one in given)})"

    def __post_init__(self) -> None:
        if isinstance(self.out, str):  # as one writes it
            object.__setattr__(self, "out", Path(self.out))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be an integer from 0 to 2^63 - 1, got {self.seed}")
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, str) and isinstance(_default(one), tuple):
                raise ConfigError(f"{one.name} must be several, as ({value!r},), got the text {value!r}")
        for name, value in self.values().items():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, (str, Path)) and any("\ud800" <= letter <= "\udfff" for letter in str(one)):
                    raise ConfigError(
                        f"{name}: {str(one)!r} is not UTF-8, which the files of a run are written in; rename it"
                    )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / self.NAME

    @classmethod
    def known(cls) -> tuple[Setting, ...]:
        """The settings in their order, nested options among the others."""
        return _known(cast(Any, cls))

    def values(self) -> dict[str, Any]:
        """The value of every setting by its name."""
        return {one.name: getattr(getattr(self, one.group) if one.group else self, one.field) for one in self.known()}

    @classmethod
    def of(cls: type[Config], **settings: Any) -> Config:
        """A config from settings by name, the inverse of `values`. Raises TypeError for an unknown name, ConfigError as the config does."""
        return cls(**cls._by_field(settings))

    @classmethod
    def unchecked(cls: type[Config], **settings: Any) -> Config:
        """As `of`, but nothing is checked: what a command line starts from, whose flags may take the place of some settings."""
        config = object.__new__(cls)
        with setting():
            given = cls._by_field(settings)
        for one in fields(cls):
            object.__setattr__(config, one.name, given.get(one.name, _default(one)))
        return config

    @classmethod
    def _by_field(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings by name as values of fields, nested options in their dataclasses."""
        nested = [one for one in cls.known() if one.group and one.name in settings]
        options: dict[str, dict[str, Any]] = {one.group: {} for one in nested}
        for one in nested:
            options[one.group][one.field] = settings.pop(one.name)
        types = {one.name: one.type for one in _declared(cast(Any, cls))}
        return {**settings, **{group: types[group](**values) for group, values in options.items()}}

    def need_one_of(self, name: str, known: Iterable[str]) -> None:
        """Raises ConfigError unless the setting, a name or a tuple of names, is among the known ones.

        The message lists them and suggests the nearest.
        """
        value, names = getattr(self, name), tuple(known)
        for one in value if isinstance(value, tuple) else (value,):
            if one not in names:
                hint = nearest(str(one).partition(":")[0], names)
                raise ConfigError(f"{name} must be one of {', '.join(names)}, got {one!r}{hint}")

    def need(self, *names: str, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> None:
        """Raises ConfigError unless the settings, numbers or non-empty tuples of them, are finite, >= least, > above and <= most."""
        values, types = self.values(), {one.name: one.type for one in self.known()}
        for name in names:
            value, whole = values[name], types[name] in (int, int | None)
            if isinstance(value, bool) or not isinstance(value, (int, tuple) if whole else (int, float, tuple)):
                raise ConfigError(f"{name} must be a {'whole ' * whole}number, got {value!r}")
            if isinstance(value, tuple) and not value:
                raise ConfigError(f"{name} must not be empty")
            for one in value if isinstance(value, tuple) else (value,):
                if not (math.isfinite(one) and least <= one <= most and one > above):
                    bounds = [f">= {least:g}"] * (least > -math.inf) + [f"> {above:g}"] * (above > -math.inf)
                    bounds += [f"<= {most:g}"] * (most < math.inf)
                    raise ConfigError(f"{name} must be {' and '.join(['finite', *bounds])}, got {one}")


def _default(one: Any) -> Any:
    """The default of a field."""
    return one.default_factory() if one.default_factory is not MISSING else one.default


@cache
def _declared(kind: Any) -> tuple[Setting, ...]:
    """The fields of a dataclass, each as a setting, but those that hold values that no file can."""
    hints = get_type_hints(kind)
    return tuple(
        Setting(f.name, "", f.name, hints[f.name], f.default) for f in fields(kind) if not f.metadata.get(VALUE)
    )


@cache
def _known(kind: Any) -> tuple[Setting, ...]:
    found: list[Setting] = []
    for one in _declared(kind):
        nested: Any = one.type
        if is_dataclass(nested):
            prefix = getattr(nested, "PREFIX", "")
            start = f"{prefix}_" if prefix else ""
            found += [replace(own, name=start + own.name, group=one.name) for own in _declared(cast(Any, nested))]
        else:
            found.append(one)
    return tuple(found)
