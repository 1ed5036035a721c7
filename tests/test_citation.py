"""`cite`: every source that a part declares has its entry, and a run's BibTeX has those of its own parts."""

import re
from pathlib import Path

import pytest
from torch import nn

from grassmann_ssl.citation import FREE, LITERATURE, OWN, SOURCED, cite, cited
from grassmann_ssl.nn.constrain import constraints
from grassmann_ssl.nn.constraint_table import CONSTRAINTS
from grassmann_ssl.runs import Outcome

ROOT = Path(__file__).parents[1]
SOURCES = sorted({one.source for registry in SOURCED.values() for one in registry.values()} - set(OWN))


def run_of(experiment="train", own=(), **config):
    versions = {"grassmann_ssl": "0.1.0", "torch": "2.6.0", "geoopt": None}
    return Outcome({"experiment": experiment, "config": config, "own": list(own), "versions": versions}, {}, {})


def keys(text):
    return re.findall(r"^@misc{(.*),$", text, re.MULTILINE)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_its_entries(source):
    """As many as it names, each by the author and year that the source says."""
    entries = cited(source)
    for paper in source.split("; "):
        (entry,) = cited(paper)
        assert entry in entries
        plain = entry.authors.replace("é", "e")
        assert paper.startswith(plain.split(" and ")[0].split(" ", 1)[1].split()[-1]) or paper.startswith(
            "van den Oord"
        )
        assert str(entry.year) in paper
        last = [name.split()[-1] for name in plain.split(" and ")]
        said = re.split(", | & ", re.match(r"(.*?) \d{4}", paper)[1])
        assert said == last or (said[0].endswith(" et al.") and len(last) > 2), paper


def test_entries_are_of_one_form():
    marks, all_keys = [one.found for one in LITERATURE], [one.key for one in LITERATURE]
    assert len(set(marks)) == len(marks) and len(set(all_keys)) == len(all_keys)
    for one in LITERATURE:
        assert re.fullmatch(r"[a-z-]+\d{4}[a-z]+", one.key), one.key
        assert one.url or re.fullmatch(r"\d{4}\.\d{5}|physics/\d{7}", one.found), one.found
        text = one.bibtex("1.0")
        assert text.count("{") == text.count("}") and "&" not in text and "_" not in one.title


def test_a_run_cites_its_parts_and_the_tools_with_their_versions():
    text = cite(run_of(objective="moco:queue=64", constraint="grassmann", predictor="none", optimizer="lars"))
    tools = ["kochurov2020geoopt", "paszke2019pytorch", "grassmann_ssl"]
    assert keys(text) == ["he2020momentum", "edelman1998geometry", "you2017large", *tools]
    assert "note = {version 2.6.0}" in text and text.count("note") == 2
    assert "title = {{Momentum Contrast for Unsupervised Visual Representation Learning}}" in text
    assert "eprint = {1911.05722},\n  archivePrefix = {arXiv}\n}" in text
    assert keys(cite(run_of(objective="barlow_twins", own=["objective"]))) == tools  # a name of the user's own
    assert keys(cite(run_of(objective="barlow_twins"))) == ["zbontar2021barlow", "simon2023stepwise", *tools]


def test_riemannian_optimizers_are_cited_where_something_is_on_a_manifold():
    for name, constraint in CONSTRAINTS.items():
        model = nn.Sequential(nn.Linear(4, 2))
        constraint.put(model, "last")
        assert (name in FREE) == (not constraints(model))
        assert ("becigneul2019riemannian" in keys(cite(run_of(constraint=name, optimizer="adam")))) == (
            name not in FREE
        )
        assert "you2017large" in keys(cite(run_of(constraint=name, optimizer="lars")))


def test_comparisons_cite_all_their_arms():
    arms = [
        "constraint=grassmann",
        "objective=vicreg, constraint=grassmann",
        "predictor=mlp,objective=negative_cosine,optimizer=adam",
    ]
    found = keys(cite(run_of("compare-encoders", arms=arms)))
    for key in ("chen2020simple", "edelman1998geometry", "bardes2022vicreg", "chen2021exploring", "grill2020bootstrap"):
        assert found.count(key) == 1
    shared = keys(cite(run_of("compare-encoders", arms=["constraint=grassmann"], common="objective=vicreg")))
    assert "bardes2022vicreg" in shared and "edelman1998geometry" in shared and "chen2020simple" not in shared
    found = keys(cite(run_of("compare", objectives=("vicreg", "infonce"), arms=("free", "grassmann"))))
    assert {"bardes2022vicreg", "oord2018representation", "edelman1998geometry"} <= set(
        found
    ) and "chen2020simple" not in found


def test_this_package_is_cited_as_its_file_says():
    file = (ROOT / "CITATION.cff").read_text()
    (title,), (author,) = (
        re.findall(r"^title: (.*)", file, re.MULTILINE),
        re.findall(r"^  - name: (.*)", file, re.MULTILINE),
    )
    text = cite(run_of()).rpartition("@misc")[2].replace(r"\_", "_")
    assert f"title = {{{{{title}}}}}" in text and f"author = {{{{{author}}}}}" in text
    for paper, number in re.findall(r"title: (.*)\n(?:.*\n)*?.*value: arXiv:(\S+)", file.partition("references:")[2]):
        assert [one.title for one in LITERATURE if one.found == number] == [paper]
