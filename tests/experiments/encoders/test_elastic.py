"""A process of a training on several is killed: torchrun starts them again, and the run goes on from its checkpoint."""

import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from grassmann_ssl.runs import Outcome
from tests.commands import command
from tests.readme import BIN, ROOT

LINE = "train --steps 8 --batch 64 --records 4 --save-every 2 --objective nt_xent --constraint grassmann --out"
KILLED = 5

pytestmark = pytest.mark.slow


def two_processes(folder, restarts, step):
    """The line on two processes, of which the last is killed before a step, at its first start."""
    launcher = [BIN / "torchrun", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    given = ["-m", "tests.dying", str(step), f"{LINE} {folder}"]
    return subprocess.run([*launcher, *given], capture_output=True, text=True, timeout=240, cwd=ROOT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = two_processes(folder, restarts=0, step=-1)
    assert done.returncode == 0, done.stderr
    return folder


def test_processes_that_are_started_again_end_with_the_same_bits(whole, tmp_path):
    folder = tmp_path / "run"
    done = two_processes(folder, restarts=1, step=KILLED)
    assert done.returncode == 0 and "resumed at step 4 of 8" in done.stderr, done.stderr
    one, other = Outcome.load(whole), Outcome.load(folder)
    assert one.record["resumed"] is None and "4 of 8" in other.record["resumed"]
    assert one.record["verdict"] == other.record["verdict"]
    for a, b in ((one.metrics, other.metrics), (one.arrays, other.arrays)):
        assert a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert (whole / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_one_process_goes_on_where_two_were_killed(whole, tmp_path):
    folder = tmp_path / "run"
    assert two_processes(folder, restarts=0, step=KILLED).returncode != 0
    done = command(*f"{LINE} {folder}".split())
    assert done.returncode == 0 and "resumed at step 4 of 8" in done.stderr, done.stderr
    alone, together = (load_file(path / "weights.safetensors") for path in (folder, whole))
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        if value.dtype.kind == "f":
            # float32, four steps of momentum and batch norms, whose sums over two halves are rounded otherwise
            assert np.abs(together[name] - value).max() < 2e-4 * (1 + np.abs(value).max()), name
