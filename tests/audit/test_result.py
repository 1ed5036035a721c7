"""An audit as text, table, picture, gate and run folder: each says what the audit says."""

import html
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from grassmann_ssl.audit import Audit, CollapseError, Number, Rule, Verdict, audit_embeddings
from grassmann_ssl.audit.words import judgement, number_text
from grassmann_ssl.runs import ConfigError, Outcome

D = 24
THIRD = r"<3> & $\x$"  # markup, and mathematics that matplotlib does not know


def draw(seed, n, d=D):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(count, rows, collapsed=()):
    """Rows of classes around means of their own, some with next to no variance, and their labels."""
    label = np.arange(count * rows) % count
    z = draw(0, len(label)) + 3 * draw(1, count)[label]
    for one in collapsed:
        z[label == one] = 3 * draw(1, count)[one] + 1e-3 * draw(2, rows)
    return z, label


@pytest.fixture(scope="module")
def audits():
    z, label = classes(12, 60, (3,))
    crowd, numbers = classes(300, 8, (5, 7))
    return {
        "healthy": audit_embeddings(draw(0, 600)),
        "rank 3": audit_embeddings(draw(0, 600, 3) @ draw(1, 3)),
        "constant": audit_embeddings(torch.full((30, D), 3.3)),
        "few rows": audit_embeddings(draw(0, 15)),
        "two rows": audit_embeddings(draw(0, 2)),
        "one dimension": audit_embeddings(draw(0, 50, 1)),
        "classes": audit_embeddings(z, labels=np.array([f"<{k}> & $\\x$" for k in label])),
        "cone": audit_embeddings(draw(0, 600) * 0.3 + 10, directions=True),
        "one class": audit_embeddings(draw(0, 600), labels=np.zeros(600, int)),
        "300 classes": audit_embeddings(crowd, labels=numbers),
        "equal class": audit_embeddings(torch.cat([draw(0, 60), torch.ones(8, D)]), labels=["a"] * 60 + ["b"] * 8),
        "pairs": audit_embeddings(draw(0, 200), z_positive=draw(0, 200) + 0.1 * draw(1, 200)),
    }


NAMES = [
    "healthy", "rank 3", "constant", "few rows", "two rows", "one dimension", "classes", "cone", "one class", "300 classes",
    "equal class", "pairs",
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("healthy", r"no collapse"),
        (
            "rank 3",
            r"dimensional collapse \(few dimensions used and dead dimensions\)|dimensional collapse \(dead .*\)",
        ),
        ("constant", r"complete collapse"),
        ("few rows", r"undecided; open: dimensional \(.*independent rows would tell\)"),
        ("cone", r"directional collapse"),
        ("classes", r"class collapse: <3> & \$\\x\$"),
        ("300 classes", r"class collapse: 5, 7"),
    ],
)
def test_the_verdict_is_a_sentence(audits, name, sentence):
    assert re.fullmatch(sentence, audits[name].judgement), audits[name].judgement


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("healthy", rf"none: [\d. \[\],]+ of {D} dimensions used; 600 rows"),
        ("rank 3", rf"dimensional: [\d. \[\],]+ of {D} dimensions used, 3 \[3, 3\] live; 600 rows"),
        ("constant", rf"complete: total variance 0 \[0, 0\] in {D} dimensions; 30 rows"),
        ("few rows", r"undecided, dimensional open: .*; 15 rows"),
        ("cone", r"directional: .* used, spread 0\.\d+ \[.*\]; directions of 600 rows"),
        ("300 classes", r"class 5 7: .*; 2,400 rows"),
    ],
)
def test_a_repr_names_what_decides(audits, name, text):
    assert re.fullmatch(rf"Audit\({text}\)", repr(audits[name])), repr(audits[name])


def test_a_sentence_names_some_of_many_classes_and_every_kind():
    many = Verdict(("dimensional", "class"), {}, True, False, tuple(f"c{k}" for k in range(20)))
    text = "dimensional, class collapse (dead dimensions): c0, c1, c2, c3, c4, c5, c6, c7 and 12 more"
    assert judgement(many) == text
    assert (
        judgement(Verdict(("class",), {"dimensional": "why"}, None, None, ("a",)))
        == "class collapse: a; open: dimensional (why)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_its_texts_are_short_escaped_and_begin_with_the_verdict(audits, name):
    audit = audits[name]
    used = audit["dimensions_used"]
    assert str(used).startswith(f"dimensions_used {number_text(used)}: how many dimensions")
    assert "\n" not in repr(audit) and len(repr(audit)) < 130
    page = audit._repr_html_()
    assert page.startswith(f"<p><b>{html.escape(audit.judgement)}</b></p><p>{html.escape(audit.judged)}</p><table>")
    assert page.index("</table>") < page.index(html.escape(str(audit.rule)))
    assert all(one.name in page and html.escape(one.meaning) in page for one in audit.numbers)
    assert not re.search(r"<\d", page)  # a label of ours is no element
    if audit.classes:
        assert page.index(html.escape(str(audit.rule))) < page.index("<th>class</th>")
    assert page.count("<tr>") <= len(audit.numbers) + 2 + 20


def test_a_number_shows_its_interval_as_far_as_it_is_known(audits):
    one = Number("n", 1.5, 1.0, 2.0, None, "", "")
    for changed, text in (
        ({}, "1.5 [1, 2]"),
        ({"high": None}, "1.5 [at least 1]"),
        ({"low": None}, "1.5 [at most 2]"),
        ({"low": None, "high": None}, "1.5"),
        ({"value": None}, "unknown"),
    ):
        shown = replace(audits["healthy"], numbers=(replace(one, **changed),))._repr_html_()
        assert f"<td>{text}</td>" in shown


def test_frames_hold_the_numbers_and_the_classes(audits):
    audit = audits["classes"]
    frame, table = audit.frame(), audit.class_frame()
    assert list(frame.index) == [one.name for one in audit.numbers]
    assert frame.loc["dimensions_used", "value"] == audit["dimensions_used"].value
    assert len(table) == 12 and table.index[table["collapsed"]].tolist() == [THIRD]
    assert table["rows"].tolist() == [60] * 12 and (table["low"] <= table["dimensions_used"]).all()
    assert table.loc[THIRD, "share_of_variance"] < 0.01 < table.drop(THIRD)["share_of_variance"].min()
    empty = audits["healthy"].class_frame()
    assert len(empty) == 0 and list(empty.columns) == list(table.columns)


def shown(axes, color):
    return [line for line in axes.lines if line.get_color() == color]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_audit_has_a_picture_that_is_read_in_a_narrow_column(audits, name):
    """Letters of 12 points in 6.2 inches are 7 pixels high where the picture is 400 wide; no warning while it is drawn."""
    audit = audits[name]
    figure = audit.plot()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=60)
    height, width = imread(io.BytesIO(buffer.getvalue())).shape[:2]
    assert width < 400 and height < 3 * width
    assert len(figure.axes) == 2 + bool(audit.classes)
    sizes = [text.get_fontsize() for axes in figure.axes for text in (axes.title, *axes.texts, *axes.get_xticklabels())]
    assert min(sizes) >= 10
    title = figure.get_suptitle().replace("\n", " ")
    assert title.replace("\\$", "$").startswith(audit.judgement[:40])


def test_the_spectra_and_the_threshold_are_drawn_as_they_are(audits):
    audit = audits["healthy"]
    top = audit.plot().axes[0]
    sample, population, threshold = top.lines
    np.testing.assert_array_equal(population.get_ydata(), audit.spectrum)
    np.testing.assert_array_equal(sample.get_ydata(), audit.sample_spectrum)
    assert set(threshold.get_ydata()) == {audit.rule.dead * audit.spectrum[0]}
    band = top.collections[0].get_paths()[0].vertices
    assert math.isclose(band[:, 1].max(), audit.band[1].max()) and math.isclose(band[:, 1].min(), audit.band[0].min())
    assert top.get_title("left") == "eigenvalues of the covariance of z"
    assert "z / ‖z‖" in audits["cone"].plot().axes[0].get_title("left")
    dead = audits["rank 3"].plot().axes[0]
    assert (dead.lines[1].get_ydata()[3:] == dead.get_ylim()[0]).all()  # at the lower edge: nothing
    assert np.isnan(dead.lines[0].get_ydata()[4:]).all()
    assert "no variance" in [text.get_text() for text in audits["constant"].plot().axes[0].texts]


def test_directions_stand_against_the_threshold_of_the_rule(audits):
    panel = audits["cone"].plot().axes[1]
    bar, dot = panel.lines[1:]
    spread = audits["cone"]["spread"]
    assert dot.get_xdata() == [spread.value] and list(bar.get_xdata()) == [spread.low, spread.high]
    assert panel.lines[0].get_xdata()[0] == audits["cone"].rule.spread and dot.get_color() == "#c1440e"
    assert panel.get_title("left") == "variance of z / ‖z‖"
    plain = audits["healthy"].plot().axes[1]
    assert plain.get_title("left").endswith("(not judged)") and plain.lines[-1].get_color() != "#c1440e"


@pytest.mark.parametrize("name", ["a/folder/of/many/{}", "{}_of_many_in_one_folder"])
def test_long_names_of_classes_are_told_apart(name):
    labels = [name.format(k // 10) for k in range(40)]
    shown = [tick.get_text() for tick in audit_embeddings(draw(0, 40), labels=labels).plot().axes[2].get_yticklabels()]
    assert len(set(shown)) == 4 and {len(text) for text in shown} == {18}


def test_classes_are_sorted_and_the_collapsed_are_marked(audits):
    audit = audits["classes"]
    panel = audit.plot().axes[2]
    dots = [line for line in panel.lines if len(line.get_xdata()) == 1]
    used = [float(dot.get_xdata()[0]) for dot in dots]
    assert len(dots) == 12 and used[1:] == sorted(used[1:])
    assert [dot.get_color() == "#c1440e" for dot in dots] == [True] + [False] * 11
    names = [label.get_text().replace("\\$", "$") for label in panel.get_yticklabels()]
    assert names[0] == THIRD and len(set(names)) == 12
    assert "1 collapsed" in panel.get_title("left") and panel.get_ylim()[0] > panel.get_ylim()[1]
    bars = {row.name: (row.low, row.high) for row in audit.classes}
    ends = [tuple(line.get_xdata()) for line in panel.lines if len(line.get_xdata()) == 2]
    assert ends == [bars[name] for name in names]
    crowd = audits["300 classes"].plot().axes[2]
    assert not crowd.get_yticklabels() and len(shown(crowd, "#c1440e")) == 4
    assert audits["equal class"].plot().axes[2].texts[0].get_text().endswith("% of the variance")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "none"}, r"kind is dimensional collapse \(.*\), not none"),
        ({"kind": ("none", "undecided")}, r"not none or undecided"),
        ({"kind": "none", "dimensions_used": 10}, r"not none; dimensions_used is 2\.\d+ \[.*\], below 10"),
        ({"condition_number": 1.0}, r"condition_number is unknown, below 1"),
    ],
)
def test_the_gate_says_all_that_falls_short(audits, settings, message):
    with pytest.raises(CollapseError, match=message):
        audits["rank 3"].require(**settings)


def test_the_gate_lets_through_what_meets_it_and_refuses_what_it_does_not_know(audits):
    audits["rank 3"].require(kind="dimensional", dimensions_used=1.5)
    audits["healthy"].require(kind=("none", "undecided"), share_used=0.5, dimensions_used=10)
    with pytest.raises(CollapseError, match="kind is none, not dimensional"):
        audits["healthy"].require(kind="dimensional")
    with pytest.raises(ValueError, match=r"kind must be of none, complete, .*, got 'dimensionl'"):
        audits["healthy"].require(kind="dimensionl")
    with pytest.raises(ValueError, match="rank: the numbers of this audit are dimensions_used"):
        audits["healthy"].require(rank=3)


def same(one, other):
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_audit_is_a_run_folder_and_comes_back_whole(audits, name, tmp_path):
    audit = audits[name]
    folder = tmp_path / "one" / "run"
    audit.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".files.json", "arrays.safetensors", "audit.svg", "config.toml", "metrics.parquet", "report.html", "run.json",
    ]  # fmt: skip
    back = Audit.load(folder)
    same(audit, back)
    assert back._repr_html_() == audit._repr_html_() and repr(back) == repr(audit)
    record = json.loads((folder / "run.json").read_text())
    assert record["experiment"] == "audit" and record["verdict"]["kind"] == audit.kind and record["versions"]["torch"]
    assert record["verdict"]["judgement"] == audit.judgement and record["rule"]["used"] == audit.rule.used
    table = pd.read_parquet(folder / "metrics.parquet").set_index("name")
    assert list(table.index) == [one.name for one in audit.numbers]
    for one in audit.numbers:
        stored = table.loc[one.name, "value"]
        assert np.isnan(stored) if one.value is None else stored == one.value


def test_what_is_not_finite_is_stored_as_unknown(audits, tmp_path):
    odd = Number("odd", math.nan, -math.inf, math.inf, 1.0, "", "nothing")
    replace(audits["healthy"], numbers=(*audits["healthy"].numbers, odd)).save(tmp_path / "run")
    assert Audit.load(tmp_path / "run")["odd"] == replace(odd, value=None, low=None, high=None)


def test_a_folder_is_not_overwritten_unasked_and_must_hold_an_audit(audits, tmp_path):
    audits["healthy"].save(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="holds another run"):
        audits["rank 3"].save(tmp_path / "run")
    audits["rank 3"].save(tmp_path / "run", overwrite=True)
    assert Audit.load(str(tmp_path / "run")).kind == "dimensional"
    with pytest.raises(ConfigError, match="holds no run"):
        Audit.load(tmp_path / "nowhere")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"experiment": "width"}))
    with pytest.raises(ConfigError, match="the run is of 'width', not an audit"):
        Audit.load(tmp_path / "run")


def test_the_rule_and_the_settings_are_stored_with_it(tmp_path):
    rule = Rule(used=0.5, dead=1e-3)
    audit_embeddings(draw(0, 600) * torch.arange(1, D + 1) ** -1.0, rule=rule, confidence=0.9, directions=True).save(
        tmp_path / "run"
    )
    outcome = Outcome.load(tmp_path / "run")
    assert outcome.record["config"]["rule_used"] == 0.5 and outcome.record["config"]["confidence"] == 0.9
    assert outcome.record["config"]["directions"] and outcome.record["config"]["file"] is None
    assert Audit.load(tmp_path / "run").rule == rule and outcome.failed is None
