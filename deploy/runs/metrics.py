"""metrics.jsonl: a JSON object a line, for every evaluation and heartbeat of a run."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from common import strict_json
from common.text import say

METRICS = "metrics.jsonl"
# Kinds of lines.
EVALUATION, HEARTBEAT = "evaluation", "heartbeat"
# Fields of a heartbeat that identify its sender, or have no meaning as a curve.
NOT_CURVES = ("layer", "replica", "incarnation", "pid", "beat", "grants", "next_batch", "seconds")
# Lines kept while the disk is full; older lines are dropped.
WAITING_LINES = 10_000


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read every whole line of a run directory's metrics.jsonl; a torn line, or no file, is passed over."""
    try:
        content = (folder / METRICS).read_bytes()
    except FileNotFoundError:
        return []
    parsed = (_parse(line) for line in content.split(b"\n"))
    return [line for line in parsed if line is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "kind" in value else None


class MetricsFile:
    """Writer of metrics.jsonl. The run does not depend on it: lines that cannot be written wait."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: deque[bytes] = deque(maxlen=WAITING_LINES)
        self._reported = False

    def cut_torn_line(self) -> int:
        """Cut off a last line without an end, which a crash left, and return its number of bytes."""
        if not self.path.exists():
            return 0
        with self.path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            file.truncate(whole)
        return len(content) - whole

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line, after the lines that wait; report the first failure."""
        self._waiting.append(strict_json.encode(line).encode() + b"\n")
        try:
            self.flush()
        except OSError as error:
            if not self._reported:
                self._reported = True
                say(f"{self.path}: {error.strerror}; the run goes on, and the lines are tried again")

    def flush(self) -> None:
        """Write the lines that wait.

        Raises:
            OSError: a line cannot be written; the lines still wait.
        """
        if not self._waiting:
            return
        with self.path.open("ab", buffering=0) as file:
            while self._waiting:
                _append(file, self._waiting[0])
                self._waiting.popleft()


def _append(file: IO[bytes], line: bytes) -> None:
    """Append a line whole, or not at all."""
    start = file.seek(0, 2)
    try:
        left = memoryview(line)
        while left:
            left = left[file.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise
