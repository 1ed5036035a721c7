"""`grassmann-ssl list`: what there is by name, with the facts that decide whether it fits."""

from collections.abc import Callable, Iterable
from typing import Annotated

import tyro

from grassmann_ssl.registry import nearest, with_options
from grassmann_ssl.report.terminal import table
from grassmann_ssl.runs import ConfigError, choice
from grassmann_ssl.streams import printed

Row = tuple[str, ...]
KINDS = ("objectives", "constraints", "predictors", "encoders", "optimizers", "data")


def run_list(kind: Annotated[str, choice(KINDS), tyro.conf.Positional]) -> int:
    """Print what there is of a kind, a line each: objectives, constraints, predictors, encoders, optimizers or data.

    Args:
        kind: objectives, constraints, predictors, encoders, optimizers or data
    """
    if kind not in KINDS:
        raise ConfigError(f"list: known are {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
    return 0 if printed(listed(kind)) else 1


def listed(kind: str) -> str:
    """Names and facts of one of KINDS as lines of columns."""
    header, *rows = _ROWS[kind]()
    return "\n".join(table(header, rows, rule=False))


def _objectives() -> Iterable[Row]:
    from grassmann_ssl.objectives.registry import REGISTRY

    yield "name", "rotation-invariant", "takes", "options", "source"
    for one in REGISTRY.values():
        takes = "predictions" if one.predictive else "triplets" if one.triplets else "pairs"
        options = with_options("", dict(one.options)).strip(":")
        yield one.name, "yes" if one.rotation_invariant else "no", takes, options or "-", one.source


def _constraints() -> Iterable[Row]:
    from grassmann_ssl.nn.constraint_table import CONSTRAINTS

    yield "name", "layers", "optimizers", "what holds"
    for one in CONSTRAINTS.values():
        yield one.name, " ".join(one.places), " ".join(one.optimizers), one.holds


def _predictors() -> Iterable[Row]:
    from grassmann_ssl.nn.predictors import PREDICTORS

    yield "name", "made", "rotation-equivariant", "options", "source"
    for one in PREDICTORS.values():
        how = "in closed form" if one.closed_form else "by training"
        yield one.name, how, "yes" if one.equivariant else "no", " ".join(one.options) or "-", one.source


def _encoders() -> Iterable[Row]:
    from grassmann_ssl.nn.encoders import ENCODERS

    yield "name", "width", "takes"
    for one in ENCODERS.values():
        yield one.name, "-" if one.width is None else str(one.width), " ".join(one.takes)
    yield "PACKAGE.MODULE:NAME", "-", "what its arguments name of in_channels and image_size"


def _optimizers() -> Iterable[Row]:
    from grassmann_ssl.optim.table import OPTIMIZERS

    yield "name", "options", "source"
    for one in OPTIMIZERS.values():
        yield one.name, " ".join(one.options) or "-", one.source


def _data() -> Iterable[Row]:
    from grassmann_ssl.data.files import FORMATS
    from grassmann_ssl.data.images import BUNDLED

    yield "name", "options", "where it comes from"
    for one in BUNDLED.values():
        yield one.name, "-", "with scikit-learn"
    for form in FORMATS.values():
        yield f"{form.name}:PATH", " ".join(form.options) or "-", "local files, see docs/encoders.md"
    yield "PACKAGE.MODULE:NAME", "-", "batches of views of your own, see docs/your_own.md"


_ROWS: dict[str, Callable[[], Iterable[Row]]] = dict(
    zip(KINDS, (_objectives, _constraints, _predictors, _encoders, _optimizers, _data), strict=True)
)
