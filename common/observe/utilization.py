"""Utilization of a process and a machine, measured in under a millisecond for every heartbeat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from common.observe.memory import memory_percent
from common.supervision import Rounds
from common.wire.use import Utilization

# Utilization of the GPU and its memory in use, both in percent.
Gpu = Callable[[], tuple[float, float]]


class Probe:
    """Measurement of utilization since the previous call, always on a single thread.

    A measurement that fails, since files are short or the folder is gone, leaves the last one standing: the
    caller's heartbeat or tick goes on.

    Args:
        folder: a folder on the disk to measure.
        gpu: UUID, without its prefix, of the device that this process computes on; None: no GPU.
    """

    def __init__(self, folder: Path, gpu: str | None = None) -> None:
        self._folder = folder
        self._process = psutil.Process()
        self._gpu = open_gpu(gpu) if gpu else None
        self._rounds = Rounds(
            "measuring this machine", lambda error: isinstance(error, OSError | psutil.Error)
        )
        self._newest = Utilization()

    def __call__(self) -> Utilization:
        """Measure the processor's share since the last call, and the memory and disk in use now."""
        with self._rounds.attempt():
            self._newest = self._measure()
        return self._newest

    def _measure(self) -> Utilization:
        busy, memory = self._gpu() if self._gpu else (None, None)
        return Utilization(
            cpu_percent=self._process.cpu_percent(),
            rss_bytes=self._process.memory_info().rss,
            host_cpu_percent=psutil.cpu_percent(),
            memory_percent=memory_percent(),
            disk_percent=psutil.disk_usage(str(self._folder)).percent,
            gpu_percent=busy,
            gpu_memory_percent=memory,
        )


def open_gpu(uuid: str) -> Gpu | None:
    """Return a function to measure a GPU; None without NVIDIA's library (`layerwise[gpu]`) or driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetUtilizationRates(device)
    except pynvml.NVMLError:  # no driver, or a slice of a GPU, which the library does not measure
        return None

    def measure() -> tuple[float, float]:
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(device)
            busy = float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
        except pynvml.NVMLError as error:  # the driver was replaced, or the device fell off the bus
            raise OSError(f"GPU {uuid} cannot be measured: {error}") from None
        return busy, 100 * memory.used / memory.total

    return measure
