"""The table of constraints: what users read is what is declared."""

from pathlib import Path

import pytest

from grassmann_ssl.data.files import FORMATS
from grassmann_ssl.data.images import BUNDLED
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.nn.placement import PLACES
from grassmann_ssl.optim.table import OPTIMIZERS

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()


def row(constraint):
    places = ", ".join(constraint.places)
    objectives = "rotation-invariant" if constraint.subspace else "any"
    optimizers = ", ".join(constraint.optimizers)
    return (
        f"| `{constraint.name}` | {constraint.holds} | {constraint.observed} | {objectives} | {places} | {optimizers} |"
    )


def test_the_page_has_the_table_as_it_is_declared():
    head = "| `--constraint` | what holds by construction | what is only observed | objectives | `--where` | `--optimizer` |"
    expected = [head, "|---|---|---|---|---|---|", *map(row, CONSTRAINTS.values())]
    start = PAGE.index("| `--constraint` |")
    assert PAGE[start:].split("\n\n")[0].splitlines() == expected


def test_the_page_names_every_source_of_images():
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name in (*(f"`{name}`" for name in BUNDLED), *(f"`{name}:" for name in FORMATS)):
        assert any(name in line.split("|")[1] for line in rows), name


@pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_declarations_name_what_there_is(constraint):
    assert set(constraint.places) <= set(PLACES) and set(constraint.optimizers) <= set(OPTIMIZERS)
    assert constraint.instead in ("", *CONSTRAINTS) and bool(constraint.elsewhere) == (constraint.places != PLACES)
    assert constraint.rank_of_w >= max(constraint.orthonormal, constraint.rank_of_z)
    assert not (constraint.in_loss and constraint.rank_of_w)
