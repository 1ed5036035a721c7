"""The campaign of stopped runs, in short: what it finds, and that it finds a difference."""

import json
import subprocess
import sys

import pytest

from benchmarks import kills
from tests.readme import ROOT


@pytest.mark.slow
def test_stopped_runs_end_as_those_that_are_not(tmp_path):
    """By SIGKILL and by SIGTERM, in a process of its own, which forks the runs."""
    out = tmp_path / "found.json"
    given = [sys.executable, "-m", "benchmarks.kills", "--rounds", "1", "--how", "kill", "term", "--out", str(out)]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    records = json.loads(out.read_text())["records"]
    assert [found["how"] for found in records] == ["kill", "term"]
    for found in records:
        assert found["identical"] == found["runs"] == 1 and found["stopped"] >= 1 and found["unreadable"] == 0


def test_times_are_no_difference_and_numbers_are(tmp_path):
    def folder(name, **record):
        at = tmp_path / name
        at.mkdir()
        whole = {"findings": [], "loss": 1.0, "date": "today", **record}
        (at / "run.json").write_text(json.dumps(whole, indent=1))
        (at / "weights.safetensors").write_bytes(b"1")
        return kills.content(at)

    one = folder("one")
    assert folder("two", date="tomorrow") == one and folder("three", loss=2.0) != one
    (tmp_path / "two" / "weights.safetensors").write_bytes(b"2")
    assert kills.content(tmp_path / "two") != one


def test_a_large_disk_is_not_filled(tmp_path, monkeypatch):
    campaign = kills.Campaign(tmp_path, kills.random.Random(1), None, {0: ({"a": b"12345"}, 1.0)})
    monkeypatch.setattr(kills.shutil, "disk_usage", lambda _: kills.shutil._ntuple_diskusage(2**40, 0, 2**40))
    with pytest.raises(RuntimeError, match="is on a large disk"):
        campaign.fill(campaign.config(0), 1.0)
    assert list(tmp_path.iterdir()) == []
