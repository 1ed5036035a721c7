"""The run folder: open formats, written whole or not at all, by one run at a time; and the provenance of a run."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from grassmann_ssl.distributed import writes
from grassmann_ssl.runs.config import ConfigError, RunConfig
from grassmann_ssl.runs.disk import flush, replacing

ALWAYS = ("run.json", "metrics.parquet", "arrays.safetensors", "report.html")  # of every run
MANIFEST = ".files.json"  # the names of the run's own files: no other is ever replaced or removed
LOCK, NEW, WHOLE = ".lock", ".new", ".complete"  # there while a run writes
# What an unfinished run keeps to be continued, the mark of it last.
CHECKPOINT, PARTS, UNFINISHED = "checkpoint.safetensors", "parts", "unfinished.json"
FREE = (
    "device",
    "out",
    "overwrite",
    "resume",
    "save_every",
    "embeddings",
    "log",
)  # settings that a run which goes on may change


def provenance(device: torch.device) -> dict[str, Any]:
    """Provenance of a run: date, versions, git commit of the package's checkout (None outside one), device, machine."""
    packages = ("grassmann_ssl", "torch", "geoopt", "numpy", "scipy", "scikit-learn")
    cuda = device.type == "cuda"
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: _version_of(name) for name in packages},
            "torch": str(torch.__version__),  # with its build, which the metadata of some wheels do not name
        },
        "git_commit": _git_commit(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "machine": platform.machine(),
    }


@cache
def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _git_commit() -> str | None:
    """The commit of the checkout this file belongs to, with "+changes" where its tracked files were edited, when first asked."""
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


def binding(config: RunConfig) -> dict[str, Any]:
    """The settings that a run which goes on must share, as JSON has them, and its experiment: all but those of FREE."""
    settings = {name: value for name, value in config.values().items() if name not in FREE}
    found: dict[str, Any] = json.loads(json.dumps({**settings, "experiment": config.NAME}, default=str))
    return found


class RunFolder:
    """The folder of one run, from its first check to its last file; a context, which no other run enters at the same time.

    What the folder held stays until the run is written as a whole, and what is not of a run stays for good. A folder that a killed run
    left is put in order first. In the processes of torchrun but the first nothing is written.

    Raises ConfigError, when it is entered, where `config.folder` cannot be written, is written by another run, or holds something: no run,
    or a run that `config.overwrite` does not replace. An unfinished run of the same settings goes on: `continued`, unless not
    `config.resume`, which starts it anew.
    """

    def __init__(self, config: RunConfig) -> None:
        self.path, self.config = config.folder, config
        self.continued = False
        self._created, self._lock = False, -1

    def __enter__(self) -> "RunFolder":
        path = self.path
        try:
            if path.is_symlink() and not path.exists():
                raise ConfigError(f"out: {path} is a link to {os.readlink(path)}, which is not there")
            if path.exists() and not path.is_dir():
                raise ConfigError(f"out: {path} is a file; give a folder")
            if not writes():
                self._check()
                return self
            self._created = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"out: cannot create {str(path)!r}: {_reason(error)}") from None
        try:
            self._lock = _locked(path)
        except BlockingIOError:
            raise ConfigError(
                f"out: {path} is being written by another run; wait for it or give another folder"
            ) from None
        except OSError as error:
            raise ConfigError(f"out: {path} is not writable: {_reason(error)}") from None
        try:
            _put_in_order(path)
            self._check()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise ConfigError(f"out: {path} cannot be put in order: {_reason(error)}") from None
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the folder; one that nothing was kept in is not left behind."""
        if self._lock < 0:
            return
        _put_in_order(self.path)
        _unlock(self.path, self._lock)
        self._lock = -1
        if self._created and not any(self.path.iterdir()):
            self.path.rmdir()

    def _check(self) -> None:
        path = self.path
        if unfinished(path):
            now = binding(self.config)
            try:
                then = json.loads((path / UNFINISHED).read_text(encoding="utf-8"))
                different = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
                told = "; ".join(f"{name}: {then.get(name)!r} then, {now.get(name)!r} now" for name in different)
            except (AttributeError, TypeError, ValueError):
                different, told = [UNFINISHED], f"{UNFINISHED} cannot be read"
            if not different:
                self.continued = self.config.resume
                return
            holds = f"an unfinished run of other settings ({told})"
        elif _is_run(path):
            holds = "another run"
            kept = [name for name in (CHECKPOINT, PARTS) if self.config.RESUMES and (path / name).exists()]
            if kept:
                raise ConfigError(f"out: {path / kept[0]} is of no run that is known here, and in the way; move it")
        elif path.exists() and any(one.name != LOCK for one in path.iterdir()):
            raise ConfigError(f"out: {path} is not empty and holds no run; give another folder")
        else:
            return
        if not self.config.overwrite:
            raise ConfigError(
                f"out: {path} holds {holds}; replace it with overwrite = True (--overwrite), or give another folder"
            )

    def keep(self, name: str) -> Path | None:
        """Where the run keeps what makes it go on: CHECKPOINT or PARTS. From the first call on it is an unfinished run.

        What another unfinished run kept is gone then. None where there is nothing to read and, in a process that does not write, nothing to
        write.
        """
        if not writes():
            return self.path / name if self.continued else None
        if not self.continued:
            _discard(self.path)
            try:
                with replacing(self.path / UNFINISHED) as scratch:
                    write_json(scratch, binding(self.config))
            except OSError as error:
                raise ConfigError(f"out: {self.path} is not writable: {_reason(error)}") from None
            self.continued = True
        return self.path / name

    @contextmanager
    def writing(self, finished: bool = True) -> Iterator[Path]:
        """A hidden folder for the files of the run. They take the place of those of the last run when all are on the disk, or not at all.

        What an unfinished run kept to go on is removed, but what this one did if it is not `finished`.
        """
        new = self.path / NEW
        try:
            new.mkdir()
            yield new
            names = sorted(one.name for one in new.iterdir())
            write_json(new / MANIFEST, {"files": names, "finished": finished or not self.continued})
            for one in new.iterdir():
                flush(one)
            flush(new)
            os.replace(new, self.path / WHOLE)  # from here on the run is written
        finally:
            shutil.rmtree(new, ignore_errors=True)
        flush(self.path)
        _settle(self.path)


def unfinished(path: Path) -> bool:
    """Whether a folder holds an unfinished run, which the same command continues."""
    return (path / UNFINISHED).exists() and any((path / name).exists() for name in (CHECKPOINT, PARTS))


def settled(path: Path) -> None:
    """Finish what a killed run had written as a whole, and not yet moved into place."""
    if (path / WHOLE).is_dir():
        lock = _locked(path, wait=True)
        try:
            _settle(path)
        finally:
            _unlock(path, lock)


def own(path: Path, names: Iterable[str]) -> None:
    """Add files that were written later, such as figures drawn again, to those that the folder lists as the run's own."""
    listed = {*_listed(path), *names}
    if (path / MANIFEST).exists() and listed != set(_listed(path)):
        with replacing(path / MANIFEST) as scratch:
            write_json(scratch, {**_manifest(path), "files": sorted(listed)})


def _listed(path: Path) -> list[str]:
    """The files that a folder lists. Nothing but names: a folder of somebody else may say anything."""
    listed = _manifest(path).get("files")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    return [name for name in names if Path(name).name == name and name.isprintable() and name and name[0] != "."]


def _manifest(path: Path) -> dict[str, Any]:
    """What the list of a folder says; nothing where it cannot be read."""
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _settle(path: Path) -> None:
    """Move the files of WHOLE into place. What is done is done: it may be stopped anywhere and begun again."""
    whole = path / WHOLE
    if (whole / MANIFEST).exists():
        before, now = {*ALWAYS, *_listed(path)}, _listed(whole)
        for name in before - set(now):
            if not (path / name).is_dir():
                (path / name).unlink(missing_ok=True)
        for name in now:
            if (whole / name).exists():
                if name not in before and os.path.lexists(path / name):  # not ours: it stays, under another name
                    os.replace(path / name, path / f"{name}~")
                os.replace(whole / name, path / name)
        if _manifest(whole).get("finished"):
            _discard(path)
        flush(path)
        os.replace(whole / MANIFEST, path / MANIFEST)
    shutil.rmtree(whole)
    flush(path)


def _put_in_order(path: Path) -> None:
    """After a run that was killed: what it had written as a whole is moved into place, and its scratch files go."""
    if (path / WHOLE).is_dir():
        _settle(path)
    shutil.rmtree(path / NEW, ignore_errors=True)
    for folder in (path, path / PARTS):
        for scratch in folder.glob(".*.part"):
            shutil.rmtree(scratch, ignore_errors=True)
    if not unfinished(path):
        (path / UNFINISHED).unlink(missing_ok=True)


def _discard(path: Path) -> None:
    """Remove what an unfinished run kept, and nothing where there is none."""
    if not (path / UNFINISHED).exists():
        return
    (path / CHECKPOINT).unlink(missing_ok=True)
    for one in (path / PARTS).glob("*.safetensors"):
        one.unlink()
    if (path / PARTS).is_dir() and not any((path / PARTS).iterdir()):
        (path / PARTS).rmdir()
    (path / UNFINISHED).unlink()


def _is_run(path: Path) -> bool:
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        return isinstance(record, dict) and {"experiment", "config"} <= record.keys()
    except (OSError, ValueError):
        return False


def _locked(path: Path, wait: bool = False) -> int:
    """The open lock of a folder, which the kernel releases when this process ends, however it ends. Raises BlockingIOError."""
    while True:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(lock)
            raise
        except OSError:  # a file system without locks
            return lock
        try:
            if os.path.samestat(os.fstat(lock), os.stat(path / LOCK)):
                return lock
        except FileNotFoundError:  # removed by the run that had it
            pass
        os.close(lock)


def _unlock(path: Path, lock: int) -> None:
    (path / LOCK).unlink(missing_ok=True)
    os.close(lock)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON. Raises ValueError for NaN and infinity."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
