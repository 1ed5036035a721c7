"""A field with choices: shown and completed on the command line, refused by the config."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

from grassmann_ssl.runs import choice

COLOURS = ("red", "blue")


@dataclass
class Paint:
    one: Annotated[str, choice(COLOURS)] = "red"
    many: tuple[Annotated[str, choice(COLOURS)], ...] = COLOURS


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["--help"], "{red,blue}"), (["--tyro-print-completion", "bash"], "'choices': ['red', 'blue']")],
)
def test_choices_are_shown_and_completed(arguments, shown, capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Paint, args=arguments)
    assert capsys.readouterr().out.count(shown) >= 2


def test_other_values_reach_the_config():
    assert tyro.cli(Paint, args=["--one", "green", "--many", "blue", "gold"]) == Paint("green", ("blue", "gold"))
