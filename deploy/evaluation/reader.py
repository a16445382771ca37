"""Client of a live master from outside the run: status, configuration, versions of shards, snapshots."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from common.config import files
from common.config.sections import Config
from common.config.user_code import check_sent_files
from common.credentials import NOBODY
from common.errors import AbsentError, UnprovenError, UnreachableError
from common.net import control
from common.net.access import BY_TOKEN, Role, row_for
from common.net.data import client as data
from common.net.identity import find_identity, tls_for
from common.net.tokens import OPERATOR_TOKEN, find_operator
from common.shards.pushes import Header, PullRequest
from common.wire.curriculum import Curriculum
from common.wire.messages import (
    AgreeRequest,
    DescribeRequest,
    Evaluation,
    Holdings,
    Kept,
    RollbackReply,
    RollbackRequest,
    SnapshotRequest,
    SnapshotsRequest,
    StatusReply,
    StatusRequest,
)
from common.wire.methods import (
    AGREE,
    DESCRIBE,
    LOCATE,
    REPORT,
    RESIZE,
    ROLLBACK,
    SNAPSHOT,
    SNAPSHOTS,
    STATUS,
    Method,
)
from common.wire.stages import ResizeReply, ResizeRequest
from common.wire.stores import LocateRequest

Request = TypeVar("Request")
Reply = TypeVar("Reply")

# Longest standstill of a pull.
STALLED_SECONDS = 60.0
# Deadline of calls that read or write whole runs.
SNAPSHOT_SECONDS = 300.0


def latest_status(reader: Reader, known: StatusReply) -> StatusReply:
    """Ask for the present status; if the master is away, return `known`."""
    try:
        return reader.status()
    except UnreachableError:
        return known


class Reader:
    """Connection to a master, for blocking calls.

    Args:
        address: HOST:PORT.
        token: file of the operator's token; None: look for a master of this user on this machine.
        tls: folder of a certificate; None: in the clear.

    Raises (each call):
        UnreachableError: the master does not answer.
        LayerwiseError: the master refuses the call.
    """

    def __init__(self, address: str, token: Path | None = None, tls: Path | None = None) -> None:
        self._address = address
        self._shown = find_operator(address, token)
        identity = find_identity(tls)
        self._channel = control.channel(address, identity)
        self._identity = identity
        # Store of each shard that was pulled, 0 for the master, and clients by store.
        self._stores: dict[str, int] = {}
        self._clients: dict[int, data.DataClient] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.drop()
        self._channel.close()

    def _call(
        self, method: Method[Request, Reply], request: Request, seconds: float = control.UNARY_SECONDS
    ) -> Reply:
        try:
            # A token is for those alone who ask for one.
            shown = self._shown if row_for(method.path).proof in BY_TOKEN else NOBODY
            return control.call(self._channel, method, request, seconds, shown)
        except UnprovenError:
            raise UnprovenError(
                f"--master {self._address}: {method.service}.{method.name} needs the operator's token; give "
                f"a copy of the master's {OPERATOR_TOKEN} by --token-file"
            ) from None
        except AbsentError as error:
            raise UnreachableError(
                f"--master {self._address}: no master answers ({error.reason}); start one there with "
                "`layerwise master`, or check the address and the firewall"
            ) from None

    def config(self) -> Config:
        """Fetch the run's configuration, to look at."""
        text = self._call(DESCRIBE, DescribeRequest()).config
        return files.parse(text, "the master's configuration")

    def config_to_run(self, code: Path | None) -> Config:
        """Fetch the run's configuration, for a process that runs its user functions.

        Raises:
            ConfigError: a file would run from a path that the master names, rather than from `code`.
        """
        config = self.config()
        check_sent_files(config.user_functions, code, {})
        return config

    def agree(self, holdings: Holdings) -> str:
        """Compare data, user's files and versions of this process with the run's; returns a warning or "".

        Raises:
            RefusedError: the holdings differ.
        """
        return self._call(AGREE, AgreeRequest(socket.gethostname(), holdings)).warning

    def status(self, seconds: float = control.UNARY_SECONDS) -> StatusReply:
        """Fetch the status of the run."""
        return self._call(STATUS, StatusRequest(), seconds)

    def curriculum(self) -> Curriculum:
        """Fetch the levels of the run."""
        return self.status().curriculum

    def report(self, evaluation: Evaluation) -> None:
        """Report an evaluation to the master."""
        self._call(REPORT, evaluation)

    def snapshot(self) -> Kept:
        """Have the master take a snapshot."""
        return self._call(SNAPSHOT, SnapshotRequest(), SNAPSHOT_SECONDS).snapshot

    def snapshots(self) -> list[Kept]:
        """List the snapshots, oldest first."""
        return self._call(SNAPSHOTS, SnapshotsRequest(), SNAPSHOT_SECONDS).snapshots

    def resize(self, replicas: Sequence[int]) -> ResizeReply:
        """Ask for another number of replicas: R of every layer, or by layer."""
        return self._call(RESIZE, ResizeRequest([*replicas]))

    def roll_back(self, number: int) -> RollbackReply:
        """Roll the run back to a snapshot; 0 is the newest whole snapshot."""
        return self._call(ROLLBACK, RollbackRequest(number), SNAPSHOT_SECONDS)

    def pull(self, shard: str) -> tuple[Header, memoryview]:
        """Pull a consistent version of a shard: header and buffer."""
        if shard not in self._stores:
            self._stores[shard] = self._call(LOCATE, LocateRequest(shard)).store
        return data.pull(self._client(shard, self._stores[shard]), PullRequest(shard), STALLED_SECONDS)

    def _client(self, shard: str, store: int) -> data.DataClient:
        """Return the client of a store, found by one of its shards, or of the master (0)."""
        if store not in self._clients:
            address, identity, at = self._address, self._identity, shard if store else ""
            self._clients[store] = data.DataClient(
                lambda: data.locate(address, identity, at),
                tls=tls_for(identity, Role.STORE if store else Role.MASTER),
            )
        return self._clients[store]
