"""Message about the use of a machine, as a plain value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utilization:
    """Utilization of a process and the machine; the GPU's is None without a GPU or NVIDIA's library."""

    cpu_percent: float = 0.0
    rss_bytes: int = 0
    host_cpu_percent: float = 0.0
    memory_percent: float = 0.0
    disk_percent: float = 0.0
    gpu_percent: float | None = None
    gpu_memory_percent: float | None = None
