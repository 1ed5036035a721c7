"""The short form of the calibration: samples of populations whose verdict is known, as `python -m benchmarks --cases audit`."""

import dataclasses

import pytest

from benchmarks import audit as calibration
from grassmann_ssl.audit import decide

SHORT = {"work": 2**24, "ratios": (1 / 4, 1, 4, 20)}


@pytest.fixture(scope="module")
def cells():
    asked = calibration.populations((16, 64, 256), 2, seed=7)
    return [calibration.cell(one, n, {}) for one in asked for n in calibration.samples(one, **SHORT)]


@pytest.mark.slow
def test_verdicts_are_those_of_the_populations(cells):
    found = calibration.summary(cells)
    assert found["cells"] > 300 and found["decided"] > 0.6 * found["cells"]
    assert found["wrong"] <= 0.01 * found["decided"]
    assert found["isotropic_called_collapsed"] == 0 and found["undecided_from_20_rows_per_dimension"] == 0
    assert found["decided_of_hard_from_4_rows_per_dimension"] == 1
    assert found["decided_of_complete_directional_soft_from_64_rows"] > 0.9
    # Of about 270 intervals: 0.88 less four standard deviations.
    covered = [cell["covered"] for cell in cells if cell["covered"] is not None]
    assert sum(covered) / len(covered) > 0.88 - 4 * (0.88 * 0.12 / len(covered)) ** 0.5


@pytest.mark.slow
def test_a_rule_that_asks_the_sample_is_found_out(monkeypatch):
    """With the naive dimensions used, and every eigenvalue of the sample that is 0 called dead, isotropic rows collapse."""
    monkeypatch.setattr(
        decide, "live_dimensions", lambda sample, *_: (0, decide.Live(*[int((sample.eigenvalues > 0).sum())] * 2))
    )
    asked = [one for one in calibration.populations((64,), 2, seed=7) if one.family == "isotropic"]
    naive = [calibration.cell(one, n, {}) for one in asked for n in calibration.samples(one, **SHORT)]
    assert calibration.summary(naive)["isotropic_called_collapsed"] > 0


def test_the_truth_of_a_population_does_not_see_how_it_is_sampled():
    for one in calibration.populations((32,), 1):
        other = dataclasses.replace(one, student=not one.student, mean=0.0, scale=1.0, seed=0)
        assert one.truth() == other.truth()
