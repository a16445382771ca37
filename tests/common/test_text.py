"""Text from outside never reaches a terminal or a log with control characters."""

from __future__ import annotations

import logging
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.observe.logs import Plain
from common.text import answer, printable, say

HOSTILE = "[/x]\x1b[31m\x07\r\n\x9b2J\u202e\udcff"


@given(st.text())
def test_what_is_printable_has_no_control_characters_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["plain [red] words", "grüße 你好 λ"])
def test_plain_text_is_not_changed(text: str) -> None:
    assert printable(text) == text


def test_escapes_name_the_character() -> None:
    assert printable(HOSTILE) == "[/x]\\x1b[31m\\x07\\r\\n\\u009b2J\\u202e\\udcff"


def test_an_escape_in_a_toml_string_reads_back() -> None:
    text = "a\x9b\u2028\U000e0001z"
    assert tomllib.loads(f'v = "{printable(text)}"')["v"] == text


def test_lines_for_a_person_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    answer(HOSTILE)
    assert capsys.readouterr() == (f"{printable(HOSTILE)}\n", f"{printable(HOSTILE)}\n")


def test_a_log_line_and_its_traceback_are_escaped() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    made = logging.makeLogRecord({"msg": f"host {HOSTILE}", "levelno": logging.INFO, "exc_info": trouble})
    lines = Plain("master").format(made).split("\n")
    assert lines[0] == "master: host [/x]\\x1b[31m\\x07\\r | \\u009b2J\\u202e\\udcff"
    assert len(lines) > 3
    assert all(line.isprintable() for line in lines)
