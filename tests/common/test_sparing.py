"""common.sparing: one line in a while, and the number of those left out."""

from __future__ import annotations

import logging

import pytest

from common.sparing import SparingLog


def test_a_line_comes_once_in_a_while_with_the_number_of_those_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    log = SparingLog(logging.getLogger("layerwise.test"), 10.0, lambda: now)
    with caplog.at_level(logging.INFO):
        for moment in (0.0, 1.0, 9.9, 10.0, 25.0, 26.0):
            now = moment
            log.say(logging.INFO, "closed: %s", moment)
    assert [record.getMessage() for record in caplog.records] == [
        "closed: 0.0",
        "closed: 10.0 (and 2 more since the last such line)",
        "closed: 25.0",
    ]
