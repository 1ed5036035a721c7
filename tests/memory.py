"""How much memory a process had at most, for tests that run one."""

from pathlib import Path


def peak():
    """Bytes, of this program alone: ru_maxrss begins with the peak of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)
