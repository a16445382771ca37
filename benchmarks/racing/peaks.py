"""Peak memory of running processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.beside import Beside

SAMPLE_SECONDS = 0.2


class Peaks(Beside):
    """Follows the peak resident memory of processes by name; of a name's several processes the largest.

    Args:
        find: returns the process ids that have a name now; called repeatedly.

    Attributes:
        mib: peaks in MiB, by name.
    """

    def __init__(self, find: Callable[[], Mapping[str, int]]) -> None:
        super().__init__()
        self.mib: dict[str, float] = {}
        self._find = find

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            for name, pid in self._find().items():
                self.mib[name] = max(peak_mib(pid), self.mib.get(name, 0.0))


def peak_mib(pid: int) -> float:
    """Return the high-water mark of a process' resident memory in MiB; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "0")
    return round(int(kib) / 1024, 1)
