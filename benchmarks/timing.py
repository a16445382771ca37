"""A slave with a training thread timed by parts: `python -m benchmarks.timing slave OPTIONS`.

For `benchmarks.anatomy`. From a layer's `WARM`-th step to its last, the process adds up the wall time and CPU
time of every part of the training thread, and the CPU time of each other thread. The sums are written to the
folder in the environment variable `FOLDER`, as LAYER.json; LAYER.began is created at the `WARM`-th step.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from benchmarks.ways import WARM
from common import strict_json
from common.shards.working_copy import WorkingCopy
from deploy.cli import run
from slave.network.network import Network
from slave.network.session import Session
from slave.training.decoupling import Synthesizer
from slave.training.layer import Layer

FOLDER = "LAYERWISE_ANATOMY"
STEP, EVENT = "step, in all", "waits for a message"
# Methods to time, with the names of their parts; none calls another. A step is all parts but the last.
PARTS: list[tuple[Any, str, str]] = [
    (Layer, "_forward", "forward"),
    (Synthesizer, "gradient", "M: gradient"),
    (torch.autograd, "backward", "backward"),
    (Layer, "step", "optimizer"),
    (Synthesizer, "teach", "M: learns"),
    (WorkingCopy, "due", "push: made"),
    (Network, "send", "hands over"),
    (Session, "_next_event", EVENT),
]


class Clock:
    """Accumulated seconds of every part: wall time, and CPU time of the calling thread."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}
        self._threads: dict[str, float] = {}
        self._since = time.perf_counter()

    def time_calls(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that each call adds its time to a part."""

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                spent = self.parts.setdefault(name, [0.0, 0.0])
                spent[0] += time.perf_counter() - wall
                spent[1] += time.thread_time() - cpu

        return call

    def begin(self) -> None:
        """Reset all sums."""
        for spent in self.parts.values():
            spent[:] = [0.0, 0.0]
        self._threads = thread_seconds()
        self._since = time.perf_counter()

    def report(self, steps: int) -> dict[str, Any]:
        """Return microseconds for every step since `begin`."""
        threads = thread_seconds()
        used = {name: seconds - self._threads.get(name, 0.0) for name, seconds in threads.items()}
        micro = 1e6 / steps
        return {
            "steps": steps,
            "microseconds": round((time.perf_counter() - self._since) * micro),
            "parts": {name: [round(each * micro) for each in spent] for name, spent in self.parts.items()},
            "threads": {name: round(seconds * micro) for name, seconds in sorted(used.items())},
        }


def thread_seconds() -> dict[str, float]:
    """Return the CPU seconds of the process' threads by name; foreign threads have the kernel's names."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    seconds: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name)) or (task / "comm").read_text().strip()
        # grpcio's polling threads, and Python threads without a name of their own.
        name = "grpc" if name == "event_engine" or name.startswith("Thread-") else name
        nanoseconds = int((task / "schedstat").read_text().split()[0])
        seconds[name] = seconds.get(name, 0.0) + nanoseconds / 1e9
    return seconds


def instrument(clock: Clock, folder: Path) -> None:
    """Time all parts, and write the report after the layer's last step."""
    for owner, method, name in PARTS:
        setattr(owner, method, clock.time_calls(name, getattr(owner, method)))
    whole = clock.time_calls(STEP, Session._carry_out)

    def step(session: Session, *arguments: Any) -> None:
        before = session._worker.trainer.steps
        whole(session, *arguments)
        steps, layer = session._worker.trainer.steps, session._lease.layer
        if steps > before and steps == WARM:
            clock.begin()
            (folder / f"{layer}.began").touch()
        if steps > before and steps == session._config.run.batches:
            report = strict_json.encode({"layer": layer, **clock.report(steps - WARM)})
            # Renamed into place, so that a reader never sees half a file.
            (folder / "written").write_text(report, encoding="utf-8")
            (folder / "written").rename(folder / f"{layer}.json")

    setattr(Session, "_carry_out", step)  # noqa: B010 - mypy refuses a plain assignment to a method


if __name__ == "__main__":
    instrument(Clock(), Path(os.environ[FOLDER]))
    sys.exit(run(sys.argv[1:]))
