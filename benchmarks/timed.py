"""A slave whose training thread is timed by parts: `python -m benchmarks.timed slave OPTIONS`.

For `benchmarks.anatomy`. From a layer's `WARM`-th step to its last it adds up what each part takes, in wall
time and in CPU time of the training thread, and what each other thread of the process uses; it writes that
into the folder that `FOLDER` names, as LAYER.json, and LAYER.began at its `WARM`-th step.
"""

from __future__ import annotations

import json
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
from common.shards.working_copy import WorkingCopy
from deploy.cli import run
from slave.network.network import Network
from slave.network.session import Session
from slave.training.decoupling import Layer, Synthesizer

FOLDER = "LAYERWISE_ANATOMY"
STEP, EVENT = "step, in all", "waits for a message"
# What is timed; none of them calls another. A step is all of them but the last.
PARTS: list[tuple[Any, str, str]] = [
    (Layer, "_forward", "forward"),
    (Synthesizer, "gradient", "M: gradient"),
    (torch.Tensor, "backward", "backward"),
    (Layer, "step", "optimizer"),
    (Synthesizer, "teach", "M: learns"),
    (WorkingCopy, "due", "push: made"),
    (Network, "send", "hands over"),
    (Session, "_next_event", EVENT),
]


class Clock:
    """Seconds by part: wall and CPU of the thread that calls."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}
        self._threads: dict[str, float] = {}
        self._since = time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which adds what it takes."""

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
        """Forget what was before."""
        for spent in self.parts.values():
            spent[:] = [0.0, 0.0]
        self._threads = thread_seconds()
        self._since = time.perf_counter()

    def told(self, steps: int) -> dict[str, Any]:
        """Microseconds a step, since `begin`."""
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
    """CPU seconds of this process' threads by name, those that are not Python's by the kernel's."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name)) or (task / "comm").read_text().strip()
        # That grpcio polls with, and that Python has given no better name.
        name = "grpc" if name == "event_engine" or name.startswith("Thread-") else name
        nanoseconds = int((task / "schedstat").read_text().split()[0])
        found[name] = found.get(name, 0.0) + nanoseconds / 1e9
    return found


def watched(clock: Clock, folder: Path) -> None:
    """Time the parts, and write what they took after the layer's last step."""
    for owner, method, name in PARTS:
        setattr(owner, method, clock.timed(name, getattr(owner, method)))
    whole = clock.timed(STEP, Session._carry_out)

    def step(session: Session, *arguments: Any) -> None:
        before = session._worker.trainer.steps
        whole(session, *arguments)
        steps, layer = session._worker.trainer.steps, session._lease.layer
        if steps > before and steps == WARM:
            clock.begin()
            (folder / f"{layer}.began").touch()
        if steps > before and steps == session._config.run.batches:
            told = json.dumps({"layer": layer, **clock.told(steps - WARM)})
            # Whole or not there.
            (folder / "written").write_text(told, encoding="utf-8")
            (folder / "written").rename(folder / f"{layer}.json")

    setattr(Session, "_carry_out", step)  # noqa: B010 - one that takes no notice of what it passes on


if __name__ == "__main__":
    watched(Clock(), Path(os.environ[FOLDER]))
    sys.exit(run(sys.argv[1:]))
