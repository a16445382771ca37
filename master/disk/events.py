"""Event log of a run: JSON lines in a few files of bounded size, written in order on a thread."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from common import strict_json
from master.disk.files import Files

log = logging.getLogger("layerwise.master")

# Events that an operator should look at.
TROUBLE = ("failed", "fenced", "no snapshot", "damaged")
# Events kept in memory for the pages, and the part of a file that a start reads for them.
RECENT_EVENTS, TAIL_BYTES = 200, 64 << 10
# Bytes of a file, and number of older files beside events.jsonl: together they bound the log.
MOST_BYTES, OLDER = 4 << 20, 3
# Lines that wait for a disk that stands still; further lines push the oldest ones out.
MOST_WAITING = 1000


class EventLog:
    """Events of a run, in `events.jsonl`; a full file becomes `events.1.jsonl`, older files move on.

    The run does not depend on the log: a full disk may lose a line.

    Args:
        folder: of the files.
        files: operations on files.
        writer: writes the lines, in order.

    Attributes:
        recent: newest events, oldest first.

    Raises:
        OSError: the log cannot be opened.
    """

    def __init__(self, folder: Path, files: Files, writer: Executor) -> None:
        self._folder = folder
        self._files = files
        self._writer = writer
        self._waiting: deque[str] = deque(maxlen=MOST_WAITING)
        self._lines = files.append(self._path(0))
        self._size = files.size(self._path(0))
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT_EVENTS)
        for number in (1, 0):
            self.recent.extend(self._tail(number))
        if self._size and files.read(self._path(0), self._size - 1) != b"\n":
            # A crash has torn the last line.
            self._write("\n")

    def add(self, event: dict[str, Any]) -> None:
        """Add an event, with the time in seconds of the epoch."""
        event = {"time": round(time.time(), 3), **event}
        self.recent.append(event)
        level = logging.WARNING if event["event"] in TROUBLE else logging.INFO
        log.log(level, "%s", _describe(event), extra=event)
        standstill = len(self._waiting) == MOST_WAITING
        self._waiting.append(strict_json.encode(event) + "\n")
        if not standstill:
            self._writer.submit(self._write_next)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._lines.close()

    def _write_next(self) -> None:
        self._write(self._waiting.popleft())

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            if self._size + len(line) > MOST_BYTES:
                self._rotate()
            self._lines.write(line)
            self._size += len(line)

    def _rotate(self) -> None:
        """Begin a new file; the oldest file goes."""
        names = self._files.names(self._folder)
        for number in range(OLDER, 0, -1):
            if self._path(number - 1).name in names:
                self._files.rename(self._path(number - 1), self._path(number))
        full, self._lines, self._size = self._lines, self._files.append(self._path(0)), 0
        full.close()

    def _path(self, number: int) -> Path:
        return self._folder / (f"events.{number}.jsonl" if number else "events.jsonl")

    def _tail(self, number: int) -> list[dict[str, Any]]:
        """Read the last events of a file that may be missing, long, or torn by a crash."""
        path, found = self._path(number), []
        try:
            # The first line may be cut.
            text = self._files.read(path, max(0, self._files.size(path) - TAIL_BYTES))
        except FileNotFoundError:
            return []
        for line in text.decode("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                found += [event] if isinstance(event, dict) else []
        return found


def _describe(event: dict[str, Any]) -> str:
    """Describe an event in words; lists and tables stay in the event log."""
    plain = {
        k: v for k, v in event.items() if k not in ("time", "event") and isinstance(v, str | int | float)
    }
    details = ", ".join(f"{name} {value}" for name, value in plain.items() if value != "")
    return f"{event['event']}: {details}" if details else str(event["event"])
