"""Hypothesis without a clock, a bound on the time of all tests, and state directories of their own."""

from __future__ import annotations

import os
import random
import tempfile
import time

import pytest
from hypothesis import HealthCheck, settings

BEGAN = time.monotonic()

# A busy machine, which is slow, fails no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Masters note their state directories here, and not in the home of whoever tests; child processes inherit it.
_STATE = tempfile.TemporaryDirectory(prefix="layerwise-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name


# Processes of one run of tests inherit the controller's day.
_DAY = os.environ.setdefault("LAYERWISE_TEST_DAY", time.strftime("%F"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the bound."""
    parser.addoption(
        "--minutes",
        type=float,
        help="begin no test after so many minutes; those left are skipped, and say so: other files each day",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With a bound, order the files by the day."""
    if config.getoption("--minutes") is not None:
        draws = random.Random(_DAY)
        places = {path: draws.random() for path in sorted({item.path for item in items})}
        items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test for which no time is left."""
    minutes = item.config.getoption("--minutes")
    if minutes is not None and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"no time left: --minutes {minutes:g}")
