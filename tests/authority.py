"""Certificates for tests, of an authority that each test process makes once."""

from __future__ import annotations

import datetime
from collections import defaultdict
from pathlib import Path

from common.net.access import Role
from common.net.identity import KEY, Identity, find_identity
from deploy.certificates.making import Authority, Wanted

NOW = datetime.datetime.now(datetime.UTC)


# By name.
AUTHORITIES: dict[str, Authority] = defaultdict(lambda: Authority.new(NOW))


def write_certificate(
    folder: Path,
    role: Role,
    *,
    name: str = "",
    run: str | None = None,
    signer: str = "",
    age: int = 0,
    days: int = 2,
) -> Path:
    """Write a certificate into a folder, and return the folder.

    Args:
        folder: to be made, or overwritten.
        role: of the holder.
        name: of the holder; by default the role.
        run: that the certificate is for; None: every run.
        signer: name of the authority.
        age: days since the certificate was made.
        days: from then on to its end.
    """
    wanted = Wanted(name or role.value, role, ("localhost", "127.0.0.1"), listens=True)
    files = AUTHORITIES[signer].issue(wanted, run, NOW - datetime.timedelta(days=age), days)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / KEY).chmod(0o600)
    return folder


def identity(folder: Path, role: Role, *, name: str = "", run: str | None = None) -> Identity:
    """Write a certificate into a folder, and load it as a process does."""
    found = find_identity(write_certificate(folder, role, name=name, run=run))
    assert found is not None
    return found
