"""The verdict on populations whose spectrum is known."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from grassmann_ssl.audit import Rule, judge


@pytest.mark.parametrize(
    ("spectrum", "settings", "kind", "hard", "soft"),
    [
        (np.ones(64), {}, "none", False, False),
        (np.zeros(64), {}, "complete", None, None),
        (np.full(64, 1e-9), {"input_variance": 1.0}, "complete", None, None),
        (np.full(64, 1e-9), {}, "none", False, False),
        (np.repeat([1.0, 0.0], 32), {}, "dimensional", True, False),
        (np.r_[1, np.full(63, 4e-4)], {}, "dimensional", False, True),  # one dimension, and 63 at 2 % of its deviation
        (np.r_[np.ones(3), np.zeros(61)], {}, "dimensional", True, True),
        (np.r_[np.ones(63), 0], {}, "none", False, False),  # 63 of 64 are more than 90 %
        (np.arange(1, 513) ** -1.0, {}, "none", False, False),
        (np.arange(1, 513) ** -2.0, {}, "dimensional", True, True),
        (np.full(64, 1e-6), {"mean": 1.0}, "directional", False, False),
        (np.ones(64), {"classes": {"cat": 50.0, "dog": 0.1}}, "class", False, False),
        (np.ones(1), {}, "none", False, False),
    ],
)  # fmt: skip
def test_kinds(spectrum, settings, kind, hard, soft):
    verdict = judge(spectrum, **settings)
    assert (verdict.kind, verdict.hard, verdict.soft) == (kind, hard, soft)


def test_several_kinds_at_once_in_their_order():
    verdict = judge(np.r_[1e-4, np.zeros(63)], mean=np.ones(64), classes={"3": 0.0})
    assert verdict.kinds == ("directional", "dimensional", "class") and verdict.classes == ("3",)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(1e-150, 1e150))
@example([100.0, 0.0010001], 0.001)
def test_scale_and_order_do_not_matter(values, scale):
    # A variance that is the limit itself is on either side of it, as its product with the scale is rounded.
    assume(all(abs(v / max(values) - Rule().dead) > 1e-12 * Rule().dead for v in values))
    assert judge(values) == judge([scale * v for v in reversed(values)])


@given(st.integers(1, 300))
def test_equal_variances_are_no_collapse(d):
    assert judge(np.full(d, 0.3)).kind == "none"


def test_a_scale_outside_of_floating_point():
    assert judge(np.ones(3), input_variance=1.0, log_scale=-1e4).kind == "complete"
    assert judge(np.full(3, 1e-300), input_variance=1.0, log_scale=1e3).kind == "none"


def test_what_is_no_spectrum_or_rule_is_refused():
    for bad in ([], [np.nan], [np.inf, 1]):
        with pytest.raises(ValueError, match="spectrum must be one or more finite eigenvalues"):
            judge(bad)
    with pytest.raises(ValueError, match="input_variance must be positive, got 0"):
        judge([1.0], input_variance=0.0)
    with pytest.raises(ValueError, match=r"used of the rule must be between 0 and 1, got 2"):
        Rule(used=2)


def test_every_threshold_is_in_the_text_of_the_rule():
    rule = Rule(used=0.011, live=0.22, dead=0.033, spread=0.044, within=0.055, complete=0.066)
    assert all(text in str(rule) for text in ("0.011", "0.22", "0.033", "0.044", "0.055", "0.066"))
