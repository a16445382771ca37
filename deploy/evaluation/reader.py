"""Reads a live master from outside: its status, its configuration, one consistent version of each shard."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from common.config import files
from common.config.sections import Config
from common.errors import UnreachableError
from common.net import control
from common.net.data import client as data
from common.shards.pushes import Header, PullRequest
from common.wire.messages import (
    DescribeRequest,
    Evaluation,
    Kept,
    RollbackReply,
    RollbackRequest,
    SnapshotRequest,
    SnapshotsRequest,
    StatusReply,
    StatusRequest,
)
from common.wire.methods import DESCRIBE, REPORT, ROLLBACK, SNAPSHOT, SNAPSHOTS, STATUS

# What reads or writes whole shards.
PULL_SECONDS = 300.0


def latest(reader: Reader, known: StatusReply) -> StatusReply:
    """The status now; of a master that is away, what is known."""
    try:
        return reader.status()
    except UnreachableError:
        return known


class Reader:
    """One connection to a master, for blocking calls.

    Raises (each call):
        UnreachableError: no master answers there.
        LayerwiseError: it refuses.
    """

    def __init__(self, address: str) -> None:
        self._channel = control.channel(address)
        self._data = data.DataClient(lambda: data.locate(address))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.drop()
        self._channel.close()

    def config(self) -> Config:
        """The run's configuration."""
        text = control.call(self._channel, DESCRIBE, DescribeRequest()).config
        return files.parse(text, "the master's configuration")

    def status(self, seconds: float = control.UNARY_SECONDS) -> StatusReply:
        """How the run goes."""
        return control.call(self._channel, STATUS, StatusRequest(), seconds)

    def report(self, evaluation: Evaluation) -> None:
        """Tell the master what was measured."""
        control.call(self._channel, REPORT, evaluation)

    def snapshot(self) -> Kept:
        """Take a snapshot."""
        return control.call(self._channel, SNAPSHOT, SnapshotRequest(), PULL_SECONDS).snapshot

    def snapshots(self) -> list[Kept]:
        """The snapshots that there are, oldest first."""
        return control.call(self._channel, SNAPSHOTS, SnapshotsRequest(), PULL_SECONDS).snapshots

    def roll_back(self, number: int) -> RollbackReply:
        """Put the run back to a snapshot; 0: to the newest that is whole."""
        return control.call(self._channel, ROLLBACK, RollbackRequest(number), PULL_SECONDS)

    def pull(self, shard: str) -> tuple[Header, memoryview]:
        """One consistent version of a shard: its header and its buffer."""
        return data.pull(self._data, PullRequest(shard), PULL_SECONDS)
