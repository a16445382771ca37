"""A process that is held to a share of a core."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.slowing import CpuLimiter

BUSY = """
import time
until = time.monotonic() + {busy}
while time.monotonic() < until:
    pass
time.sleep({idle})
"""


def _lived(busy: float, idle: float, allowed: float | None) -> tuple[float, float]:
    """Its share as `CpuLimiter` says it, and by all of its life."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", BUSY.format(busy=busy, idle=idle)])
    try:
        with CpuLimiter(lambda: psutil.Process(process.pid), allowed) as held:
            watched = psutil.Process(process.pid)
            while psutil.pid_exists(process.pid) and watched.status() != psutil.STATUS_ZOMBIE:
                times = watched.cpu_times()
                time.sleep(0.02)
        return held.share, (times.user + times.system) / (time.monotonic() - began)
    finally:
        process.kill()
        process.wait()


def test_what_it_does_when_it_no_longer_trains_is_not_in_its_share() -> None:
    share, of_all = _lived(busy=2.0, idle=1.2, allowed=None)
    assert share > 1.2 * of_all


@pytest.mark.parametrize("allowed", [0.1, 0.3])
def test_it_takes_no_more_than_it_is_allowed(allowed: float) -> None:
    share, _ = _lived(busy=2.5, idle=0.0, allowed=allowed)
    assert share == pytest.approx(allowed, abs=0.06)


def test_of_a_process_that_is_not_found_there_is_no_share() -> None:
    with CpuLimiter(lambda: None, 0.5) as held:
        pass
    assert held.share == 0


LATE = """
import time
time.sleep(0.7)
before, until = time.process_time(), time.monotonic() + 0.7
while time.monotonic() < until:
    pass
print(time.process_time() - before)
"""


def test_a_slow_machine_makes_up_for_no_time_without_work() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", LATE], stdout=subprocess.PIPE, text=True)
    with CpuLimiter(lambda: psutil.Process(process.pid), 0.25, credit=0.03):
        out, _ = process.communicate(timeout=30)
    # Without a bound on the credit it would take 0.25 x 1.4 s.
    assert float(out) < 0.25 * 0.7 + 0.03 + 0.08
