"""What a process and its machine use at the moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import psutil


@dataclass(frozen=True)
class Utilization:
    """Parts of the whole, 0 to 1, of the machine; what there is not is None."""

    cpu: float
    memory: float
    disk: float
    gpu: float | None = None
    gpu_memory: float | None = None


def utilization(device: str = "cpu", folder: str = ".") -> Utilization:
    """How busy the machine is: the CPUs since the last time that this was asked, the rest now.

    Args:
        device: torch's name of what the process trains on.
        folder: on the disk that matters.
    """
    gpu = _gpu(int(device.partition(":")[2] or 0)) if device.startswith("cuda") else None
    busy = gpu() if gpu else None
    return Utilization(
        psutil.cpu_percent() / 100,
        psutil.virtual_memory().percent / 100,
        psutil.disk_usage(folder).percent / 100,
        *(busy or (None, None)),
    )


def resident_bytes() -> int:
    """Memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


@cache
def _gpu(index: int) -> Callable[[], tuple[float, float] | None] | None:
    """Asks the driver how busy a GPU and its memory are; None where it cannot be asked."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle: Any = pynvml.nvmlDeviceGetHandleByIndex(index)
    except Exception:  # no driver, no library, no such device: each has an error of its own
        return None

    def ask() -> tuple[float, float] | None:
        with contextlib.suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            return busy / 100, memory.used / memory.total
        return None

    return ask
