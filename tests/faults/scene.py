"""A cluster of real processes in which faults strike, and what is seen of it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.data import datasets
from common.errors import UnreachableError
from common.models import network
from common.net.addresses import split_address
from common.wire.messages import Seat, StatusReply
from deploy.evaluation.evaluator import Evaluator
from deploy.evaluation.reader import Reader
from tests.faults.proxy import Proxy
from tests.integration.processes import ROOT, Cli, HandMade, until

LAYERS, HEARTBEAT_SECONDS, N_PUSH = 3, 1.0, 10
# Folder of the file that the settings name.
_CODE = ("--code", f"{ROOT}/tests/faults")
SETTINGS = (
    f"data.dataset={ROOT}/tests/faults/clouds.py:clouds", "network.options={widths=[32, 32]}",
    "network.layers=3", "optimizer.learning_rate=3e-3", "optimizer.schedule=linear",
    f"downpour.n_push={N_PUSH}", f"cluster.heartbeat_seconds={HEARTBEAT_SECONDS}",
    "cluster.snapshot_seconds=1", "cluster.backup_steps=20",
)  # fmt: skip
WATCH_SECONDS, DEADLINE = 0.03, 150.0


class Way:
    """From a slave to the master and back, by both of its ports, under a loopback address of its own.

    Args:
        proxies: of each port; the first is that of gRPC.
    """

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self.address = proxies[0].address
        self._proxies = proxies

    def cut(self, *, asked: bool = True, answered: bool = True) -> None:
        """From now on hold what is asked of the master, or what it answers, or both."""
        for proxy in self._proxies:
            proxy.cut(asked=asked, answered=answered)

    def heal(self) -> None:
        """Pass on what was held, and what comes."""
        for proxy in self._proxies:
            proxy.heal()

    def slow(self, bytes_per_second: float, latency: float) -> None:
        """Each port has so much, in each direction; each piece takes `latency` seconds more."""
        for proxy in self._proxies:
            proxy.slow(bytes_per_second, latency)


class Scene:
    """A master, a slave a layer, and spares that wait for a seat; all of them end in `finish`.

    Args:
        cli: what runs processes, in a folder of its own.
        settings: beside those that every scene has.
        spares: so many slaves more than seats.
        linked: whether every slave reaches the master, and its neighbours it, by a proxy.
    """

    def __init__(self, cli: Cli, settings: Sequence[str], *, spares: int = 1, linked: bool = False) -> None:
        self.folder = cli.folder
        self.struck_at, self.batches_then = 0.0, 0
        self.status = StatusReply()
        self.troubles: set[str] = set()
        self._settings = [part for each in (*SETTINGS, *settings) for part in ("--set", each)]
        self._basic = "cluster.profile=basic" in settings
        self._spares, self._linked = spares, linked
        self._cluster = HandMade(cli)
        self._stack = ExitStack()
        self._slaves: dict[int, subprocess.Popen[str]] = {}
        self._to_master: dict[int, Way] = {}
        self._to_slave: dict[int, Proxy] = {}
        self._killed: set[int] = set()
        self._over = threading.Event()
        # When the version of each shard was seen to move.
        self._moves: dict[str, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._stack.callback(self._cluster.end)
        self._bulk = split_address(free_address())
        self._settings += ["--bulk-port", str(self._bulk[1])]
        self._master = self._cluster.master(*self._settings)
        self.address = self._cluster.address
        for _ in range(LAYERS + self._spares):
            self._add_slave()
        watching = threading.Thread(target=self._watch)
        watching.start()
        self._stack.callback(watching.join)
        self._stack.callback(self._over.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for slave in self._slaves.values():
            if slave.poll() is None:
                slave.send_signal(signal.SIGCONT)
        self._stack.close()

    def _add_slave(self) -> None:
        if not self._linked:
            self._note(self._cluster.slave(*_CODE))
            return
        to_master, where, to_slave = self._way(), [], None
        if self._basic:
            listen = free_address()
            to_slave = self._proxy(split_address(listen))
            where = ["--listen", listen, "--advertise", to_slave.address]
        slave = self._cluster.slave(*_CODE, *where, address=to_master.address)
        self._note(slave)
        self._to_master[slave.pid] = to_master
        if to_slave:
            self._to_slave[slave.pid] = to_slave

    def _note(self, slave: subprocess.Popen[str]) -> None:
        self._slaves[slave.pid] = slave

    def _way(self) -> Way:
        # A slave looks for the port for shards where it found the other one.
        host = f"127.0.0.{len(self._to_master) + 2}"
        ends = split_address(self.address), self._bulk
        return Way([self._proxy(end, (host, end[1])) for end in ends])

    def _proxy(self, target: tuple[str, int], listen: tuple[str, int] = ("127.0.0.1", 0)) -> Proxy:
        return self._stack.enter_context(Proxy(lambda: target, listen))

    # --- what is seen

    def _watch(self) -> None:
        """Follow the versions; by a new connection after each failure, lest one waits for its turn."""
        while not self._over.is_set():
            with contextlib.suppress(UnreachableError), Reader(self.address) as reader:
                while not self._over.wait(WATCH_SECONDS):
                    self._see(reader.status(1.0))

    def _see(self, status: StatusReply) -> None:
        now = time.time()
        for shard, version in status.versions.items():
            if version > self.status.versions.get(shard, 0):
                self._moves[shard].append(now)
        if status.snapshot_trouble:
            self.troubles.add(status.snapshot_trouble)
        self.status = status

    def seat(self, layer: int) -> Seat:
        """Who trains a layer."""
        return self.status.seats[layer - 1]

    def through(self, batch: int) -> None:
        """Wait until every layer is through a batch; from then on the seats are known."""
        until(lambda: self.status.batches >= batch, DEADLINE)

    def furthest(self) -> int:
        """The batch that some layer is known to have come to."""
        return max((seat.telemetry.next_batch for seat in self.status.seats), default=0)

    def events(self) -> list[dict[str, Any]]:
        """What the master has written down of leases, snapshots and itself."""
        lines = (self.folder / "state" / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def happened(self, what: str, layer: int) -> dict[str, Any] | None:
        """The first event of that kind and layer since the fault struck."""
        for event in self.events():
            if (event["event"], event.get("layer")) == (what, layer) and event["time"] >= self.struck_at:
                return event
        return None

    def replaced(self, layer: int) -> None:
        """Wait until another slave has a layer."""
        until(lambda: self.happened("replaced", layer), DEADLINE)

    def stood_still(self) -> float:
        """Seconds from the fault until the layer that it held up longest brought a push in again."""
        longest = (0.0, self.struck_at)
        for layer in range(1, LAYERS + 1):
            moves = self._moves[f"{layer}/weights"]
            gaps = [(b - a, b) for a, b in pairwise(moves) if b > self.struck_at]
            longest = max(longest, *gaps)
        return longest[1] - self.struck_at

    # --- what strikes

    def strike(self) -> None:
        """What is called next is the fault: from now on time is taken."""
        self.struck_at, self.batches_then = time.time(), self.furthest()

    def kill_slave(self, layer: int) -> None:
        """SIGKILL."""
        pid = self.seat(layer).pid
        self._killed.add(pid)
        self._slaves[pid].kill()

    def stop_slave(self, layer: int) -> int:
        """SIGSTOP; its process."""
        pid = self.seat(layer).pid
        self._slaves[pid].send_signal(signal.SIGSTOP)
        return pid

    def continue_slave(self, pid: int) -> None:
        """SIGCONT."""
        self._slaves[pid].send_signal(signal.SIGCONT)

    def kill_master(self) -> None:
        """SIGKILL."""
        self._master.kill()
        self._master.wait()

    def restart_master(self) -> None:
        """On its port and state directory."""
        self._master = self._cluster.master(*self._settings, listen=self.address)

    def link(self, layer: int) -> Way:
        """The way from a layer's slave to the master, and back."""
        return self._to_master[self.seat(layer).pid]

    def link_between(self, layer: int) -> Proxy:
        """The way from the layer below to a layer's slave, and back."""
        return self._to_slave[self.seat(layer).pid]

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """Meanwhile nothing more fits beside the master's state, which is on a small disk."""
        with full_disk(self.folder / "state"):
            yield

    # --- its end

    def finish(self) -> dict[str, Any]:
        """Wait for the run to end by itself, and for its slaves to go; what is left to be known of it."""
        for pid, slave in self._slaves.items():
            code = slave.wait(DEADLINE)
            assert code == (-signal.SIGKILL if pid in self._killed else 0), slave.communicate()[1]
        with Reader(self.address) as reader:
            self._see(status := reader.status())
            config = reader.config()
            dataset = datasets.of(config)
            evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
            evaluation = evaluator.measure(evaluator.pull(reader.pull))
        assert status.state == "done"
        assert not list((self.folder / "state").rglob("*.new"))
        return {
            "test_error_percent": round(evaluation.metrics["error_percent"], 2),
            "lost_batches": status.lost_batches,
            "fenced": status.counters.fenced,
        }


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Context in which nothing more fits into a folder, which is on a small disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            continue
    try:
        yield
    finally:
        ballast.unlink()


def free_address() -> str:
    """An address of loopback at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def small_disk(folder: Path, mib: int = 8) -> Iterator[None]:
    """A file system of so many MiB at a folder, in memory.

    Raises:
        PermissionError: this process may not mount one.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("mounting a small disk needs to be root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
