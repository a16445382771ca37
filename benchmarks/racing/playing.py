"""Playing of a row: opens the machines, follows a way to its end, and slows a process of it."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import namespaces
from benchmarks.by_hand import Loopback, Machines
from benchmarks.namespaces import Alone, Network
from benchmarks.racing.cases import KILL, LINKS, STRAGGLER, Case, Size
from benchmarks.racing.course import Course
from benchmarks.racing.fields import POLL_SECONDS, START_SECONDS, Field, Start, open_field
from benchmarks.racing.peaks import Peaks
from benchmarks.slowing import CpuLimiter
from common.errors import RefusedError, RunFailedError

# A process at a quarter of its speed has a quarter of the time of its cores, and saves up next to nothing.
SLOW, CREDIT_SECONDS = 0.25, 0.03
# Last words of a process that a limit of memory has ended.
NO_MEMORY = re.compile(r"alloc|[Mm]emory|start new thread|[Tt]hread creation|Resource temporarily")

Row = dict[str, Any]


@dataclass(frozen=True)
class Bounds:
    """End of a row.

    Attributes:
        batches: batches that all processes together train at most.
        seconds: longest time on the clock.
        kill_at: examples after which a process is killed, in rows with a kill.
    """

    batches: int
    seconds: float
    kill_at: int


def open_machines(link: str, count: int) -> Machines:
    """Open machines on a link; loopback is a machine whose bytes are counted where the rights suffice."""
    found = LINKS[link]
    if found:
        return found.network(count)
    try:
        namespaces.check()
    except RefusedError:
        return Loopback()
    return Alone()


def play(case: Case, size: Size, bounds: Bounds, folder: Path) -> Row:
    """Play a row to its end; the looks at the weights stay in the folder.

    Raises:
        LayerwiseError: a process failed, other than by the row's limit of memory.
    """
    kill = case.event == KILL
    course = Course(
        folder,
        size.every * size.batch_size,
        size.checkpoint if kill else 0,
        bounds.kill_at if kill else 0,
    )
    began = time.monotonic()
    try:
        with open_machines(case.link, case.chosen.processes + 1) as machines:
            start = Start(case, size, course, bounds.batches, machines)
            row = _watch(case, course, bounds, machines, open_field(start))
    except RunFailedError as error:
        if not (case.memory and NO_MEMORY.search(str(error))):
            raise
        row = {"fits": False, "why": str(error)}
    return {**row, "wall_seconds": round(time.monotonic() - began, 1)}


def _watch(
    case: Case,
    course: Course,
    bounds: Bounds,
    machines: Network | Loopback,
    field: AbstractContextManager[Field],
) -> Row:
    """Follow a way to its end or the row's, and return what was seen of the processes."""
    with ExitStack() as stack:
        processes = stack.enter_context(field)
        peaks = stack.enter_context(Peaks(processes.pids))
        limiter = stack.enter_context(_limit(case, processes))
        over = _follow(processes, course, bounds)
        nbytes = _bytes(machines, case.chosen.processes + 1, course)
    seconds = time.monotonic() - (course.began() or 0.0)
    share = {"share": round(limiter.share, 3)} if limiter else {}
    return {
        "fits": True, "ended": over, "seconds": round(seconds, 2), "bytes": nbytes, "peak_mib": peaks.mib,
        "struck": course.struck, **share,
    }  # fmt: skip


def _follow(processes: Field, course: Course, bounds: Bounds) -> bool:
    """Wait until the way has trained all batches (true), or the time is up (false)."""
    opened = time.monotonic()
    while processes.go_on():
        began = course.began()
        if began is None and time.monotonic() - opened > START_SECONDS:
            raise RunFailedError(f"the clock did not start within {START_SECONDS:g} s")
        if began is not None and time.monotonic() - began > bounds.seconds:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _limit(case: Case, processes: Field) -> CpuLimiter | nullcontext[None]:
    if case.event != STRAGGLER:
        return nullcontext()

    def find() -> psutil.Process | None:
        pid = processes.last()
        return psutil.Process(pid) if pid else None

    return CpuLimiter(find, SLOW * case.chosen.threads, CREDIT_SECONDS)


def _bytes(machines: Network | Loopback, count: int, course: Course) -> int | None:
    """Return the bytes that all machines have sent, but for an onlooker's; None if they are not counted."""
    if isinstance(machines, Loopback):
        return None
    if isinstance(machines, Alone):
        pulled = course.folder / "pulled"
        return machines.traffic(0)[0] - (int(pulled.read_text()) if pulled.exists() else 0)
    return sum(machines.traffic(machine)[0] for machine in range(count))
