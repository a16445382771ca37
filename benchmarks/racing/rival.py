"""A rank of a rival in the race: `python -m benchmarks.racing.rival WAY --folder FOLDER [OPTIONS]`.

All rivals take the same loop: step, note the progress, now and then keep the weights and a checkpoint. With
`--kill-at` the last rank kills itself once; started again in the same folder, the ranks go on from their
last common checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.racing.course import Course
from benchmarks.racing.late import AsynchronousPipeline, InTime
from benchmarks.racing.replicas import DiLoCo, LocalSgd
from benchmarks.racing.ways import WAYS, RivalWay
from benchmarks.rivals import DataParallel, Pipeline, Plain, PreparedRun, Rival
from common.lifecycle import end_with_parent, keep_freed_memory

METHODS: dict[str, Callable[[PreparedRun, int], Rival]] = {
    "plain": lambda prepared, _: Plain(prepared),
    "nadam": lambda prepared, _: InTime(prepared),
    "ddp": lambda prepared, _: DataParallel(prepared),
    "local-sgd": LocalSgd,
    "diloco": DiLoCo,
    "1f1b": lambda prepared, microbatches: Pipeline(prepared, "1f1b", microbatches),
    "zero-bubble": lambda prepared, microbatches: Pipeline(prepared, "zero-bubble", microbatches),
    "asyncpp": AsynchronousPipeline,
}
# Checkpoints that are kept: a rank may be killed before the other has written the newest.
KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of all ranks of a row, files `checkpoint-STEP-RANK`."""

    folder: Path
    rank: int
    ranks: int

    def latest(self) -> int:
        """Return the newest step of which every rank has a checkpoint; 0: none."""
        steps = [set(self._steps(rank)) for rank in range(self.ranks)]
        return max(set.intersection(*steps), default=0)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint whole, and remove old ones."""
        part = self.folder / f"saving-{self.rank}"
        torch.save(state, part)
        part.rename(self._file(step))
        for old in sorted(self._steps(self.rank))[:-KEPT]:
            self._file(old).unlink()

    def load(self, step: int) -> dict[str, Any]:
        """Read a checkpoint."""
        state: dict[str, Any] = torch.load(self._file(step), weights_only=True)
        return state

    def _file(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}-{self.rank}"

    def _steps(self, rank: int) -> list[int]:
        names = (file.name for file in self.folder.glob(f"checkpoint-*-{rank}"))
        return [int(found[1]) for name in names if (found := re.fullmatch(r"checkpoint-(\d+)-\d+", name))]


def race(rival: Rival, prepared: PreparedRun, course: Course, checkpoints: Checkpoints) -> None:
    """Train from the last checkpoint, or the start, to the end of the run."""
    rank, together = checkpoints.rank, rival.steps_together
    examples_a_step = prepared.config.run.batch_size * together
    first = checkpoints.latest()
    if first:
        rival.restore(checkpoints.load(first))
    if checkpoints.ranks > 1:
        dist.barrier()
    if rank == 0:
        course.begin()
    looked = first * examples_a_step
    for step in range(first, prepared.config.run.batches // together):
        rival.step(step)
        examples = (step + 1) * examples_a_step
        if rank == 0:
            course.note_progress(examples)
        if examples - looked >= course.every and (part := rival.part()):
            course.look(part, examples, rank)
            looked = examples
        if (
            course.kill_at
            and rank == checkpoints.ranks - 1
            and examples >= course.kill_at
            and course.strike()
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        if course.checkpoint and (step + 1) * together % course.checkpoint < together:
            checkpoints.save(step + 1, rival.saved())
    rival.finish()


def serve(arguments: list[str]) -> None:
    """Run a rank to the end."""
    chosen = _parser().parse_args(arguments)
    way = WAYS[chosen.way]
    assert isinstance(way, RivalWay)
    torch.set_num_threads(way.threads)
    if chosen.meet:
        where = f"file://{chosen.meet}"
        dist.init_process_group("gloo", init_method=where, rank=chosen.rank, world_size=way.processes)
    prepared = PreparedRun.prepare(chosen.settings)
    rival = METHODS[way.method](prepared, way.number)
    course = Course(chosen.folder, chosen.every, chosen.checkpoint, chosen.kill_at)
    race(rival, prepared, course, Checkpoints(chosen.folder, chosen.rank, way.processes))
    if chosen.meet:
        dist.barrier()
        # Exit at once: destroying torch's group under the interpreter's lock may wait for a thread of the
        # group that waits for the lock.
        os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.racing.rival", description=__doc__)
    parser.add_argument("way", choices=[name for name, way in WAYS.items() if not way.ours], help="way")
    parser.add_argument("--rank", type=int, default=0, help="number of this process")
    parser.add_argument("--meet", type=Path, help="file for the rendezvous of the processes")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the files of the row")
    parser.add_argument("--every", type=int, required=True, help="examples between two looks at the weights")
    parser.add_argument("--checkpoint", type=int, default=0, help="batches between two checkpoints; 0: none")
    parser.add_argument("--kill-at", type=int, default=0, help="examples after which the last rank is killed")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    return parser


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    with contextlib.suppress(KeyboardInterrupt):
        serve(sys.argv[1:])
