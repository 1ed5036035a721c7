"""The finished parts of an unfinished run, such as the trainings that it compares, each in a file of its own."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from grassmann_ssl.runs.config import ConfigError
from grassmann_ssl.runs.disk import replacing
from grassmann_ssl.runs.folder import PARTS, RunFolder
from grassmann_ssl.streams import say

Part = tuple[dict[str, Any], dict[str, np.ndarray]]


class Parts:
    """Parts of a run by name: a record (JSON) and arrays each. Without a folder nothing is kept."""

    def __init__(self, folder: RunFolder | None) -> None:
        self._folder = folder
        self._continued = folder is not None and folder.continued
        self._found, self._lost = 0, False

    def resumed(self, total: int) -> str | None:
        """Of a run that went on: after how many of its parts; None for one that was begun anew."""
        return f"after {self._found} of {total} trainings" if self._continued else None

    def of(
        self,
        name: str,
        notes: Mapping[str, str],
        work: Callable[[Callable[[], Path | None]], Part],
        found: Callable[[], object] = lambda: None,
    ) -> Part:
        """The part of this name as it was kept, and then found() is called; else work(checkpoint), which is kept.

        `checkpoint()` is a file for the work itself, which goes when its result is kept. Raises ConfigError where the part that was kept is
        broken, or has other notes.
        """
        at = self._file(name)
        if at is not None and at.exists():
            part = _load(at, notes)
            self._found += 1
            found()
            return part
        made = work(lambda: self._file(f"{name}-checkpoint"))
        self._keep(name, notes, *made)
        return made

    def _file(self, name: str) -> Path | None:
        folder = self._folder.keep(PARTS) if self._folder is not None else None
        return None if folder is None else folder / f"{name}.safetensors"

    def _keep(self, name: str, notes: Mapping[str, str], record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        at = self._file(name)
        if at is None:
            return
        text = json.dumps({"notes": dict(notes), "record": record})
        whole = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        try:
            at.parent.mkdir(exist_ok=True)
            with replacing(at) as scratch:
                scratch.write_bytes(save(whole, {"part": text, "checksum": _checksum(text, whole)}))
            at.with_name(f"{name}-checkpoint.safetensors").unlink(missing_ok=True)
        except OSError as error:
            if not self._lost:
                say(f"{at} could not be kept: {error.strerror or error}; the run goes on")
            self._lost = True


def _load(at: Path, notes: Mapping[str, str]) -> Part:
    try:
        with safe_open(at, framework="np") as file:
            metadata, arrays = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
        text = metadata["part"]
        if _checksum(text, arrays) != metadata["checksum"]:
            raise ValueError("it was changed after it was written")
        content = json.loads(text)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"out: {at} cannot be read: {str(error).splitlines()[0]}; resume = False (--no-resume) starts the run anew"
        ) from None
    for key in sorted({*notes, *content["notes"]}):
        then, now = content["notes"].get(key), notes.get(key)
        if then != now:
            raise ConfigError(
                f"out: {at} is of other {key}: {then} then, {now} now; resume = False (--no-resume) starts the run anew"
            )
    return content["record"], arrays


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.blake2b(text.encode(), digest_size=16)
    for key in sorted(arrays):
        found.update(f"{key} {arrays[key].dtype} {arrays[key].shape}".encode())
        found.update(np.ascontiguousarray(arrays[key]).data)
    return found.hexdigest()
