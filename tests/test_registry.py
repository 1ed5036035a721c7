"""Things by name: declared once, listed in order, an unknown name is told the nearest."""

import pytest

from grassmann_ssl.registry import Registry, is_own, nearest, own, parted, with_options


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
    assert nearest("SimCLR", ["mmcr", "nt_xent"]) == "; did you mean nt_xent?"  # a method, by its loss
    assert "negative_cosine, with a predictor" in nearest("byol", ["negative_cosine"])


@pytest.mark.parametrize(
    ("text", "base", "options"),
    [
        ("vicreg", "vicreg", {}),
        ("vicreg:variance=10:covariance=0.5", "vicreg", {"variance": 10, "covariance": 0.5}),
        ("mine.losses:Loss:kind=hard:margin=none:fast=true", "mine.losses:Loss", {"kind": "hard", "margin": None, "fast": True}),
        ("timm:vit", "timm:vit", {}),
    ],
)  # fmt: skip
def test_options_follow_a_name(text, base, options):
    assert parted(text) == (base, options) and with_options(base, options) == text
    assert is_own(text) == (":" in base)


def test_options_that_are_none_are_refused_by_name():
    for text, message in (
        ("vicreg:variance=1:variance=2", "variance is given twice"),
        ("vicreg:=2", "'=2' is not NAME=VALUE"),
        ("vicreg:variance=1:fast", "'fast' is not NAME=VALUE"),
    ):
        with pytest.raises(ValueError, match=f"^{text}: {message}; options follow the name, each after a colon$"):
            parted(text)
    assert own("math:isclose:abs_tol=2")(0, 1) and not own("math:isclose")(0, 1)
    with pytest.raises(
        ValueError, match=r"^math:isclose has no option 'abstol': it takes a, b, .*; did you mean abs_tol\?$"
    ):
        own("math:isclose:abstol=2")
    with pytest.raises(ValueError, match=r"^math:pi:digits=3 must be callable, got float$"):
        own("math:pi:digits=3", needed=False)
