"""Whether there is room for data, known before they are read."""

import os
import shutil
from pathlib import Path


def check_memory(what: str, needed: int) -> None:
    """Raises ValueError where `needed` bytes are more than the memory that is free; nothing where the system does not tell."""
    free = free_memory()
    if free is not None and needed > free:
        raise ValueError(f"{what}: {in_words(needed)} of memory are needed, and {in_words(free)} are free")


def check_disk(what: str, needed: int, folder: Path) -> None:
    """Raises ValueError where `needed` bytes are more than what is free on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{what}: {in_words(needed)} are needed on the disk of {folder}, and {in_words(free)} are free"
        )


def free_memory() -> int | None:
    """Bytes of memory that this process may still take, of the machine and of its control group; None where the system does not tell."""
    found = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
        most, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        found.append(int(most) - int(used))  # "max" is no number
    except (OSError, ValueError, KeyError):
        pass
    return min(found, default=None)


def in_words(count: int) -> str:
    """3221225472 -> 3.22 GB."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/grassmann_ssl, by default ~/.cache/grassmann_ssl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "grassmann_ssl"
