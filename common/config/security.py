"""Section [security]: certificates of this machine, for a master and for `layerwise train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.config import settings
from common.errors import ConfigError


@dataclass(frozen=True)
class SecurityConfig:
    """Files of a certificate, in PEM. They belong to a machine, and are not sent to slaves."""

    ca: str | None = settings.key(None, "certificates of the authorities that are trusted; option --tls")
    certificate: str | None = settings.key(None, "certificate of this machine, with those between")
    key: str | None = settings.key(None, "private key of the certificate, without a password")

    def __post_init__(self) -> None:
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        missing = [name for name, file in files.items() if not file]
        if len(missing) in (1, 2):
            raise ConfigError(
                f"security.{missing[0]}: is not set; give ca, certificate and key, or none of the three"
            )

    @property
    def files(self) -> tuple[Path, Path, Path] | None:
        """Files of authorities, certificate and key; None: without TLS."""
        if not (self.ca and self.certificate and self.key):
            return None
        return Path(self.ca), Path(self.certificate), Path(self.key)
