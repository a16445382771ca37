"""Slaves without torch: `python -m benchmarks.light_slaves MASTER COUNT NBYTES [--stores]`.

Each of COUNT slaves holds a lease by a heartbeat a second over a connection of its own. With NBYTES each is a
thread with a shard of so many bytes; 0: they only hold their leases. Once all are there, the process prints
"ready". Each line of standard input, SECONDS WHAT HOW, is an order to work for so many seconds: WHAT is push,
pull or both, by turns, and HOW is all, at a time, or one after the other. The durations of pushes, pulls and
heartbeats, in seconds, are printed as JSON.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np

from common import strict_json
from common.credentials import Credentials
from common.errors import RunFailedError, UnreachableError
from common.lifecycle import end_with_parent, keep_freed_memory
from common.net import control
from common.net.channels import Channel
from common.net.data.client import Call, DataClient, locate, pull
from common.net.tokens import find_joiner
from common.shards.pushes import Header, Operation, PullRequest
from common.shards.table import lay_out
from common.wire.messages import HeartbeatRequest, JoinReply, JoinRequest, Telemetry
from common.wire.methods import HEARTBEAT, JOIN, PLACE, PUSH
from common.wire.payloads import frame_parts, frames
from common.wire.stores import PlaceRequest
from common.wire.use import Utilization

BEAT_SECONDS, ANSWER_SECONDS, JOIN_SECONDS = 1.0, 60.0, 30.0
WARM_SECONDS = 0.3

Seconds = dict[str, list[float]]


@dataclass
class Seated:
    """A lease, its holder's connection to the control port, and the version of neighbours that is known."""

    channel: Channel
    lease: JoinReply
    peers_version: int = 0
    shown: Credentials = field(init=False)

    def __post_init__(self) -> None:
        self.shown = Credentials(self.lease.incarnation, self.lease.secret)


class LightSlave:
    """A slave with a shard, a connection for pushes and a connection for pulls."""

    def __init__(self, master: str, seated: Seated, nbytes: int, in_stores: bool) -> None:
        lease = seated.lease
        shard = f"{lease.layer}/weights"
        if in_stores:
            control.call(
                seated.channel, PLACE, PlaceRequest(lease.incarnation, shard, nbytes), shown=seated.shown
            )
        self._pushes, self._pulls = (
            DataClient(lambda: locate(master, None, shard if in_stores else ""), seated.shown)
            for _ in range(2)
        )
        table = lay_out([("weight", "float32", (nbytes // 4,), "parameter")])
        self._header = Header(shard, Operation.CREATE, incarnation=lease.incarnation, table=table)
        self._ones = np.ones(nbytes // 4, np.float32).view(np.uint8).data
        with self._pushes.call(PUSH) as call:
            self._push(call, np.zeros(nbytes, np.uint8).data)
            call.end()
        self._header = replace(self._header, operation=Operation.UPDATE)

    @contextmanager
    def pushing(self) -> Iterator[Call]:
        """Open a call for pushes."""
        with self._pushes.call(PUSH) as call:
            yield call
            call.end()

    def turn(self, call: Call, what: str, durations: Seconds) -> None:
        """Push or pull, or both, and note the durations.

        Raises:
            RunFailedError: a pull lacked a push.
        """
        began = time.perf_counter()
        if what != "pull":
            self._header = replace(self._header, sequence=self._header.sequence + 1)
            self._push(call, self._ones)
            durations["push"].append(time.perf_counter() - began)
            began = time.perf_counter()
        if what != "push":
            self._pull()
            durations["pull"].append(time.perf_counter() - began)

    def _push(self, call: Call, data: memoryview) -> None:
        for frame in frames(self._header, data):
            call.send(*frame_parts(frame))
        answer = call.read(ANSWER_SECONDS)
        if answer is None or not PUSH.reply.decode(bytes(answer)).applied:
            raise RunFailedError(f"a push of {self._header.shard} was not applied")

    def _pull(self) -> None:
        request = PullRequest(self._header.shard, self._header.incarnation)
        _, data = pull(self._pulls, request, ANSWER_SECONDS)
        first = np.frombuffer(data, np.float32, 1)[0]
        if first != self._header.sequence:
            raise RunFailedError(f"{self._header.shard} is {first} after {self._header.sequence} pushes of 1")


def _telemetry(beat: int) -> Telemetry:
    """Return what a slave that trains tells: about as many bytes."""
    return Telemetry(
        steps=10 * beat,
        next_batch=10 * beat,
        in_flight=3,
        step_seconds=0.9 * beat,
        waiting_seconds=0.01 * beat,
        delays={1: beat, 2: 7 * beat, 3: 2 * beat},
        loss=0.3,
        gradient_loss=0.02,
        gradient_cosine=0.9,
        samples_per_second=2560.0,
        cpu_seconds=0.95 * beat,
        peak_rss_bytes=300 << 20,
        utilization=Utilization(cpu_percent=95.0),
        sent_bytes=beat << 20,
        received_bytes=beat << 20,
    )


@contextmanager
def leases(master: str, count: int) -> Iterator[tuple[list[Seated], list[float]]]:
    """Acquire `count` leases, and keep them by heartbeats; yields them, and the growing list of durations.

    Raises:
        RunFailedError: the master has too few free seats.
    """
    stop = threading.Event()
    beats: list[float] = []
    with ExitStack() as stack:
        seated = []
        for number in range(count):
            channel = stack.enter_context(control.channel(master))
            request = JoinRequest(f"light-{os.getpid()}-{number}", key=secrets.token_hex(16))
            lease = control.call(channel, JOIN, request, JOIN_SECONDS, find_joiner(master))
            if not lease.granted:
                raise RunFailedError("the master has fewer seats than there are slaves")
            seated.append(Seated(channel, lease))
            # Until a lease is shown, few connections from one address are kept.
            _send(seated[-1], 0)
            if number == 0:
                # Others join meanwhile.
                beating = threading.Thread(target=_beat, args=(seated, stop, beats), daemon=True)
                beating.start()
        try:
            yield seated, beats
        finally:
            stop.set()
            beating.join()


def _beat(seated: list[Seated], stop: threading.Event, beats: list[float]) -> None:
    """Send a heartbeat a second for each lease, spread over the second, until `stop`."""
    began, number = time.perf_counter(), 0
    while True:
        number += 1
        present = list(seated)
        for place, each in enumerate(present):
            due = began + BEAT_SECONDS * (number + place / len(present))
            if stop.wait(max(0.0, due - time.perf_counter())):
                return
            sent = time.perf_counter()
            # As slaves do, which ask again.
            with suppress(UnreachableError):
                _send(each, number)
                beats.append(time.perf_counter() - sent)


def _send(seated: Seated, beat: int) -> None:
    request = HeartbeatRequest(seated.lease.incarnation, beat, _telemetry(beat), seated.peers_version)
    reply = control.call(seated.channel, HEARTBEAT, request, shown=seated.shown)
    seated.peers_version = reply.peers_version


def serve(master: str, count: int, nbytes: int, *, in_stores: bool) -> None:
    """Acquire leases, create shards, then serve orders from standard input."""
    with leases(master, count) as (seated, beats), ThreadPoolExecutor(len(seated)) as pool:
        slaves = list(
            pool.map(lambda each: LightSlave(master, each, nbytes, in_stores), seated if nbytes else [])
        )
        # Connections and the memory of their other ends exist before the clock starts.
        _work(pool, slaves, WARM_SECONDS, "both", "all")
        print("ready", flush=True)
        for line in sys.stdin:
            seconds, what, how = line.split()
            before = len(beats)
            durations = _work(pool, slaves, float(seconds), what, how)
            print(strict_json.encode({**durations, "heartbeat": beats[before:]}), flush=True)


def _work(pool: ThreadPoolExecutor, slaves: list[LightSlave], seconds: float, what: str, how: str) -> Seconds:
    """Have slaves work, all at a time or one after the other, and return the durations."""
    until = time.perf_counter() + seconds

    def work(chosen: list[LightSlave]) -> Seconds:
        durations: Seconds = {"push": [], "pull": []}
        with ExitStack() as stack:
            calls = [stack.enter_context(slave.pushing()) for slave in chosen]
            while time.perf_counter() < until:
                for slave, call in zip(chosen, calls, strict=True):
                    slave.turn(call, what, durations)
        return durations

    if not slaves:
        time.sleep(seconds)
    results = list(pool.map(work, [slaves] if how == "one" else [[slave] for slave in slaves]))
    return {name: [took for result in results for took in result[name]] for name in ("push", "pull")}


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    parser = argparse.ArgumentParser()
    parser.add_argument("master")
    parser.add_argument("count", type=int)
    parser.add_argument("nbytes", type=int)
    parser.add_argument("--stores", action="store_true")
    given = parser.parse_args()
    serve(given.master, given.count, given.nbytes, in_stores=given.stores)
