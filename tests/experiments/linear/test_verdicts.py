"""Verdicts on exact spectra: kinds of the audit's rule, and collapse that is only a run that ended too early."""

import numpy as np
import pytest

from grassmann_ssl.experiments.linear.verdicts import kinds_of, live_dimensions, unfinished

SPECTRA = np.array(
    [
        [1.0, 0.5, 0.2],
        [1.0, 0.5, 2e-5],  # dead is 1e-5 of the largest
        [1.0, 0.5, 5e-6],
        [1.0, 0.02, 0.02],  # PR 1.08: a share of 0.04 of the dimensions used
        [1e-9, 1e-9, 1e-9],
        [0.0, 0.0, 0.0],
        [np.inf, 1.0, 1.0],
    ]
)


def test_kinds_and_live_dimensions():
    kinds = kinds_of(SPECTRA, 1.0, np.zeros(7))
    assert kinds == ["none", "none", "dimensional", "dimensional", "complete", "complete", "diverged"]
    assert live_dimensions(SPECTRA[:6]).tolist() == [3, 3, 2, 3, 3, 0]


def test_a_scale_taken_out_of_the_weights_counts():
    even = np.ones((3, 2))
    assert kinds_of(even, 1.0, np.array([-10.0, 0.0, 1e4])) == ["complete", "none", "none"]
    assert kinds_of(1e-9 * even[:1], 1.0, np.array([20.0])) == ["none"]


@pytest.mark.parametrize(
    ("spectrum", "times", "kind"),
    [
        ([1e-9, 1e-9, 1e-9], [5, 6, 7], "unfinished"),  # before the first step
        ([1.0, 1e-9, 1e-9], [1, 6, 7], "unfinished"),  # one of three, and two to come
        ([1.0, 0.9, 1e-9], [1, 2, 7], "unfinished"),
        ([1.0, 0.9, 1e-9], [1, 2, 3], "dimensional"),  # all steps were due
        ([1.0, 1e-9, 1e-9], [1, 2, 7], "dimensional"),  # the second was due
        ([1e-9, 1e-9, 1e-9], [1, 6, 7], "complete"),  # the first was due
        ([1.0, 0.9, 1e-9], [1, 2, np.inf], "dimensional"),  # the third never comes
        ([1.0, 0.9, 0.8], [1, 2, 7], "none"),  # alive already
        ([np.inf, 1.0, 1.0], [1, 6, 7], "diverged"),
    ],
)
def test_collapse_is_unfinished_only_where_the_steps_that_are_missing_are_to_come(spectrum, times, kind):
    spectra, zero = np.array([spectrum]), np.zeros(1)
    found = unfinished(kinds_of(spectra, 1.0, zero), spectra, 1.0, zero, np.array([times], dtype=float), 4.0)
    assert found == [kind]
