"""common.supervision: transient errors cost a round and a warning, defects end the process."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common.errors import NoRoomError, RunFailedError
from common.supervision import Rounds, is_transient

ROOT = Path(__file__).parents[2]
TEXT = "ticking"


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "ECONNABORTED"])
def test_a_shortage_is_transient(name: str) -> None:
    assert is_transient(OSError(getattr(errno, name), name))


@pytest.mark.parametrize("error", [MemoryError(), NoRoomError("the disk is full")])
def test_missing_memory_and_a_full_disk_are_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EBADF, "bad"), FileNotFoundError(2, "gone"), AssertionError(), RunFailedError("x")],
)
def test_other_errors_are_not_transient(error: Exception) -> None:
    assert not is_transient(error)


def fail(rounds: Rounds, error: Exception) -> None:
    with rounds.attempt():
        raise error


def test_repeated_failures_are_one_warning_and_the_next_success_tells_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    rounds = Rounds(TEXT)
    for _ in range(5):
        fail(rounds, OSError(errno.EMFILE, "Too many open files"))
    assert rounds.failures == 5
    for _ in range(2):
        with rounds.attempt():
            pass
    assert rounds.failures == 0
    fail(rounds, OSError(errno.EMFILE, "Too many open files"))
    first, recovery, second = [record.getMessage() for record in caplog.records]
    assert first == second
    assert first.startswith(TEXT)
    assert "Too many open files; trying again" in first
    assert recovery == f"{TEXT}: goes on after 5 failed rounds"


def test_an_error_that_no_round_tolerates_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        fail(Rounds(TEXT), ZeroDivisionError())


def test_work_may_tolerate_errors_of_its_own() -> None:
    rounds = Rounds(TEXT, lambda error: isinstance(error, psutil.Error))
    fail(rounds, psutil.NoSuchProcess(1))
    assert rounds.failures == 1
    with pytest.raises(OSError, match="files"):
        fail(rounds, OSError(errno.EMFILE, "files"))


def run(code: str) -> tuple[int, list[str]]:
    """Run Python code in a process; returns the exit code and the lines on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.splitlines()


THREAD = """
import threading
from common.supervision import SupervisedThread
SupervisedThread(lambda: {}["key"], "worker").start()
threading.Event().wait()
"""
TASK = """
import asyncio
from common.errors import RefusedError
from common.supervision import start_task
async def work():
    raise RefusedError("the port is taken")
async def main():
    task = start_task(work(), "listener")
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_a_defect_of_a_thread_ends_the_process_with_one_line() -> None:
    code, lines = run(THREAD)
    assert code == 4
    assert len(lines) == 1
    assert lines[0].startswith('layerwise: thread "worker" failed, and the process ends: KeyError at')


def test_an_error_of_a_task_ends_the_process_with_its_own_exit_code() -> None:
    code, lines = run(TASK)
    assert (code, len(lines)) == (3, 1)
    assert "the port is taken" in lines[0]


def test_a_thread_that_the_system_refuses_is_a_shortage() -> None:
    """The limit of threads is taken up by the process itself."""
    code, lines = run(
        "import resource\n"
        "from common.supervision import SupervisedThread, is_transient\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))\n"
        "import threading\n"
        "threading.stack_size(1 << 29)\n"
        "try:\n"
        "    SupervisedThread(print, 'worker').start()\n"
        "except OSError as error:\n"
        "    raise SystemExit(0 if is_transient(error) else 5)\n"
        "raise SystemExit(6)\n"
    )
    assert (code, lines) == (0, [])


def test_the_file_limit_is_raised_to_the_most_that_is_allowed() -> None:
    code, lines = run(
        "import resource\n"
        "from common.lifecycle import raise_file_limit\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))\n"
        "raise_file_limit()\n"
        "raise SystemExit(0 if resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most) else 5)\n"
    )
    assert (code, lines) == (0, [])
