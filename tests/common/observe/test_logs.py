"""Logs: one line an event, and in JSON nothing but."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.observe import logs
from common.observe.logs import Json, Plain


def record(text: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": text, "levelno": level, "levelname": logging.getLevelName(level)})
    vars(made).update(extra)
    return made


@given(st.text())
def test_whatever_is_said_stays_on_one_line_of_json(text: str) -> None:
    line = Json("master").format(record(text, layer=2, event="failed"))
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == text
    assert (told["level"], told["process"], told["layer"], told["event"]) == ("info", "master", 2, "failed")


def test_plain_lines_name_the_process_and_the_level_of_trouble() -> None:
    assert Plain("slave").format(record("ready")) == "slave: ready"
    assert Plain("slave").format(record("a\nb", logging.WARNING)) == "slave: warning: a | b"


def test_a_traceback_is_kept() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        failed = record("failed", logging.ERROR, exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: no" in json.loads(Json("slave").format(failed))["traceback"]
    assert Plain("slave").format(failed).startswith("slave: error: failed\nTraceback")


@pytest.mark.parametrize("name", ["msg", "args", "levelno"])
def test_what_logging_itself_keeps_is_no_field_of_an_event(name: str) -> None:
    assert name not in json.loads(Json("master").format(record("x")))


def test_torch_is_heard_only_where_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("slave", "plain", "info")
        for name in ("torch._subclasses", "layerwise.slave"):
            # As the root gets it: imported whole, torch has handlers of its own.
            root.handle(logging.LogRecord(name, logging.INFO, "", 0, f"a note of {name}", None, None))
            root.handle(logging.LogRecord(name, logging.WARNING, "", 0, f"trouble of {name}", None, None))
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert capsys.readouterr().err.splitlines() == [
        "slave: warning: trouble of torch._subclasses",
        "slave: a note of layerwise.slave",
        "slave: warning: trouble of layerwise.slave",
    ]
