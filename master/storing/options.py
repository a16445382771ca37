"""Options of a store's command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Options of a store; the run's configuration comes from the master."""

    master: str
    state_dir: Path
    listen: str | None = None
    advertise: str | None = None
    metrics: str = "127.0.0.1:0"
    hosts: frozenset[str] = frozenset()
    wait: float = 60.0
    join_token: Path | None = None
    tls: Path | None = None
    insecure: bool = False
