"""Things by name: declared once, listed in order, an unknown name is told the nearest."""

import pytest

from grassmann_ssl.registry import Registry, nearest


def test_things_are_found_by_name_in_the_order_of_their_declaration():
    colours = Registry("colour")
    assert colours.add("red", 1) == 1 and colours.add("blue", 2) == 2
    assert colours["red"] == 1 and list(colours) == ["red", "blue"] and "green" not in colours
    with pytest.raises(ValueError, match=r"^colour 'red' is declared twice$"):
        colours.add("red", 3)


def test_an_unknown_name_is_told_the_nearest():
    colours = Registry("colour")
    colours.add("red", 1)
    colours.add("blue", 2)
    with pytest.raises(ValueError, match=r"^unknown colour 'bleu': known are red, blue; did you mean blue\?$"):
        colours["bleu"]
    assert nearest("re", colours) == "; did you mean red?" and nearest("xyz", colours) == ""
