"""Standard streams drop what they cannot write, and neither raise nor block."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.observe.streams import DroppingWriter

FULL = "/dev/full"


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end of a pipe."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(writing)
        with contextlib.suppress(OSError):  # closed by the test
            os.close(reading)


def test_a_closed_reader_costs_the_bytes_alone() -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        writer = DroppingWriter(writing, None)
        assert [writer.write(b"one"), writer.write(b"three")] == [3, 5]
        assert (writer.dropped, writer.gone) == (8, True)


def test_a_reader_that_takes_nothing_holds_up_nobody_and_is_told_the_loss_later() -> None:
    with pipe() as (reading, writing):
        writer = DroppingWriter(writing, 0.01)
        size = 1 << 20
        assert writer.write(b"x" * size) == size
        kept = size - writer.dropped
        assert 0 < kept < size
        assert os.read(reading, size).count(b"x") == kept
        writer.write(b"again\n")
        note = f"\nlayerwise: {size - kept} bytes of output could not be written and were dropped\n"
        assert os.read(reading, size).decode() == f"{note}again\n"
        writer.write(b"more\n")
        assert os.read(reading, size) == b"more\n"


def test_a_pipe_that_another_process_made_non_blocking_gets_everything() -> None:
    script = (
        "import os, sys\n"
        "from common.observe.streams import DroppingWriter\n"
        "os.set_blocking(1, False)\n"
        "writer = DroppingWriter(1, None)\n"
        "writer.write(b'x' * (1 << 20))\n"
        "sys.exit(writer.dropped)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, len(done.stdout)) == (0, 1 << 20)


@pytest.mark.skipif(not os.path.exists(FULL), reason="the system has no device that is always full")
def test_a_full_disk_costs_the_bytes_alone() -> None:
    descriptor = os.open(FULL, os.O_WRONLY)
    try:
        writer = DroppingWriter(descriptor, 0.01)
        assert writer.write(b"line\n") == 5
        assert (writer.dropped, writer.gone) == (5, False)
        assert writer.error is not None
        assert writer.error.errno == errno.ENOSPC
    finally:
        os.close(descriptor)
