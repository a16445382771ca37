"""Logs of a cluster's processes: a process appends to its log, and the engine bounds the size."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from common.supervision import is_transient
from common.text import say

# A larger log keeps its first and its newest part.
MOST_BYTES, FIRST_BYTES, NEWEST_BYTES = 8 << 20, 1 << 20, 3 << 20


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending, or nothing: a process may run without a log.

    Raises:
        OSError: files or memory are short at present.
    """
    try:
        return path.open("ab")
    except OSError as error:
        if is_transient(error):
            raise
        say(f"{path}: {error.strerror}; its process runs without a log")
        return open(os.devnull, "ab")


def bound_log(path: Path) -> None:
    """Cut the middle out of a log above MOST_BYTES.

    The process goes on appending; lines written during the cut may be lost. Needs no room on the disk. After
    an error of the system the next call tries again.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size > MOST_BYTES:
            _cut_middle(path)


def _cut_middle(path: Path) -> None:
    with path.open("r+b") as file:
        first = file.read(FIRST_BYTES)
        first = first[: first.rfind(b"\n") + 1]
        size = file.seek(-NEWEST_BYTES, os.SEEK_END) + NEWEST_BYTES
        newest = file.read()
        newest = newest[newest.find(b"\n") + 1 :]
        cut = f"[{size - len(first) - len(newest)} bytes cut out: the log had become {size} bytes long]\n"
        file.seek(len(first))
        file.write(cut.encode() + newest)
        file.truncate()


def last_line(path: Path) -> str:
    """Return the last line of a log, or the reason for an absent line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"
    return lines[-1] if lines else "its log is empty"
