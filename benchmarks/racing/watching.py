"""Onlooker of a cluster in the race: `python -m benchmarks.racing.watching --master ADDRESS --folder FOLDER`.

The process is on the master's machine. It notes the start of the clock, the progress, the process that is to
be slowed or killed, and now and then pulls the weights: what `benchmarks.racing.rival` does by itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.racing.course import Course
from common.lifecycle import end_with_parent
from common.wire.messages import StatusReply
from deploy.evaluation.evaluator import pull_network
from deploy.evaluation.reader import Reader

WATCH_SECONDS = 0.2


def weights(status: StatusReply, layers: int) -> Mapping[str, int]:
    """Return the versions of the layers' weights; nothing before every layer has created its own."""
    found = {shard: version for shard, version in status.versions.items() if shard.endswith("/weights")}
    return found if len(found) == layers else {}


def is_newer(now: Mapping[str, int], seen: Mapping[str, int]) -> bool:
    """Whether every layer has newer weights than were seen."""
    return bool(now) and all(version > seen.get(shard, 0) for shard, version in now.items())


def watch(reader: Reader, course: Course) -> None:
    """Watch a run to its end.

    Raises:
        LayerwiseError: the master does not answer.
    """
    config = reader.config()
    course.watch()
    size = config.run.batch_size
    looked, noted, pulled = 0, 0, 0
    seen: Mapping[str, int] = {}
    while True:
        status = reader.status()
        if status.state == "waiting":
            time.sleep(WATCH_SECONDS)
            continue
        course.begin(time.monotonic() - status.training_seconds)
        _note_last(course, status)
        if status.batches > noted:
            noted = status.batches
            course.note_progress(noted * size)
        over = status.state == "done"
        there = weights(status, config.layers)
        due = over or (noted * size - looked >= course.every and is_newer(there, seen))
        if due and there:
            network = pull_network(config, reader.pull)
            pulled += sum(tensor.nbytes for tensor in network.state.values())
            (course.folder / "pulled").write_text(str(pulled))
            course.look(network.state, network.batches * size)
            # The master's version may be some batches behind.
            seen, looked = network.versions, noted * size
        if over:
            return
        time.sleep(WATCH_SECONDS)


def _note_last(course: Course, status: StatusReply) -> None:
    """Note the process of the last seat, once all seats are taken."""
    file = course.folder / "last"
    if not file.exists():
        file.write_text(str(status.seats[-1].pid))


def serve(arguments: list[str]) -> None:
    """Run the onlooker."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.racing.watching", description=__doc__)
    parser.add_argument("--master", required=True, help="HOST:PORT")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the files of the row")
    parser.add_argument("--every", type=int, required=True, help="examples between two looks at the weights")
    chosen = parser.parse_args(arguments)
    with Reader(chosen.master) as reader:
        watch(reader, Course(chosen.folder, chosen.every))


if __name__ == "__main__":
    end_with_parent()
    serve(sys.argv[1:])
