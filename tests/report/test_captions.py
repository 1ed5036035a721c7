"""A caption that states a result follows the record: another record, another sentence."""

import copy
import re

import numpy as np
import pytest

from grassmann_ssl.experiments.encoders.stepwise_deep import StepwiseDeepConfig
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.experiments.networks.kernel_change import KernelChangeConfig
from grassmann_ssl.experiments.networks.ntk import NtkConfig
from grassmann_ssl.experiments.networks.width import WidthConfig
from grassmann_ssl.experiments.phase.alignment import AlignmentConfig
from grassmann_ssl.experiments.phase.basin import BasinConfig
from grassmann_ssl.experiments.phase.commutator import CommutatorConfig
from grassmann_ssl.experiments.phase.directpred import DirectPredConfig
from grassmann_ssl.experiments.phase.fixed_points import FixedPointsConfig
from grassmann_ssl.experiments.phase.symmetry import SymmetryConfig
from grassmann_ssl.report import page_of
from grassmann_ssl.run import run
from grassmann_ssl.runs import Outcome

pytestmark = pytest.mark.slow

SMALL = {
    "ntk": NtkConfig(pairs=8, dim=2, widths=(8, 32, 128), seeds=2, init_scale=1e-2),
    "commutator": CommutatorConfig(tau=(0.5, 1.0), eta=(0.0, 0.1), seeds=2, until=5.0, step=0.1),
    "symmetry": SymmetryConfig(eta=(0.01, 0.05), seeds=2, until=5.0, step=0.1),
    "fixed_points": FixedPointsConfig(tau=(1.0,), alpha_p=(1.0,), etas=6),
    "directpred": DirectPredConfig(seeds=1, start=(1.0,), batch=16),
    "alignment": AlignmentConfig(seeds=2, dim=2, inputs=3, until=5.0, learning_rate=0.05),
    "basin": BasinConfig(cells=16),
    "compare": CompareConfig(
        data="gaussian", objectives=("barlow_twins",), seeds=2, steps=400, dim=3, init_scales=(1e-3, 1e-4)
    ),
    "width": WidthConfig(data="gaussian", dim=2, hidden=(2, 4), seeds=2, rates=(0.4, 0.2), horizon=4.0),
    "kernel_change": KernelChangeConfig(
        dim=2, widths=(16, 32), triplets=6, seeds=2, horizon=2.0, free_time=0.5, spectrum=(1.0, 0.5, 0.2)
    ),
    "stepwise_deep": StepwiseDeepConfig(
        objectives=("barlow_twins", "nt_xent"), init_scales=(0.01,), dim=3, steps=80, records=30, pairs=4, batch=64
    ),
}


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory):
    """Each small run once, by name."""
    done = {}

    def outcome(name):
        if name not in done:
            values = SMALL[name].values() | {"out": tmp_path_factory.mktemp(name) / "run"}
            done[name] = run(type(SMALL[name]).of(**values))
        return done[name]

    return outcome


def captions(outcome, record=None, **arrays):
    """All words of a page, of a record that is changed in places."""
    changed = Outcome(record or outcome.record, outcome.metrics, {**outcome.arrays, **arrays})
    page = page_of(changed)
    return " ".join([page.title, page.lede, *(f"{one.title} {one.caption}" for one in page.sections)])


def altered(outcome):
    return copy.deepcopy(outcome.record)


def test_errors_of_step_times_fall_only_where_they_do(outcome_of):
    outcome = outcome_of("ntk")
    record = altered(outcome)
    for start in ("grouped", "independent"):
        for name in ("prediction", "linearised"):
            record[start]["step_times"][name]["median_error"] = [0.08, 0.02, 0.005]
    text = captions(outcome, record)
    assert text.count("8 %, 2 %, 0.5 %, about h^−1.00") == 4 and "do not fall" not in text
    record["independent"]["step_times"]["prediction"]["median_error"] = [0.044, 0.099, 0.02]
    text = captions(outcome, record)
    assert "independent start, against theory: 4.4 %, 9.9 %, 2 %, which do not fall with every width" in text
    assert text.count("about h^") == 3
    record["grouped"]["step_times"]["linearised"]["median_error"] = [0.044, None, 0.02]
    text = captions(outcome, record)
    assert "grouped start, against the linearised network: 4.4 %, –, 2 %;" in text
    assert "grouped start: at most 0.5)" in captions(
        outcome, off_diagonal=np.full_like(outcome.arrays["off_diagonal"], 0.5)
    )


def test_the_course_of_the_effective_rank_is_that_of_the_rows(outcome_of):
    outcome = outcome_of("compare")
    course = "course/barlow_twins/free"
    rank, time = outcome.arrays[f"{course}/effective_rank"][1], outcome.arrays[f"{course}/time"]
    words = r"median over seeds: free ([\d.]+) at the start, lowest ([\d.]+) at t = ([\d.]+), ([\d.]+) at the end"
    sentence = re.search(words, captions(outcome))
    expected = rank[0], rank.min(), time[rank.argmin()], rank[-1]
    np.testing.assert_allclose([float(one) for one in sentence.groups()], expected, rtol=0.01)
    assert rank.min() < rank[0]  # it falls first
    law = outcome.record["agreement"]["barlow_twins"]["initialisation_law"]
    apart = abs(law["measured_exponent"] - law["predicted_exponent"])
    named = {one.quantity: one for one in outcome.findings}
    agreement = named["barlow_twins, free: law of the final angle"].agreement
    assert agreement == f"{apart:.2g} apart, over 2 initialisation scales α"
    flat = captions(outcome, **{f"{course}/effective_rank": np.full((3, len(time)), 2.5)})
    assert "free 2.50 at the start, lowest 2.50 at t = 0, 2.50 at the end" in flat


def test_features_are_dropped_in_order_only_where_they_are(outcome_of):
    outcome = outcome_of("directpred")
    assert "so were all of larger σᵢ², in all 60 networks" in captions(outcome)
    measured = outcome.arrays["measured"].copy()
    measured[0, -1, -1, 0, -1] = 1.0  # the feature of the largest variance, where the largest weight decay drops all
    assert "In 1 of 60 networks a feature was dropped and one of larger σᵢ² kept" in captions(
        outcome, measured=measured
    )


def test_theory_of_directpred_is_a_curve_that_jumps_at_its_thresholds(outcome_of):
    outcome = outcome_of("directpred")
    eta, curves = outcome.arrays["curve_eta"], outcome.arrays["curves"]
    assert curves.shape == (4, 1, len(eta), 4) and (np.diff(eta) > 0).all()
    alive = outcome.record["alive_above"]
    for j, threshold in enumerate(1 / (4 * (1 + np.array([0.0, 0.25, 1.0, 3.0])))):
        assert outcome.arrays["thresholds"][j] == pytest.approx(threshold)
        for curve in curves[:, 0, :, j]:  # from the large start
            assert (curve[eta > 1.025 * threshold] < alive).all() and (curve[eta < 0.99 * threshold] > alive).all()
        for side in (0.98, 1, 1.02):  # the grid comes close to the jump on both sides
            assert np.abs(eta / (side * threshold) - 1).min() < 1e-12
    for i, one in enumerate(outcome.record["config"]["eta"]):
        if np.abs(eta - one).min() < 1e-12:
            here = curves[:, :, np.abs(eta - one).argmin()]
            np.testing.assert_allclose(here, outcome.arrays["predicted"][:, :, i], rtol=1e-6, atol=1e-9)
    figure = next(one.figure for one in page_of(outcome).sections if one.name == "ends")
    for panel in figure.axes:
        lines = [line.get_ydata() for line in panel.lines if len(line.get_ydata()) == len(eta)]
        assert len(lines) == 8  # four features, kept and dropped
        for line in lines:
            seen = line[np.isfinite(line)]
            assert (seen > alive).all() or (seen <= alive).all()  # no line through the jump


def test_the_commutator_grows_where_it_does(outcome_of):
    outcome = outcome_of("commutator")
    negative = (outcome.arrays["margin"] <= 0).any(0)
    record = altered(outcome)
    record |= {"grew": 3, "grew_held": 2}
    text = captions(outcome, record)
    assert f"By theory K turns negative in {negative.sum()} of 8 networks" in text
    assert "more than 1 % on the way in 3, 2 of them with positive K" in text
    assert "K turns negative in 0 of 8 networks: only" in captions(outcome, margin=np.ones_like(outcome.arrays["margin"]))  # fmt: skip
    margin = np.ones_like(outcome.arrays["margin"])
    margin[3, 1, 0, 1] = -0.1
    assert "in 1 of 8 networks (τ = 1, η = 0): only there" in captions(outcome, margin=margin)


def test_the_antisymmetric_part_goes_where_it_goes(outcome_of):
    outcome = outcome_of("symmetry")
    shares = outcome.arrays["predicted_antisymmetric"][-1] / outcome.arrays["predicted_symmetric"][-1]
    for finding, share in zip(outcome.findings[3:], np.median(shares, -1), strict=True):
        assert finding.predicted == f"{share:.1e}, 0 in the limit"
    shape = outcome.arrays["measured_symmetric"].shape
    whole, anti = np.ones(shape), np.full(shape, 0.25)
    anti[-1, 1] = 0.5
    text = captions(outcome, measured_symmetric=whole, measured_antisymmetric=anti)
    assert "from 0.25 to 2.5e-01 at η = 0.01; from 0.25 to 5.0e-01 at η = 0.05" in text and "removes" not in text


def test_both_starts_collapse_beyond_the_critical_decay_only_where_they_do(outcome_of):
    outcome = outcome_of("fixed_points")
    (panel,) = outcome.record["panels"]
    beyond = panel["starts_beyond"]
    assert f"Beyond it {beyond} of {beyond} simulated modes collapsed" in captions(outcome)
    record = altered(outcome)
    record["panels"][0]["starts_beyond_collapsing"] = 1
    assert f"Beyond it 1 of {beyond} simulated modes collapsed" in captions(outcome, record)
    critical = next(one for one in outcome.findings if one.quantity.startswith("critical"))
    assert "all collapse" not in critical.measured and "first collapse from above" in critical.measured


def test_eigenspaces_align_as_far_as_they_do(outcome_of):
    outcome = outcome_of("alignment")
    record = altered(outcome)
    record["final_cosine"] = {"regular": 0.25, "symmetric": 0.75}
    text = captions(outcome, record)
    assert "is 0.2500 without symmetrisation and 0.7500 with it" in text and "Eigenspaces align" not in text


def test_cells_are_hatched_where_some_differ(outcome_of):
    outcome = outcome_of("basin")
    for differing in (0, 2):
        record = altered(outcome)
        record["counts"]["differing"] = differing
        assert ("hatched" in captions(outcome, record)) == (differing > 0)


def test_angles_of_a_wide_layer_are_as_near_as_measured(outcome_of):
    outcome = outcome_of("width")
    record = altered(outcome)
    record["grassmann"]["max_angle_error"] = 0.77
    assert "measured within 0.77 rad of it at all times" in captions(outcome, record)


def test_the_exact_flow_is_compared_where_networks_are_finite(outcome_of):
    outcome = outcome_of("kernel_change")
    finding = next(one for one in outcome.findings if one.quantity.endswith("against the exact flow"))
    assert finding.agreement.endswith("in 4 of 4 networks")
    assert outcome.record["exact_last"]["compared"] == outcome.record["exact_last"]["networks"] == 4


def test_steps_are_those_of_what_the_loss_sees(outcome_of):
    outcome = outcome_of("stepwise_deep")
    runs = outcome.record["runs"]
    assert {name: one["judged"] for name, one in runs.items()} == {
        "barlow_twins from 0.01": "z",
        "nt_xent from 0.01": "directions",
    }
    named = {one.quantity: one for one in outcome.findings}
    told = []
    for name, seen, words in (
        ("barlow_twins from 0.01", "z", "cov z"),
        ("nt_xent from 0.01", "directions", "cov z/|z|, since the loss sees directions only"),
    ):
        measured, times = named[f"{name}: steps of eigenvalues of {words}"].measured, runs[name][f"steps_of_{seen}"]
        assert measured == f"{len(times)}" + f", at t = {', '.join(f'{t:.3g}' for t in times)}" * bool(times)
        told.append((times, runs[name]["steps_of_directions" if seen == "z" else "steps_of_z"]))
    assert any(times != others for times, others in told)
    assert "The loss of nt_xent sees directions only" in captions(outcome)
    record = altered(outcome)
    record["runs"]["nt_xent from 0.01"]["judged"] = "z"
    assert "sees directions only" not in captions(outcome, record)
    after = named["nt_xent from 0.01: overlap of the embedding with the top modes of the tangent kernel after training"]
    assert after.predicted.startswith("by chance") and "no theory" in after.predicted
