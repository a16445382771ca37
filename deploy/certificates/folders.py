"""Folders that `layerwise certificates` makes: one for each process, with all that the process needs."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import ConfigError
from common.net.identity import CA, CERTIFICATE, KEY

AUTHORITY, MASTER, EVALUATOR, OPERATOR, READER = "authority", "master", "evaluator", "operator", "reader"
# Until a certificate ends.
DAYS = 365
_SLAVE = "slave-"


def next_slave(base: Path) -> int:
    """Return the lowest number above those of all slaves' folders."""
    found = (each.name.removeprefix(_SLAVE) for each in base.glob(f"{_SLAVE}*"))
    return 1 + max((int(number) for number in found if number.isdecimal()), default=0)


def is_slave(name: str) -> bool:
    """Whether a name is one of a slave's folder."""
    return name.startswith(_SLAVE)


def slave_name(number: int) -> str:
    """Return the name of a slave's folder, from 1."""
    return f"{_SLAVE}{number}"


def store_name(number: int) -> str:
    """Return the name of a store's folders, from 1: for its certificate, and for its shards in a run."""
    return f"store-{number}"


def folder_of(base: Path, name: str) -> Path:
    """Return the folder of a process; `base` itself where that is the folder of a certificate for all."""
    return base if (base / CERTIFICATE).exists() else base / name


def slave_folder(base: Path, number: int) -> Path:
    """Return the folder of a slave, from 1; slaves beyond the last folder share folders."""
    if (base / CERTIFICATE).exists():
        return base
    found = sorted(base.glob(f"{_SLAVE}*"), key=lambda each: (len(each.name), each.name))
    return found[(number - 1) % len(found)] if found else base / slave_name(number)


def keep_link(place: Path, folder: Path | None, files: tuple[Path, ...] | None) -> Path | None:
    """Keep a link to certificates, which follow when the files change; a resumed run finds them by the link.

    Args:
        place: of the link.
        folder: of certificates; takes precedence.
        files: of one certificate; None: not given.

    Returns:
        The place; None: there is no link, and nothing is given.

    Raises:
        ConfigError: nothing is given, and the folder that the link names is gone; or the place has files of
            its own.
    """
    if folder is not None and folder.resolve() != place.resolve():
        # A folder that is named by way of the link would not be there without the link.
        lasting = folder.resolve() if place.absolute() in folder.absolute().parents else folder.absolute()
        _unlink(place)
        place.symlink_to(lasting)
    elif folder is None and files:
        _unlink(place)
        place.mkdir(mode=0o700)
        for file, name in zip(files, (CA, CERTIFICATE, KEY), strict=True):
            (place / name).symlink_to(file.absolute())
    elif place.is_symlink() and not place.exists():
        raise ConfigError(
            f"{place}: the run has trained with the certificates in {place.readlink()}, which are not there; "
            f"give their folder by --tls DIR, or delete {place} to go on in the clear"
        )
    return place if place.exists() else None


def _unlink(place: Path) -> None:
    """Remove a link, or a folder of links.

    Raises:
        ConfigError: something there is no link.
    """
    is_folder = place.is_dir() and not place.is_symlink()
    links = list(place.iterdir()) if is_folder else [place] if os.path.lexists(place) else []
    for each in links:
        if not each.is_symlink():
            raise ConfigError(f"{each}: is no link, and may be the only copy of a key; move it elsewhere")
    for each in links:
        each.unlink()
    if is_folder:
        place.rmdir()
