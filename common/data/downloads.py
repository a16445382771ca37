"""Download public data sets into the user's cache: a file appears whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError

CONNECT_SECONDS = 10.0
_PIECE = 1024 * 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Download addresses and checksums of a data set's files.

    Attributes:
        homes: addresses of folders that hold all the files, each ending in a slash, tried in this order.
        files: published MD5 checksum of every file, by its name in those folders.
    """

    homes: tuple[str, ...]
    files: Mapping[str, str]


class _HomeError(Exception):
    """A home did not deliver a file; the next home may."""


def cache(dataset: str) -> Path:
    """Folder of a data set's files in the user's cache; the folder need not exist.

    Raises:
        ConfigError: the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is ignored.
    root = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
    if not os.path.isabs(root):
        raise ConfigError(
            f"data.dataset: {dataset} is cached in the home folder, which is unknown; set "
            "XDG_CACHE_HOME, or give the folder of its files as data.path"
        )
    return Path(root, "layerwise", dataset)


def fetch(
    dataset: str, source: Source, wanted: list[str], folder: Path, *, seconds: float = CONNECT_SECONDS
) -> None:
    """Download files into a folder; a file appears under the final name after verification.

    Args:
        dataset: the data set's name, for messages.
        source: addresses and checksums of the files.
        wanted: names of the files to get, keys of `source.files`.
        folder: destination, created if missing.
        seconds: limit of the wait for a connection, and then for every next piece.

    Raises:
        ConfigError: no home has delivered a wanted file, or the folder cannot be written.
    """
    left, reasons = list(wanted), []
    for home in source.homes:
        try:
            while left:
                _download(home + left[0], source.files[left[0]], folder, seconds)
                del left[0]
        except _HomeError as error:
            reasons.append(str(error))
            _LOG.warning("%s", error)
    if left:
        raise ConfigError(
            f"data.dataset: {dataset} cannot be downloaded ({'; '.join(reasons)}): get {', '.join(left)} "
            f"from {' or '.join(source.homes)} and put them in {folder}, or give their folder as data.path"
        )


def _download(url: str, md5: str, folder: Path, seconds: float) -> None:
    name = url.rpartition("/")[2]
    _LOG.info("downloading %s to %s", url, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A unique name: another process may be downloading this file too.
        descriptor, part = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".part")
        try:
            digest = _save(url, descriptor, seconds)
            if digest != md5:
                raise _HomeError(f"{url}: has the MD5 {digest}, not the published {md5}")
            os.replace(part, folder / name)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written: {error.strerror or error}; set XDG_CACHE_HOME to a writable "
            "folder, or give the folder of the data set's files as data.path"
        ) from None


def _save(url: str, descriptor: int, seconds: float) -> str:
    """Write the content of an address into an open file, and return the MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with os.fdopen(descriptor, "wb") as file:
        for piece in _pieces(url, seconds):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _pieces(url: str, seconds: float) -> Iterator[bytes]:
    size = 0
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310 - homes are constants
            announced = answer.length
            while piece := answer.read(_PIECE):
                size += len(piece)
                yield piece
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            # The error holds the connection, with the unread error page.
            error.close()
        reason = error.reason if type(error) is urllib.error.URLError else error
        raise _HomeError(f"{url}: {' '.join(str(reason).split()) or type(error).__name__}") from None
    # Reading in pieces does not distinguish a cut connection from the end.
    if announced is not None and size != announced:
        raise _HomeError(f"{url}: was cut off after {size} of {announced} bytes")
