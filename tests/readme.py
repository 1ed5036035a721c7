"""Commands of the README, run as a reader runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SEEDS = 4  # of the demo in tests; 20 by default


def run(command, folder):
    """A command in a folder of its own, with the real Makefile and the environment that runs the tests; returns what it prints."""
    for name in ("Makefile", "setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    command = command.replace("make ", f"make --old-file {BIN.parent}/.installed ")
    # A make that runs the tests would have its child name the folders it enters.
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    inherited = {name: value for name, value in os.environ.items() if name not in of_make}
    environment = inherited | {"VENV": str(BIN.parent)}
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
