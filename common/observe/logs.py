"""What a process says of what happens, one line an event: for a person, or as JSON for a machine."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import click

FORMATS = ("plain", "json")
LEVELS = ("debug", "info", "warning", "error")

_KNOWN = {*vars(logging.makeLogRecord({})), "message", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was said of an event beside its text, with `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _KNOWN}


class Json(logging.Formatter):
    """One JSON object a line: time in seconds of the epoch, level, process, message, the event's fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message has in it."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "process": self._process,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Plain(logging.Formatter):
    """The process, the level if it is more than a note, and the message, on one line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback, if there is one, below it."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self._process}: {level}{record.getMessage()}".replace("\n", " | ")
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _is_said(record: logging.LogRecord) -> bool:
    """Torch notes statistics of its own when a process ends: behind the last line, which says why."""
    return record.levelno >= logging.WARNING or not record.name.startswith("torch.")


def configure(process: str, log_format: str, log_level: str) -> None:
    """Have everything that is logged go to standard error, in that form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(process) if log_format == "json" else Plain(process))
    handler.addFilter(_is_said)
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command whose process logs: --log-format and --log-level."""
    form = click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="plain",
        show_default=True,
        help="Of the lines on standard error.",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="What is worth a line.",
    )
    return form(level(command))
