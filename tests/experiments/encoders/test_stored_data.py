"""Training on images that stay in their file: the same bits, and no more memory than a batch and a chunk of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from grassmann_ssl.data import stored
from grassmann_ssl.experiments.encoders.train import train
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from tests.readme import ROOT

LARGE = 1_500_000_000


@pytest.mark.slow
def test_a_run_has_the_same_bits_whether_its_images_are_in_memory_or_in_the_file(tmp_path, monkeypatch):
    """Training, spectra, verdict, probes and stored embeddings."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "both.npz", labels=rng.integers(0, 3, 90))
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 90))
    config = TrainConfig.of(
        data=f"arrays:{tmp_path / 'x.npy'}", labels=str(tmp_path / "y.npy"), steps=6, batch=16, records=3, dim=4, hidden=8,
        accumulate=2, embeddings=True,
    )  # fmt: skip
    whole = train(config)
    monkeypatch.setattr(stored, "HELD", 0)
    monkeypatch.setattr(stored.StoredImages, "part", spied := Spy(stored.StoredImages.part))
    found = train(config)
    assert spied.calls  # the images did stay in the file
    left_out = ("date", "wall_time_s", "seconds_per_step", "findings")
    one, other = ({k: v for k, v in outcome.record.items() if k not in left_out} for outcome in (whole, found))
    assert one == other
    for name in ("metrics", "arrays"):
        one, other = getattr(whole, name), getattr(found, name)
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key], equal_nan=True) for key in one)
    for name, content in whole.files.items():
        assert all(np.array_equal(content[key], found.files[name][key]) for key in content)


class Spy:
    """A method that counts its calls."""

    def __init__(self, method):
        self.method, self.calls = method, 0

    def __get__(self, owner, _):
        self.calls += 1
        return self.method.__get__(owner)


MEASURE = """
import json, sys
from benchmarks.harness import resident_peak
from grassmann_ssl.experiments.encoders.train import train
from grassmann_ssl.experiments.encoders.train_config import TrainConfig

def peak_of(data):
    train(TrainConfig.of(data="arrays:" + data, augmentation="stl", steps=3, batch=32, records=2))
    return resident_peak()

print(json.dumps([peak_of(data) for data in sys.argv[1:]]))
"""


@pytest.mark.slow
def test_data_larger_than_memory_are_trained_on(tmp_path):
    """1.5 GB of 32 x 32 images, zeros but for one row of every 1024th, within a fifth of that."""
    count = LARGE // (3 * 32 * 32)
    path = tmp_path / "large.npy"
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 3, 32, 32))
    if 512 * path.stat().st_blocks > LARGE / 50:
        path.unlink()
        pytest.skip("the disk of temporary files has no sparse files")
    images[::1024, 1, 30] = 200
    images.flush()
    del images
    small = tmp_path / "small.npy"
    np.save(small, np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    path.unlink()
    assert not done.returncode, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert after - before < LARGE / 5
