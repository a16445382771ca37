"""Options of a slave's command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from common.net.tokens import read_token


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
    speed: float | None = None

    def check_places(self) -> None:
        """Check the files and folders of this machine that need no word of the master, before any wait.

        Raises:
            ConfigError: a file or folder is missing, or holds no token.
        """
        for option, path in (("--data", self.data), ("--code", self.code)):
            if path is not None and not path.exists():
                raise ConfigError(f"{option} {path}: does not exist on this machine; correct the path")
        if self.join_token is not None:
            read_token(self.join_token, "--join-token-file")
