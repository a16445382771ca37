"""A slave that hangs is relieved by a spare, and there are never more spares than seats."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from common.errors import RefusedError, RunFailedError
from common.wire.messages import Seat, StatusReply
from common.wire.stages import Resizing
from deploy.engines.cluster import Cluster
from deploy.engines.cluster_process import START_SECONDS, ClusterProcess
from deploy.engines.engine import Order
from deploy.engines.local import LocalProcess
from deploy.runs.directory import RunDirectory


class Sleeping:
    """Engine whose processes live and do nothing; with `full` it has no room for more."""

    host = "127.0.0.1"
    full = False

    def place(self, order: Order) -> LocalProcess:
        process = LocalProcess(subprocess.Popen(["sleep", "600"]))
        if self.full:
            process.place = None
        return process

    def tell(self) -> list[str]:
        return ["news"] if self.full else []

    def close(self) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of two seats whose processes live and do nothing."""
    made = Cluster(Sleeping(), RunDirectory(tmp_path), 2)
    made._master = made._process(made._order_master("", ""))
    made._master.start(made.engine)
    for _ in range(2):
        made._add_slave()
    yield made
    made.stop()


def place_of(process: ClusterProcess) -> tuple[str, int] | None:
    assert process.running is not None
    return process.running.place


def status(cluster: Cluster, *seated: int, waiting: int = 0) -> StatusReply:
    """A run whose seats those processes of the cluster have; the others are vacant."""
    places = [place for n in seated if (place := place_of(cluster.processes[n]))]
    taken = [
        Seat(k, 0, "training", host=host, pid=pid, incarnation=k) for k, (host, pid) in enumerate(places, 1)
    ]
    return StatusReply(
        seats=taken + [Seat(k) for k in range(len(taken) + 1, 3)], waiting_slaves=waiting, state="waiting"
    )


def test_a_vacant_seat_that_nobody_can_take_gets_a_spare(cluster: Cluster) -> None:
    assert cluster.relieve(status(cluster), 0.0) == []  # they are on their way
    assert cluster.relieve(status(cluster, 1, 2), 0.0) == []
    assert cluster.relieve(status(cluster, 1), 1e9) == []  # not for long enough
    assert cluster.relieve(status(cluster, 1, waiting=1), 0.0) == []
    (said,) = cluster.relieve(status(cluster, 1), 0.0)
    assert said == "layer 2 has no slave, and none has died: one hangs; started slave-3"
    assert cluster.relieve(status(cluster, 1), 0.0) == []  # it is on its way
    assert cluster.restarts == 1


def test_one_that_was_never_seen_on_a_seat_is_waited_for_so_long_and_no_longer(cluster: Cluster) -> None:
    assert cluster.relieve(status(cluster, 1), 0.0) == []
    for process in cluster.processes:
        process.started -= START_SECONDS
    assert len(cluster.relieve(status(cluster, 1), 0.0)) == 1


def test_there_are_no_more_spares_than_seats(cluster: Cluster) -> None:
    seated = [1, 2]
    for spare in (3, 4):
        cluster.relieve(status(cluster, *seated), 0.0)
        assert len(cluster.relieve(status(cluster, seated[0]), 0.0)) == 1
        seated = [seated[0], spare]
    cluster.relieve(status(cluster, *seated), 0.0)
    assert cluster.relieve(status(cluster, seated[0]), 0.0) == []
    assert len(cluster.processes) == 5


def test_a_change_of_replicas_gets_the_slaves_that_it_waits_for_once(cluster: Cluster) -> None:
    asked = dataclasses.replace(status(cluster, 1, 2), resizing=Resizing([3, 1], missing=2))
    assert cluster.relieve(asked, 0.0) == ["started slave-3, slave-4, for 4 seats"]
    assert cluster.relieve(asked, 0.0) == []
    assert len(cluster.processes) == 5
    # A run that is resumed has the seats already.
    resumed = dataclasses.replace(asked, seats=[Seat(1, replica) for replica in range(5)])
    assert cluster.relieve(resumed, 0.0) == ["started slave-5, for 5 seats"]


def end_with_0(process: ClusterProcess) -> None:
    assert process.running
    process.running.kill()
    process.running = LocalProcess(subprocess.Popen(["true"]))
    process.running.wait(20)


def test_a_slave_that_ended_as_if_the_run_were_over_is_started_again_and_not_for_ever(
    cluster: Cluster,
) -> None:
    slave = cluster.processes[2]
    slave.order.log.write_text("a user's file has called os._exit(0)")
    for _ in range(5):
        end_with_0(slave)
        assert cluster.check() == []  # the run may be over
        assert cluster.relieve(status(cluster, 1), 0.0) == ["slave-2 ended with 0; restarting it"]
        slave.restart_at = 0.0
        assert cluster.check() == ["slave-2 restarted"]
    end_with_0(slave)
    cluster.check()
    with pytest.raises(RunFailedError, match="slave-2 died 6 times in a row: a user's file has called"):
        cluster.relieve(status(cluster, 1), 0.0)


def test_a_place_on_another_machine_is_no_seat_of_ours(cluster: Cluster) -> None:
    """Two machines may have a process of the same number."""
    for process in cluster.processes:
        process.started -= START_SECONDS
    host, pid = place_of(cluster.processes[1]) or ("", 0)
    other = status(cluster, 2)
    far = [*other.seats[:1], Seat(2, 0, "training", host=f"not-{host}", pid=pid, incarnation=2)]
    cluster.relieve(StatusReply(seats=far, state="training"), 0.0)
    assert cluster.processes[1].seated is None
    assert cluster.processes[2].seated == place_of(cluster.processes[2])


def test_a_slave_that_waits_for_room_is_on_its_way_and_takes_no_time(cluster: Cluster) -> None:
    assert isinstance(cluster.engine, Sleeping)
    cluster.engine.full = True
    waiting = cluster._add_slave()
    waiting.started -= 2 * START_SECONDS
    assert cluster.check() == ["news"]
    assert time.monotonic() - waiting.started < START_SECONDS
    for process in cluster.processes[:3]:
        process.started -= START_SECONDS
    assert cluster.relieve(status(cluster, 1), 0.0) == []  # no further spare


def test_the_loss_of_a_place_is_told_in_the_words_of_the_engine(cluster: Cluster) -> None:
    lost = cluster.processes[1].running
    assert lost is not None
    lost.loss = "was lost with its node"
    lost.kill()
    assert cluster.check() == ["slave-1 was lost with its node; restarting it"]


def test_one_that_is_stopped_does_not_hold_up_the_end(cluster: Cluster) -> None:
    for process in cluster.processes:
        assert process.running is not None
        process.running.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    cluster.stop()
    assert time.monotonic() - began < 9
    assert not any(process.alive for process in cluster.processes)
    assert not [child for child in psutil.Process().children() if child.name() == "sleep"]


def end(process: ClusterProcess, code: int, said: str, seconds: float = 1.0) -> None:
    """Replace a process by one that has ended with a code, this long after its start."""
    process.order.log.parent.mkdir(exist_ok=True)
    process.order.log.write_text(f"layerwise: {said}\n")
    if process.running is not None:
        process.running.kill()
    process.running = LocalProcess(subprocess.Popen(["sh", "-c", f"exit {code}"]))
    process.running.wait(20)
    process.started, process.restart_at = time.monotonic() - seconds, 0.0


def test_a_slave_that_the_master_refuses_is_not_started_again(cluster: Cluster) -> None:
    end(cluster.processes[1], 3, "the data differ: train_y")
    with pytest.raises(RefusedError, match=r"^the data differ: train_y$"):
        cluster.check()


def test_a_slave_that_lost_its_master_for_long_is_started_again(cluster: Cluster) -> None:
    slave = cluster.processes[1]
    end(slave, 3, "no master answered for 60 s", seconds=61)
    assert cluster.check() == ["slave-1 ended with 3; restarting it"]


def test_a_slave_that_names_a_cause_again_ends_the_run_with_it(cluster: Cluster) -> None:
    """NaN used to come back after every one of six starts, or for ever when each took half a minute."""
    slave, said = cluster.processes[1], "the push would store NaN or Inf: lower optimizer.learning_rate"
    for seconds in (40, 40):
        if slave.running is None:
            cluster.check()
        end(slave, 4, said, seconds)
        if not slave.failures:
            assert cluster.check() == ["slave-1 ended with 4; restarting it"]
            slave.restart_at = 0.0
            cluster.check()
    with pytest.raises(RunFailedError, match=f"slave-1: {said}"):
        cluster.check()


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_restart_without_files_costs_a_round_and_an_event_and_is_tried_again(cluster: Cluster) -> None:
    slave = cluster.processes[1]
    end(slave, 1, "")
    cluster.check()
    with no_more_files():
        slave.restart_at = 0.0
        assert cluster.check() == ["slave-1 cannot be started: Too many open files; trying again"]
        assert slave.restart_at > time.monotonic()
        slave.restart_at = 0.0
        assert cluster.check() == []
    slave.restart_at = 0.0
    assert cluster.check() == ["slave-1 restarted"]
    assert slave.alive


def test_a_spare_without_files_is_started_by_a_later_check(cluster: Cluster) -> None:
    cluster.relieve(status(cluster, 1, 2), 0.0)
    with no_more_files():
        assert cluster.relieve(status(cluster, 1), 0.0) == [
            "slave-3 cannot be started: Too many open files; trying again"
        ]
    assert cluster.relieve(status(cluster, 1), 0.0) == []
    cluster.processes[3].restart_at = 0.0
    assert cluster.check() == ["slave-3 restarted"]


def test_a_cause_that_another_slave_of_the_layer_names_again_ends_the_run(cluster: Cluster) -> None:
    """A spare that took the layer over used to have a start of its own."""
    one, other = cluster.processes[1:]
    end(one, 4, "layer 2, batch 50: unit 3 (Own()) raised ValueError: no")
    assert len(cluster.check()) == 1
    one.restart_at = float("inf")
    end(other, 4, "layer 1, batch 50: unit 1 (Own()) raised ValueError: no")
    assert cluster.check() == ["slave-2 ended with 4; restarting it"]
    end(cluster._add_slave(), 4, "layer 2, batch 101: unit 3 (Own()) raised ValueError: no")
    with pytest.raises(RunFailedError, match="slave-3: layer 2, batch 101"):
        cluster.check()
