"""What `directpred-table` trains and says: its cells, verdicts on claims that a planted difference turns, alignment, and the page."""

import copy
import re

import numpy as np
import pytest
import torch

from grassmann_ssl.citation import cite
from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.experiments.encoders import directpred_claims as claims
from grassmann_ssl.experiments.encoders import material
from grassmann_ssl.experiments.encoders.directpred_cells import ROWS, SPACES, Cell, Seen
from grassmann_ssl.experiments.encoders.directpred_claims import CLAIMS, MARGIN, cell, judged, verdict
from grassmann_ssl.experiments.encoders.directpred_table import DirectPredTableConfig
from grassmann_ssl.report import page_of
from grassmann_ssl.run import run
from grassmann_ssl.runs import ConfigError, Outcome

OPTIONS = {"every": 5, "alpha": 0.25}


def test_every_cell_is_the_training_that_it_says():
    config = DirectPredTableConfig(rates=(3.0,), every=7, alpha=0.75, weight_decay=0.02, teacher=0.95)
    cells = config.cells()
    assert len(set(cells)) == len(cells) == 1 + 1 + 4 + 5 + 4 * 4
    compared = config.compared()
    made = {one: compared.train_config(arm, 4) for one, arm in zip(cells, compared.arms, strict=True)}
    for one, settings in made.items():
        assert settings.teacher == (0.95 if one.ema else 0.0)
        assert settings.optimizer_options.weight_decay == (0.02 if one.decay else 0.0)
        assert settings.optimizer_options.predictor_rate == one.rate
        assert settings.lr == (1e-12 if one.row == "untrained" else 0.2)
        assert settings.objective == "negative_cosine" and settings.seed == 4
        assert (settings.predictor_options.every == 7) == (one.row == "hybrid")
        assert (settings.predictor_options.alpha == 0.75) == (one.row == "directset")
    assert {one.row: settings.predictor for one, settings in made.items()} == {
        "untrained": "linear", "none": "none", "linear": "linear", "linear-symmetric": "linear-symmetric",
        "directpred": "directpred", "hybrid": "directpred", "directset": "directset", "directcopy": "directcopy",
    }  # fmt: skip
    assert {one.rate for one in cells if one.row != "linear-symmetric"} == {1.0}
    few = DirectPredTableConfig(teacher=0.0, weight_decay=0.0, rates=(), predictors=("linear", "none"))
    assert few.cells() == [Cell("linear", False, False), Cell("none", False, False)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictors": ("direct",)}, "predictors must be one of untrained, none, .*, got 'direct'; did you mean"),
        ({"predictors": ()}, "predictors must be some of .*, each once, got none"),
        ({"predictors": ("linear", "linear")}, "each once, got linear linear"),
        ({"every": 1}, "every must be finite and >= 2, got 1"),
        ({"rates": (2.0, 1.0)}, "rates must differ from each other and from 1, which is always there, got 2 1"),
        ({"rates": (0.0,)}, "rates must be finite and > 0"),
        ({"dim": 64}, "arm '.*': dim = 64 must be below hidden"),
        ({"batch": 1}, "batch must be"),
        ({"seeds": 0}, "seeds must be"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        DirectPredTableConfig(**settings)


def test_a_difference_is_as_reported_reversed_or_open():
    up = np.array([0.02, 0.021, 0.022])
    noisy = np.array([0.03, -0.02, 0.001])
    for expected, up_is, down_is in (
        ("higher", "as reported", "the opposite"),
        ("lower", "the opposite", "as reported"),
        ("not lower", "as reported", "the opposite"),
    ):
        assert verdict(up, expected) == up_is and verdict(-up, expected) == down_is
        assert verdict(noisy, expected) == "not told apart by 3 seeds"
        for few in (up[:2], up[:0]):
            assert verdict(few, expected) == "too few seeds to judge"
    less = np.array([-0.8, -0.81, -0.79]) * MARGIN
    assert verdict(less, "not lower") == "as reported" and verdict(less, "lower") == "as reported"
    assert verdict(np.zeros(3), "higher") == "not told apart by 3 seeds"


def seen_of(values, seeds=3, **spaces):
    """Cells with these linear probes, each lower from seed to seed by a thousandth, and eigenspaces."""
    cells = list(values)
    rows = [
        {"seed": k, "kind": "none", "logistic": values[one] - 0.001 * k, "knn": 0.5, "dimensions_used": 3.0}
        for k in range(seeds)
        for one in cells
    ]
    arrays = {
        f"arm{i}_seed{k}_predictor_{name}": value
        for i in range(len(cells))
        for k in range(seeds)
        for name, value in spaces.items()
    }
    return Seen(cells, rows, arrays)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.cell.row}-{claim.other.row}-{claim.expected}")
def test_every_claim_can_fail(claim):
    """The same numbers the other way round turn its verdict."""
    right = {"higher": 0.1, "lower": -0.1, "not lower": 0.1}[claim.expected]
    for shift, expected in ((right, "as reported"), (-right, "the opposite")):
        one = judged(claim, seen_of({claim.other: 0.7, claim.cell: 0.7 + shift}), **OPTIONS)
        assert one["verdict"] == expected
        line = claims.finding(one)
        assert line.agreement == expected and line.predicted.startswith(f"{claim.expected}: ")
        assert line.measured.startswith(f"logistic probe {69.9 + 100 * shift:.1f} against 69.9: {100 * shift:+.1f} [")
        assert re.search(r"Tian et al\. 2021|Wang et al\. 2021", line.predicted)
    assert judged(claim, seen_of({claim.other: 0.7}), **OPTIONS) is None
    assert "too few" in judged(claim, seen_of({claim.other: 0.7, claim.cell: 0.8}, seeds=2), **OPTIONS)["verdict"]


def test_the_seeds_that_diverged_are_no_pairs():
    one, two = cell("directpred"), cell("linear")
    seen = seen_of({one: 0.8, two: 0.7}, seeds=5)
    rows = [{"seed": k, "kind": "none", "logistic": 0.7 + 0.1 * (i == 0)} for k in range(4) for i in range(2)]
    rows[2] = {"seed": 1, "kind": "diverged", "reason": "not finite"}
    seen = Seen([one, two], rows, {})
    assert len(seen.differences(one, two, "logistic")) == 3 and seen.kinds(one)[1] == "diverged"
    assert seen.spaces(one) == {}


def test_names_say_what_differs():
    texts = [judged(claim, seen_of({claim.cell: 0.7, claim.other: 0.7}), **OPTIONS)["quantity"] for claim in CLAIMS]
    assert texts[0] == "SGD, symmetric against SGD (without EMA, with decay)"
    assert texts[2] == "SGD, symmetric, with EMA against without EMA (with decay)"
    assert texts[4] == "SGD, with decay against without decay (with EMA)"
    assert texts[9] == "DirectPred every 5 steps against DirectPred (with EMA, with decay)"
    assert len(set(texts)) == len(texts)
    rates = list(claims.of_rates([Cell("linear-symmetric", False, True, r) for r in (0.1, 1.0, 3.0)]))
    assert [one.expected for one in rates] == ["lower", "higher"]
    text = judged(rates[1], seen_of({rates[1].cell: 0.7, rates[1].other: 0.7}), **OPTIONS)["quantity"]
    assert text == "SGD, symmetric, rate 3 against SGD, symmetric (without EMA, with decay)"


@pytest.mark.parametrize(
    ("kinds", "agreement"),
    [
        (("directional",) * 3, "as predicted"),
        (("none",) * 3, "not as predicted"),
        (("none", "complete", "undecided"), "in 1 of 2"),
        (("undecided", "diverged", "undecided"), "undecided"),
    ],
)
def test_without_a_predictor_collapse_is_predicted(kinds, agreement):
    rows = [{"seed": k, "kind": kind} for k, kind in enumerate(kinds)]
    assert claims.collapse(Seen([cell("none", "decay")], rows, {})).agreement == agreement
    assert claims.collapse(Seen([cell("linear", "decay")], rows, {})) is None


def test_alignment_is_more_than_a_predictor_near_the_identity():
    """Cosines that rise count only above those of directions that have nothing to do with F."""
    spaces = {name: np.ones((4, 1)) for name in SPACES} | {"f": np.ones((4, 5))}
    spaces |= {"cosine": np.linspace(0.3, 0.9, 4)[:, None] * np.ones(5), "asymmetry": np.linspace(1, 0.2, 4)[:, None]}
    for level, expected in ((0.5, "as reported"), (0.95, "the opposite"), (0.9, "not told apart by 3 seeds")):
        seen = seen_of({cell("linear"): 0.7}, **spaces | {"unaligned": np.full((4, 1), level)})
        (one,) = claims.aligned(seen, **OPTIONS)
        lines = list(claims.aligned_findings(one))
        assert [line.agreement for line in lines] == [expected, expected, "as reported"]
        assert lines[0].measured.startswith("0.90 [0.90 to 0.90] at the end, 0.30 [")
    near = spaces | {"cosine": np.full((4, 5), 0.99)}
    seen = seen_of({cell("linear"): 0.7}, **near)
    spread = {name: np.stack([near[name] + 0.009 * (name == "cosine") * s for s in (-1, 0, 1)]) for name in SPACES}
    seen.spaces = lambda one: spread
    (one,) = claims.aligned(seen, **OPTIONS)
    assert one["all_end"]["low"] < 0.99 < one["all_end"]["high"] <= 1
    grows = spaces | {"asymmetry": spaces["asymmetry"][::-1]}
    (one,) = claims.aligned(seen_of({cell("linear"): 0.7}, **grows), **OPTIONS)
    assert one["asymmetry_verdict"] == "the opposite"
    assert list(claims.aligned(seen_of({cell("directpred"): 0.7}, **spaces), **OPTIONS)) == []
    few = {"cosine": np.tile([0.9, 0.9, 0.1, 0.1, 0.1], (4, 1)), "f": np.tile([8.0, 2.0, 0.0, 0.0, 0.0], (4, 1))}
    (one,) = claims.aligned(
        seen_of({cell("linear"): 0.7}, **spaces | few | {"unaligned": np.full((4, 1), 0.5)}), **OPTIONS
    )
    assert (one["all_verdict"], one["weighted_verdict"]) == ("the opposite", "as reported")
    assert one["weighted_end"]["mean"] == pytest.approx(0.9) and one["all_end"]["mean"] == pytest.approx(0.42)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Three seeds of five cells on few images."""
    whole = load_split("digits", torch.Generator().manual_seed(1))
    split = Split(whole.train[:96], whole.train_labels[:96], whole.test[:60], whole.test_labels[:60])
    rows = ("untrained", "linear-symmetric", "linear", "directpred")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "load_split", lambda *_, **__: split)
        return run(
            DirectPredTableConfig(
                out=tmp_path_factory.mktemp("table") / "run", predictors=rows, teacher=0.0, weight_decay=0.0, rates=(3.0,), dim=4, batch=32,
                steps=3, records=3,
            )
        )  # fmt: skip


@pytest.mark.slow
def test_a_run_has_its_table_its_claims_and_its_page(outcome):
    record = outcome.record
    assert [tuple(one["cell"].values()) for one in record["arms"]] == [
        ("untrained", False, False, 1.0), ("linear-symmetric", False, False, 1.0), ("linear-symmetric", False, False, 3.0),
        ("linear", False, False, 1.0), ("directpred", False, False, 1.0),
    ]  # fmt: skip
    assert len(outcome.table.rows) == 5 and outcome.table.rows[2][:3] == ("SGD, symmetric, rate 3", "no", "no")
    for row, one in zip(outcome.table.rows, record["arms"], strict=True):
        assert f"{100 * one['logistic']['mean']:.1f}" in row[5]
    quantities = [line.quantity for line in outcome.findings]
    assert "SGD, symmetric, rate 3 against SGD, symmetric (without EMA, without decay)" in quantities
    assert quantities[-1] == "images" and all(line.predicted for line in outcome.findings[:-1])
    # A trained matrix is moved from step to step, one in closed form is a function of the average of F.
    found = {
        name: [outcome.arrays[f"arm{k}_seed0_predictor_{name}"] for k in range(5)]
        for name in ("p", "asymmetry", "cosine")
    }
    assert not np.array_equal(found["p"][3][0], found["p"][3][-1])
    assert np.array_equal(found["p"][0][0].round(6), found["p"][0][-1].round(6))  # of the untrained encoder
    assert found["asymmetry"][1].max() == 0 < found["asymmetry"][3].min()
    assert found["cosine"][4][-1].mean() > found["cosine"][3][-1].mean()
    page = page_of(outcome)
    assert [one.name for one in page.sections] == ["cells", "rates", "eigenspaces"]
    assert "@" in cite(outcome) and "2102.06810" in cite(outcome)


@pytest.mark.slow
def test_the_words_of_the_page_follow_the_record(outcome):
    record = copy.deepcopy(outcome.record)

    def words():
        page = page_of(Outcome(record, outcome.metrics, outcome.arrays))
        return " ".join([page.lede, *(one.caption for one in page.sections)])

    record["claims"] = [
        record["claims"][0] | {"verdict": one} for one in ("the opposite", "as reported", "as reported")
    ]
    assert "3 in all: 1 the opposite, 2 as reported;" in words()
    record["claims"] = []
    assert "No difference that the papers report is between cells of this run." in words()
    record["arms"][0]["logistic"]["mean"] = 0.111
    assert "11.1 % untrained, 11.1 to " in words()
    record["arms"][0]["kinds"]["diverged"] = 2
    assert "Diverged and left out: untrained encoder 2." in words()
    record["eigenspaces"][0]["all_end"]["mean"] = 0.123
    assert "0.12 at the end" in words()
    record["arms"] = record["arms"][1:]
    assert "untrained" not in words()


def test_every_row_is_a_choice():
    assert DirectPredTableConfig().predictors == tuple(ROWS)
