"""The run folder: open formats, written atomically; and the provenance of a run."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from grassmann_ssl.runs.config import ConfigError


def provenance(device: torch.device) -> dict[str, Any]:
    """Provenance of a run: date, versions, git commit of the package's checkout (None outside one), device, machine."""
    packages = ("grassmann_ssl", "torch", "geoopt", "numpy", "scipy", "scikit-learn")
    cuda = device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version_of(name) for name in packages}},
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
    }


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout this file belongs to, with "+changes" where its tracked files were edited."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


class RunFolder:
    """A folder that appears at `path` only when everything in it has been written.

    Raises ConfigError where `path` exists and holds another run (names the flag that replaces it) or something that is no run.
    """

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path = path
        if path.is_file():
            raise ConfigError(f"out: {path} is a file; give a folder")
        if path.exists() and any(path.iterdir()):
            if not (path / "run.json").exists():
                raise ConfigError(f"out: {path} is not empty and holds no run; give another folder")
            if not overwrite:
                raise ConfigError(f"out: {path} holds another run; replace it with --overwrite or give another folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"out: cannot create {path.parent}: {error.strerror}") from None
        if not os.access(path.parent, os.W_OK):
            raise ConfigError(f"out: {path.parent} is not writable")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A temporary folder beside the final one, moved into place on success and removed on failure."""
        with tempfile.TemporaryDirectory(prefix=f".{self.path.name}-", dir=self.path.parent) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            yield new
            if self.path.exists():
                os.replace(self.path, old)
            os.replace(new, self.path)
            shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON. Raises ValueError for NaN and infinity."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
