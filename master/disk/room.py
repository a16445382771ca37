"""Small file in room taken beforehand: writes go on while the disk is full."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from master.disk.files import Files

# Bytes of the smallest file. A file grows early, to a power of two at least twice its text.
LEAST_BYTES = 16 << 10


def write_in_room(files: Files, path: Path, text: str) -> None:
    """Write a small file durably and atomically, in room taken by an earlier call.

    The text goes into a spare file beside the file; then both exchange names. Blanks fill the rest.

    Raises:
        OSError: the text cannot be written; the old file is still there.
    """
    spare, folder = path.with_name(f".{path.name}.spare"), path.parent
    # A spare whose exchange is not durable may come back as the file: no write before.
    files.sync_folder(folder)
    _fill(files, spare, text.encode())
    files.exchange(spare, path)
    files.sync_folder(folder)
    if spare.name not in files.names(folder):
        with contextlib.suppress(OSError):
            _fill(files, spare, text.encode())


def _fill(files: Files, path: Path, content: bytes) -> None:
    """Write over a whole file; the file grows early, or keeps the size on a full disk."""
    with files.overwrite(path) as file:
        wanted = max(LEAST_BYTES, 1 << (2 * len(content) - 1).bit_length())
        if files.size(path) < wanted:
            with contextlib.suppress(OSError):
                file.reserve(wanted)
        padded = content.ljust(files.size(path))
        file.write(padded)
        file.sync()
    if files.read(path) != padded:
        raise OSError(errno.EIO, "another content came back", str(path))
