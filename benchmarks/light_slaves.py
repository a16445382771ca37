"""Slaves that only push and pull, without torch: `python -m benchmarks.light_slaves MASTER COUNT NBYTES`.

Each of COUNT threads holds a lease and has a shard of NBYTES. Once all shards exist, the process prints
"ready". A line of standard input, SECONDS, starts pushes and pulls by turns for that time; the durations of
all pushes and pulls, in seconds, are printed as JSON. Heartbeats keep the leases, each once a second.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from common import strict_json
from common.credentials import Credentials
from common.errors import RunFailedError
from common.lifecycle import end_with_parent, keep_freed_memory
from common.net import control
from common.net.data.client import Call, DataClient, locate, pull
from common.net.tokens import find_joiner
from common.shards.pushes import Header, Operation, PullRequest
from common.shards.table import lay_out
from common.wire.messages import HeartbeatRequest, JoinReply, JoinRequest
from common.wire.methods import HEARTBEAT, JOIN, PUSH
from common.wire.payloads import frame_parts, frames

BEAT_SECONDS, ANSWER_SECONDS = 1.0, 60.0
WARM = 3

Seconds = dict[str, list[float]]


class LightSlave:
    """A slave with a lease, a connection for pushes and a connection for pulls."""

    def __init__(self, master: str, lease: JoinReply, nbytes: int) -> None:
        shown = Credentials(lease.incarnation, lease.secret)
        self._pushes, self._pulls = (DataClient(lambda: locate(master), shown) for _ in range(2))
        table = lay_out([("weight", "float32", (nbytes // 4,), "parameter")])
        self._header = Header(
            f"{lease.layer}/weights", Operation.CREATE, incarnation=lease.incarnation, table=table
        )
        self._ones = np.ones(nbytes // 4, np.float32).view(np.uint8).data
        with self._pushes.call(PUSH) as call:
            self._push(call, np.zeros(nbytes, np.uint8).data)
            call.end()
        self._header = replace(self._header, operation=Operation.UPDATE)

    def work(self, seconds: float) -> Seconds:
        """Push and pull by turns for `seconds`, and return the durations.

        Raises:
            RunFailedError: a pull lacked a push.
        """
        durations: Seconds = {"push": [], "pull": []}
        until = time.perf_counter() + seconds
        with self._pushes.call(PUSH) as call:
            while time.perf_counter() < until:
                began = time.perf_counter()
                self._header = replace(self._header, sequence=self._header.sequence + 1)
                self._push(call, self._ones)
                pushed = time.perf_counter()
                self._pull()
                durations["push"].append(pushed - began)
                durations["pull"].append(time.perf_counter() - pushed)
            call.end()
        return durations

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


@contextmanager
def leases(master: str, count: int) -> Iterator[list[JoinReply]]:
    """Acquire `count` leases, and keep them by heartbeats.

    Raises:
        RunFailedError: the master has too few free seats.
    """
    channel, stop = control.channel(master), threading.Event()
    requests = (
        JoinRequest(f"light-{os.getpid()}-{number}", key=secrets.token_hex(16)) for number in range(count)
    )
    granted = [control.call(channel, JOIN, request, shown=find_joiner(master)) for request in requests]
    if not all(lease.granted for lease in granted):
        raise RunFailedError("the master has fewer seats than there are slaves")

    def beat() -> None:
        number = 0
        while not stop.wait(BEAT_SECONDS):
            number += 1
            for lease in granted:
                shown = Credentials(lease.incarnation, lease.secret)
                request = HeartbeatRequest(lease.incarnation, number)
                control.call(channel, HEARTBEAT, request, shown=shown)

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield granted
    finally:
        stop.set()
        beating.join()
        channel.close()


def serve(master: str, count: int, nbytes: int) -> None:
    """Acquire leases, create shards, then serve an order from standard input."""
    with leases(master, count) as granted, ThreadPoolExecutor(count) as pool:
        slaves = list(pool.map(lambda lease: LightSlave(master, lease, nbytes), granted))
        # Connections and the master's memory exist before the clock starts.
        list(pool.map(lambda slave: slave.work(WARM * 0.1), slaves))
        print("ready", flush=True)
        seconds = float(sys.stdin.readline())
        results = list(pool.map(lambda slave: slave.work(seconds), slaves))
    durations = {what: [took for result in results for took in result[what]] for what in ("push", "pull")}
    print(strict_json.encode(durations), flush=True)


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
