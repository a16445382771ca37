"""Ways of a lease to its shards: to the master, or to each store that keeps some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.shards.pushes import Operation
from common.shards.working_copy import Push
from slave.network.transfer import Fetcher, Pusher, Taker
from slave.training.worker import Fetch


@dataclass(frozen=True)
class Line:
    """Threads of a lease for the shards of one process."""

    pusher: Pusher
    fetcher: Fetcher

    def start(self) -> None:
        """Begin."""
        self.pusher.start()
        self.fetcher.start()

    def close(self) -> None:
        """End both threads, and the calls under way."""
        self.pusher.close()
        self.fetcher.close()


class Lines:
    """Lines of a lease by store, opened for the first shard; used by one thread.

    Args:
        find: returns the number of the store that keeps a shard, 0 for the master; given the bytes of a shard
            that is about to be created, has the shard dealt to a store. Raises NotFoundError for a shard that
            nobody has created.
        open_line: makes the line to the store of a shard.
    """

    def __init__(self, find: Callable[[str, int | None], int], open_line: Callable[[str], Line]) -> None:
        self._find = find
        self._open_line = open_line
        self._stores: dict[str, int] = {}
        self._lines: dict[int, Line] = {}

    def open(self, shard: str, nbytes: int | None = None) -> Line:
        """Return the line to a shard.

        Raises:
            LayerwiseError: as `find`.
        """
        if shard not in self._stores:
            self._stores[shard] = self._find(shard, nbytes)
        number = self._stores[shard]
        if number not in self._lines:
            self._lines[number] = line = self._open_line(shard)
            line.start()
        return self._lines[number]

    def push(self, push: Push) -> None:
        """Hand over a push."""
        header = push.header
        creates = header.operation is Operation.CREATE
        self.open(header.shard, header.nbytes if creates else None).pusher.push(push)

    def pull(self, shard: str, taker: Taker) -> None:
        """Begin to pull a version of a shard for `taker`, which gets an error as well."""
        self.open(shard).fetcher.pull(shard, taker)

    def fetch(self, fetch: Fetch) -> None:
        """Begin to fetch a version of a shard beside the training."""
        self.open(fetch.shard).fetcher.fetch(fetch.shard, fetch.fragment, fetch.fragments)

    def close(self) -> None:
        """End every line."""
        for line in self._lines.values():
            line.close()
