"""Memory of `train`: that of the images, of a step and of a chunk, whatever the number of pixels squared."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.readme import ROOT

MEASURE = """
import json, sys
from benchmarks.harness import resident_peak
from grassmann_ssl.experiments.encoders.train import train
from grassmann_ssl.experiments.encoders.train_config import TrainConfig

def peak_of(data):
    train(TrainConfig.of(data=data, encoder="linear", augmentation="digits", steps=2, batch=16, records=2))
    return resident_peak()

print(json.dumps([peak_of(data) for data in sys.argv[1:]]))
"""


@pytest.mark.slow
def test_no_memory_grows_with_the_square_of_the_pixels(tmp_path):
    """The first run, on small images, takes what imports take. The covariance of 12,288 pixels alone is 1.2 GB."""
    paths = []
    for side, count in ((8, 200), (64, 200)):
        path = tmp_path / f"{side}.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8))
        paths.append(path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *(f"arrays:{path}" for path in paths)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    work = 2**28  # of a step and of a chunk that is embedded: 120 MiB here
    assert after - before < 2.5 * paths[1].stat().st_size + work
