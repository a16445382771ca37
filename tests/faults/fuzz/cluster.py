"""A real master and a real slave of layer 2, and a holder of layer 1 that fuzzes both."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from common.config.files import load
from common.credentials import NOBODY, Credentials
from common.data import datasets
from common.data.holdings import take_stock
from common.net import control
from common.net.access import Role
from common.net.addresses import split_address
from common.net.data.client import DataClient, locate
from common.net.identity import Identity, find_identity, tls_for
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN, read_token
from common.shards.pushes import Header, Operation
from common.shards.table import lay_out
from common.wire import methods
from common.wire.messages import (
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    Peer,
    StatusReply,
    StatusRequest,
)
from common.wire.payloads import frame_parts, frames
from deploy.certificates import making
from deploy.certificates.folders import MASTER, OPERATOR, READER, slave_name
from tests.faults.fuzz.mutation import contents
from tests.faults.fuzz.talking import Port
from tests.integration.processes import ROOT, until
from tests.master.pushes import MIXED

WIDTH, BATCH_SIZE = 8, 32
# The fuzzer beats its heart now and then; nothing here fails a lease.
SETTINGS = (
    f"network.options={{widths=[{WIDTH}]}}", "network.cuts=[1]", "run.batches=100000000",
    f"run.batch_size={BATCH_SIZE}", "cluster.heartbeat_seconds=5", "cluster.misses=100",
)  # fmt: skip
TABLES = {"1/weights": MIXED, "1/gradient": lay_out([("weight", "float32", (24,), "parameter")])}
# Words in the log of a process that has met what it does not know how to meet.
DEFECTS = ("Traceback", "Fatal Python error", "Segmentation fault", "terminate called")
LISTENING = re.compile(r"listening on (\S+), .*https?://(\S+?)/\n", re.DOTALL)
DEADLINE, STOP_SECONDS = 120.0, 20.0
Counts = dict[str, dict[str, float]]


class Cluster:
    """Master and slave as processes, and the lease of the fuzzer.

    Args:
        folder: for state, certificates and logs.
        settings: beside those of every cluster, section.key=value.
        tls: whether everybody has certificates.
    """

    def __init__(self, folder: Path, settings: tuple[str, ...] = (), *, tls: bool = False) -> None:
        self.folder = folder
        self.settings = (*SETTINGS, *settings)
        self._certificates = folder / "tls" if tls else None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sequences: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._stop()

    def _start(self) -> None:
        if self._certificates:
            making.make(self._certificates, making.plan([], slaves=3), None, days=1)
        (self.folder / "run.toml").touch()
        state = self.folder / "state"
        sets = [part for each in self.settings for part in ("--set", each)]
        self._launch(
            "master", "run.toml", "--listen", "127.0.0.1:0", "--state-dir", str(state),
            "--web", "127.0.0.1:0", *self._option(MASTER), *sets,
        )  # fmt: skip
        line = until(lambda: LISTENING.search(self.log("master")), DEADLINE)
        self.address, self.pages = line[1], Port(*split_address(line[2]))
        self.joiner, self.operator = NOBODY, NOBODY
        if not self._certificates:
            self.joiner = Credentials(token=read_token(state / JOIN_TOKEN, "join"))
            self.operator = Credentials(token=read_token(state / OPERATOR_TOKEN, "operator"))
        self._channel = control.channel(self.address, self.identity(slave_name(1)))
        self._bulk = locate(self.address, self.identity(slave_name(1)))[1]
        self._join()
        self._launch("slave", "--master", self.address, *self._option(slave_name(2)))
        until(self._has_slave, DEADLINE)
        self.profile = load(None, self.settings).cluster.profile

    def _has_slave(self) -> bool:
        if self._processes["slave"].poll() is not None:
            raise AssertionError(f"the slave has ended: {self.log('slave')[-2000:]}")
        return bool(self.status().seats[1].incarnation)

    def _option(self, name: str) -> list[str]:
        return ["--tls", str(self._certificates / name)] if self._certificates else []

    def _launch(self, kind: str, *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", "deploy.cli", kind, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (self.folder / f"{kind}.log").open("wb") as log:
            self._processes[kind] = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # --- who calls whom

    def identity(self, name: str) -> Identity | None:
        """Return the certificates of a name; None in the clear."""
        return find_identity(self._certificates / name if self._certificates else None)

    def port(self, which: str, caller: str) -> Port:
        """Return a port, and the way to it with a caller's certificate.

        Args:
            which: control, data or slave.
            caller: name of a folder of certificates.
        """
        host, number = {
            "control": split_address(self.address),
            "data": ("127.0.0.1", self._bulk),
            "slave": split_address(self.peer().address) if which == "slave" else ("", 0),
        }[which]
        found = self.identity(caller)
        return Port(host, number, found.call(Role.MASTER).context() if found else None)

    def bare(self, which: str) -> Port:
        """Return a port without TLS, whatever the port speaks."""
        port = self.port(which, READER)
        return Port(port.host, port.port)

    # --- the fuzzer's lease

    def _join(self) -> None:
        config = load(None, self.settings)
        request = JoinRequest(
            f"fuzzer-{secrets.token_hex(4)}", "here", 1, "cpu", "127.0.0.1:1", "127.0.0.1:1",
            take_stock(config, datasets.of(config), None), secrets.token_hex(16),
        )  # fmt: skip
        self.lease: JoinReply = until(lambda: self._asked(request), DEADLINE)
        assert self.lease.layer == 1
        self.shown = Credentials(self.lease.incarnation, self.lease.secret)
        self.sequences = dict.fromkeys(TABLES, 0)
        self._create()

    def _asked(self, request: JoinRequest) -> JoinReply | None:
        reply = control.call(self._channel, methods.JOIN, request, shown=self.joiner)
        return reply if reply.granted else None

    def _create(self) -> None:
        tls = tls_for(self.identity(slave_name(1)), Role.MASTER)
        client = DataClient(lambda: ("127.0.0.1", self._bulk), self.shown, tls)
        rng = random.Random(0)
        for shard, table in TABLES.items():
            header = Header(shard, Operation.CREATE, incarnation=self.lease.incarnation, table=table)
            with client.call(methods.PUSH) as call:
                for frame in frames(header, memoryview(contents(table, rng))):
                    call.send(*frame_parts(frame))
                call.read(DEADLINE)
        client.drop()

    def renew(self) -> None:
        """Give the lease back, and take a new one."""
        control.call(self._channel, methods.LEAVE, LeaveRequest(self.lease.incarnation), shown=self.shown)
        self._join()

    def peer(self) -> Peer:
        """Return the slave of layer 2, as the master names it to its neighbour; keeps the lease, too."""
        request = HeartbeatRequest(self.lease.incarnation, int(time.time()))
        reply = control.call(self._channel, methods.HEARTBEAT, request, shown=self.shown)
        return next((peer for peer in reply.peers if peer.layer == 2), Peer(2))

    def status(self) -> StatusReply:
        """Return the state of the run."""
        return control.call(self._channel, methods.STATUS, StatusRequest())

    def outsiders_view(self) -> Any:
        """Return what nobody but the holders of leases can change."""
        status = self.status()
        seats = [(seat.layer, seat.slave, seat.incarnation, seat.telemetry.done) for seat in status.seats]
        return seats, status.versions

    # --- what becomes of the processes

    def log(self, kind: str) -> str:
        """Return what a process has said."""
        return (self.folder / f"{kind}.log").read_text(encoding="utf-8", errors="replace")

    def counts(self) -> Counts:
        """Return threads, files and resident MiB of each living process, and the bytes of its log."""
        found = {}
        for kind, process in self._processes.items():
            if process.poll() is not None:
                continue
            seen = psutil.Process(process.pid)
            found[kind] = {
                "threads": seen.num_threads(),
                "files": seen.num_fds(),
                "mib": round(seen.memory_info().rss / (1 << 20), 1),
                "log": (self.folder / f"{kind}.log").stat().st_size,
            }
        return found

    def has_ended(self) -> bool:
        """Whether a process has ended."""
        return any(process.poll() is not None for process in self._processes.values())

    def defects(self) -> list[str]:
        """Return what is wrong with the processes."""
        wrong = []
        for kind, process in self._processes.items():
            if process.poll() is not None:
                wrong.append(f"{kind}: has ended with {process.returncode}: {self.log(kind)[-2000:]}")
            lines = self.log(kind).splitlines()
            for number, line in enumerate(lines):
                if any(word in line for word in DEFECTS):
                    wrong.append(f"{kind}: {' | '.join(lines[number : number + 30])}")
                    break
        return wrong


__all__ = ["BATCH_SIZE", "OPERATOR", "READER", "TABLES", "WIDTH", "Cluster", "Counts", "slave_name"]
