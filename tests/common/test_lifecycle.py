"""What a thread is set to for its life."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from common.lifecycle import give_way


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' scheduler")
def test_a_thread_that_gives_way_and_those_it_starts_do_and_no_other() -> None:
    found: dict[str, int] = {}

    def note(name: str) -> None:
        found[name] = os.sched_getscheduler(0)

    def begin() -> None:
        give_way()
        note("thread")
        child = threading.Thread(target=note, args=("child",))
        child.start()
        child.join()

    before = os.sched_getscheduler(0)
    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert found == {"thread": os.SCHED_BATCH, "child": os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == before
