"""What `compare-encoders` says of its arms: intervals in their range, values where seeds are few, and the spectra that were judged."""

import copy
import re

import numpy as np
import pytest
import torch

from grassmann_ssl.audit import Rule
from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.experiments.encoders import compare_encoders, material
from grassmann_ssl.experiments.encoders.compare_encoders import CompareEncodersConfig
from grassmann_ssl.metrics.intervals import mean_interval, wilson_interval
from grassmann_ssl.report import page_of
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome

pytestmark = pytest.mark.slow

ARMS = ("batch=32", "objective=vicreg,lr=0.005,dim=4,batch=32", "objective=vicreg,lr=1e9,batch=32")
NAMES = ("batch=32", "vicreg, lr=0.005, dim=4, batch=32", "vicreg, lr=1e9, batch=32")
RANGES = {
    "knn": (0, 1), "ridge": (0, 1), "logistic": (0, 1), "dimensions_used": (1, 8), "rank_z": (1, 8), "rank_h": (1, 256),
    "directions_rank": (1, 8),
    "least_over_largest": (0, 1), "steps_detected": (0, 8), "seconds_per_step": (0, np.inf),
}  # fmt: skip


def outcome_of(folder, seeds):
    """Arms on 96 images: one judged on directions, one on z, one that diverges."""
    whole = load_split("digits", torch.Generator().manual_seed(1))
    split = Split(whole.train[:96], whole.train_labels[:96], whole.test[:60], whole.test_labels[:60])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "load_split", lambda *_, **__: split)
        return run(CompareEncodersConfig(out=folder / "run", arms=ARMS, seeds=seeds, steps=3, records=3))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return outcome_of(tmp_path_factory.mktemp("three"), 3)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return outcome_of(tmp_path_factory.mktemp("two"), 2)


def words(outcome):
    page = page_of(outcome)
    return page.lede + " " + " ".join(one.caption for one in page.sections)


def test_every_mean_has_an_interval_of_its_range(three):
    for arm in three.record["arms"][:2]:
        rows = [row for row in three.record["runs"] if row["arm"] == arm["arm"]]
        for name, (low, high) in RANGES.items():
            top = min(high, 4) if arm["dimensions"] == 4 and high == 8 else high
            top = rows[0]["features"] if name == "rank_h" else top
            expected = mean_interval(np.clip([row[name] for row in rows], low, top), low, top)
            assert (arm[name]["low"], arm[name]["high"]) == pytest.approx(expected, rel=1e-12), name
            assert low <= arm[name]["low"] <= arm[name]["mean"] <= arm[name]["high"] <= top
    against = three.record["arms"][1]["ridge_against_first"]
    assert -1 <= against["low"] <= against["mean"] <= against["high"] <= 1 and 0 <= against["p"] <= 1
    assert re.search(r"ridge \d+\.\d \[\d+\.\d to \d+\.\d\] %", three.findings[0].measured)
    assert "Student" in words(three) and "Bars" in words(three)


def test_of_two_seeds_both_values_are_shown(two):
    first, second, _ = two.record["arms"]
    for name in RANGES:
        assert first[name]["low"] is None and len(first[name]["values"]) == 2
    a, b = (100 * one for one in first["ridge"]["values"])
    assert f"ridge {a:.1f} and {b:.1f} %" in two.findings[0].measured and "[" not in two.findings[0].measured
    assert second["ridge_against_first"]["p"] is None
    a, b = (100 * one for one in second["ridge_against_first"]["values"])
    assert two.findings[1].agreement == f"ridge {a:+.1f} and {b:+.1f} points against the first arm"
    assert "the values themselves are shown" in words(two)
    assert not {"Student", "t test", "Bars"} & set(re.findall(r"Student|t test|Bars", words(two)))


def test_nothing_measured_is_called_predicted(three):
    assert all(one.predicted is None and one.measured for one in three.findings)
    assert three.findings[2].measured.startswith(
        "collapsed in 0 of 0, diverged in 3 (representations are not finite at step 1"
    )
    counted = re.match(r"collapsed in (\d) of 3 \(", three.findings[0].measured)
    kinds = three.record["arms"][0]["kinds"]
    assert int(counted[1]) == kinds["dimensional"] + kinds["directional"] + kinds["complete"]
    assert re.search(r"rank of z [\d.]+ \[.*\] of 4; ", three.findings[1].measured)


def test_the_spectra_are_those_that_were_judged(three):
    assert [one["judged"] for one in three.record["arms"]] == ["directions", "z", None]
    figure = next(one.figure for one in page_of(three).sections if one.name == "spectra")
    directions, z, diverged = figure.axes[:3]
    for index, (panel, kind, label) in enumerate(((directions, "directions", "cov z / ‖z‖"), (z, "z", "cov z"))):
        assert panel.get_ylabel() == f"eigenvalues of {label}"
        drawn = [line.get_ydata() for line in panel.lines if len(line.get_xdata()) == [8, 4][index]]
        for k, line in enumerate(drawn):
            np.testing.assert_array_equal(line, three.arrays[f"arm{index}_seed{k}_spectrum_{kind}"][-1])
        assert len(drawn) == 3
    assert [text.get_text() for text in diverged.texts] == ["diverged"]
    assert f"cov z for {NAMES[1]}; cov z / ‖z‖ for {NAMES[0]}." in words(three)
    record = copy.deepcopy(three.record)
    record["arms"][0]["judged"] = "z"
    record["thresholds"]["dead"] = 0.037
    outcome = Outcome(record, three.metrics, three.arrays)
    assert f"cov z for {NAMES[0]}, {NAMES[1]}. Below the dotted line, 0.037 of" in words(outcome)
    assert "cov z / ‖z‖" not in words(outcome) and three.record["collapse_rule"] == str(Rule()) in words(three)
    panel = next(one.figure for one in page_of(outcome).sections if one.name == "spectra").axes[1]
    (line,) = {tuple(line.get_ydata()) for line in panel.lines if line.get_linestyle() == ":"} - {
        (0.037 * three.arrays[f"arm1_seed{k}_spectrum_z"][-1, 0],) * 2 for k in (1, 2)
    }
    assert line[0] == 0.037 * three.arrays["arm1_seed0_spectrum_z"][-1, 0]


def rows_of_kinds(*kinds):
    """Rows of one arm, one of each kind in turn, with nothing else measured."""
    row = {"arm": "batch=32", "judged": "z", "judged_rows": 96, "dimensions": 8, "features": 64, "live_bounds": [7, 8]}
    open_ = {"dimensional": "too few rows"}
    rows = [
        row | {"seed": k, "kind": kind, "open": open_ if kind == "undecided" else {}} for k, kind in enumerate(kinds)
    ]
    return [
        {"arm": "batch=32", "seed": one["seed"], "kind": "diverged", "reason": "the loss is not finite"}
        if one["kind"] == "diverged"
        else one
        for one in rows
    ]


def test_undecided_seeds_count_neither_as_collapsed_nor_as_decided():
    config = CompareEncodersConfig(arms=("batch=32",), seeds=6)
    kinds = ("none", "undecided", "directional", "complete", "undecided", "diverged", "dimensional")
    one = compare_encoders.summary_of(config, "batch=32", rows_of_kinds(*kinds))
    assert one["kinds"] == {kind: kinds.count(kind) for kind in compare_encoders.KINDS}
    assert (one["collapsed"], one["decided"]) == (3, 4)
    assert one["collapse_interval"] == list(wilson_interval(3, 4)) and one["live_bounds"] == [7, 8]
    said = compare_encoders.measured(one)
    assert said.startswith(
        "collapsed in 3 of 4 (30 to 95 %), undecided in 2, diverged in 1 (the loss is not finite); open: dimensional (too few rows); "
    )
    assert "7 to 8 live, over 96 rows" in said
    none = compare_encoders.summary_of(config, "batch=32", rows_of_kinds("undecided", "undecided"))
    assert none["collapse_interval"] is None and compare_encoders.measured(none).startswith(
        "collapsed in 0 of 0, undecided in 2"
    )


def test_arms_are_called_by_the_values_that_speak_where_these_tell_them_apart():
    named = {
        "": "defaults",
        "objective=nt_xent,constraint=none": "nt_xent, no constraint",
        "objective=nt_xent, predictor=none,lr=0.1": "nt_xent, no predictor, lr=0.1",
        "predictor=mlp,constraint=stiefel": "mlp, stiefel",
    }
    assert compare_encoders.labels(list(named)) == list(named.values())
    same = ["objective=linear", "predictor=linear"]
    assert compare_encoders.labels([*same, ""]) == [*same, "defaults"]


def test_alternatives_are_arms_and_what_all_share_is_said_once():
    config = CompareEncodersConfig(
        arms=("objective=nt_xent|vicreg,constraint=none|stiefel", "objective=dcl,batch=32"), common="batch=64, lr=0.02"
    )
    assert config.arms == (
        "objective=nt_xent,constraint=none", "objective=nt_xent,constraint=stiefel", "objective=vicreg,constraint=none",
        "objective=vicreg,constraint=stiefel", "objective=dcl,batch=32",
    )  # fmt: skip
    settings = [config.train_config(arm, 0) for arm in config.arms]
    assert [one.batch for one in settings] == [64, 64, 64, 64, 32] and {one.lr for one in settings} == {0.02}
    assert CompareEncodersConfig.of(**config.values()).arms == config.arms
    with pytest.raises(ConfigError, match="objective=nt_xent,batch=32 names one twice"):
        CompareEncodersConfig(arms=("objective=nt_xent,batch=32|32",))
    with pytest.raises(ConfigError, match=r"^arm 'objective=vicreg,constraint=grassmann': .*not rotation-invariant"):
        CompareEncodersConfig(arms=("objective=nt_xent|vicreg,constraint=grassmann",))
    probed = CompareEncodersConfig(arms=("online_probes=false|true",))
    assert [probed.train_config(arm, 0).online_probes for arm in probed.arms] == [False, True]
    with pytest.raises(ConfigError, match=r"arm 'online_probes=yes': online_probes must be .*, got 'yes'"):
        CompareEncodersConfig(arms=("online_probes=yes",))
    with pytest.raises(ConfigError, match="'batch' is not NAME=VALUE"):
        CompareEncodersConfig(common="batch")
