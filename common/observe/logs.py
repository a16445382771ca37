"""Log lines of a process, a line for every event: text for people, or JSON for machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import click

from common import strict_json
from common.text import printable

FORMATS = ("plain", "json")
LEVELS = ("debug", "info", "warning", "error")

_KNOWN = {*vars(logging.makeLogRecord({})), "message", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields from the caller's `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _KNOWN}


class Json(logging.Formatter):
    """One JSON object a line: time in seconds of the epoch, level, process, message, the event's fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Format an event as a single line, even for messages with line breaks."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._process,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return strict_json.encode(line, default=str)


class Plain(logging.Formatter):
    """A line of text: the process, the level if above info, and the message."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Format an event as a line, followed by the traceback, if present."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = printable(f"{self._process}: {level}{record.getMessage()}".replace("\n", " | "))
        if not record.exc_info:
            return text
        trace = self.formatException(record.exc_info).split("\n")
        return "\n".join([text, *map(printable, trace)])


def _is_ours(record: logging.LogRecord) -> bool:
    """Drop torch's notes: it logs statistics at exit, after the line that gives the reason."""
    return record.levelno >= logging.WARNING or not record.name.startswith("torch.")


def configure(process: str, log_format: str, log_level: str) -> None:
    """Send all log records to standard error in the chosen format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(process) if log_format == "json" else Plain(process))
    handler.addFilter(_is_ours)
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --log-format and --log-level to a command whose process logs."""
    form = click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="plain",
        show_default=True,
        help="Format of the log lines on standard error.",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="Lowest level that is logged.",
    )
    return form(level(command))
