"""Options of a slave's command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Options of a slave; the run's configuration comes from the master."""

    master: str
    device: str = "auto"
    data: Path | None = None
    code: Path | None = None
    wait: float = 60.0
    listen: str | None = None
    advertise: str | None = None
    insecure: bool = False
    metrics: str = "127.0.0.1:0"
    hosts: frozenset[str] = frozenset()
    join_token: Path | None = None
    own_config: Path | None = None
    tls: Path | None = None
