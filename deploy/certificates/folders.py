"""Folders that `layerwise certificates` makes: one for each process, with all that the process needs."""

from __future__ import annotations

from pathlib import Path

from common.net.identity import CERTIFICATE

AUTHORITY, MASTER, EVALUATOR, OPERATOR, READER = "authority", "master", "evaluator", "operator", "reader"
_SLAVE = "slave-"


def slave_name(number: int) -> str:
    """Return the name of a slave's folder, from 1."""
    return f"{_SLAVE}{number}"


def folder_of(base: Path, name: str) -> Path:
    """Return the folder of a process; `base` itself where that is the folder of a certificate for all."""
    return base if (base / CERTIFICATE).exists() else base / name


def slave_folder(base: Path, number: int) -> Path:
    """Return the folder of a slave, from 1; slaves beyond the last folder share folders."""
    if (base / CERTIFICATE).exists():
        return base
    found = sorted(base.glob(f"{_SLAVE}*"), key=lambda each: (len(each.name), each.name))
    return found[(number - 1) % len(found)] if found else base / slave_name(number)


def link(folder: Path, files: tuple[Path, ...], names: tuple[str, ...]) -> Path:
    """Make a folder of links to the files of a certificate, which follow when the files change."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for file, name in zip(files, names, strict=True):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(file)
    return folder
