"""What a thread is set to for its life, and who heeds a signal."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.lifecycle import give_way

ROOT = Path(__file__).parents[2]


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


# The script may fork, since it has one thread; the tests may not.
FORKING = """
import multiprocessing, os, signal, threading, time
from common.lifecycle import Interrupt, heed_termination
stop = threading.Event()
heed_termination()
fork = multiprocessing.get_context("fork")
def work(begun):
    begun.send(True)
    time.sleep(600)
def check():
    begun, beginning = fork.Pipe(duplex=False)
    child = fork.Process(target=work, args=(beginning,))
    child.start()
    begun.recv()
    child.terminate()
    child.join()
    print(child.exitcode)
check()
with Interrupt(stop.set):
    check()
    for _ in range(20):  # a process is ended while it begins
        child = fork.Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -15
        with fork.Pool(2) as pool:
            pool.map(abs, range(9))
    print(stop.is_set())
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_forked_child_dies_of_a_signal_that_its_parent_handles() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORKING], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.split() == ["-15", "-15", "False", "interrupted"], done.stderr
    assert done.stderr == ""
