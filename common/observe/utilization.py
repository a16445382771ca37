"""How busy this process and its machine are, cheap enough for every heartbeat: under a millisecond."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from common.wire.messages import Utilization

# Its utilization and its memory in use, in percent.
Gpu = Callable[[], tuple[float, float]]


class Probe:
    """Measures since it was last called. To be called on one thread.

    Args:
        folder: whose disk is looked at.
        gpu: the UUID of the device that this process computes on, without its prefix; None: on none.
    """

    def __init__(self, folder: Path, gpu: str | None = None) -> None:
        self._folder = folder
        self._process = psutil.Process()
        self._gpu = opened(gpu) if gpu else None

    def __call__(self) -> Utilization:
        """The processor's share since the last call, and what is in use now."""
        busy, memory = self._gpu() if self._gpu else (None, None)
        return Utilization(
            cpu_percent=self._process.cpu_percent(),
            rss_bytes=self._process.memory_info().rss,
            host_cpu_percent=psutil.cpu_percent(),
            memory_percent=psutil.virtual_memory().percent,
            disk_percent=psutil.disk_usage(str(self._folder)).percent,
            gpu_percent=busy,
            gpu_memory_percent=memory,
        )


def opened(uuid: str) -> Gpu | None:
    """What measures a GPU; None without NVIDIA's library (`layerwise[gpu]`) or its driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetUtilizationRates(device)
    except pynvml.NVMLError:  # no driver, or a slice of a GPU, of which it does not tell
        return None

    def measure() -> tuple[float, float]:
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        return float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu), 100 * memory.used / memory.total

    return measure
