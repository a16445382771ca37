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
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs behind without one
stop, during_fork = threading.Event(), []
os.register_at_fork(before=lambda: during_fork and os.kill(os.getpid(), during_fork.pop()))
heed_termination()
fork = multiprocessing.get_context("fork")
def work(begun):
    begun.send(True)
    time.sleep(600)
def go_on(parent):
    parent.send("begun")
    while parent.recv():
        parent.send("on")
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
    here, there = fork.Pipe()
    child = fork.Process(target=go_on, args=(there,))
    child.start()
    there.close()
    here.recv()
    os.kill(child.pid, signal.SIGINT)
    here.send(True)
    print(here.recv())
    os.kill(child.pid, signal.SIGINT)
    child.join()
    print(child.exitcode)
    print(stop.is_set())
for number in (signal.SIGTERM, signal.SIGINT):
    for during in (True, False):
        try:
            (during_fork.append if during else signal.raise_signal)(number)
            if os.fork() == 0:
                os._exit(0)
            time.sleep(600)
        except KeyboardInterrupt:
            print("interrupted")
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = fork.Process(target=signal.raise_signal, args=(signal.SIGINT,))
child.start()
child.join()
print(child.exitcode)
"""


def test_signals_reach_a_process_that_forks_and_end_its_children() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", FORKING], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.split() == ["-15", "-15", "on", "-2", "False", *["interrupted"] * 4, "0"], done.stderr
    assert done.stderr == ""
