"""Guard of a port whose library bounds no connections by address.

The library neither tells of connections nor ends one when asked. The guard finds the sockets among the files
of this process now and then, and ends a connection by a shutdown: to the library the peer has hung up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.errors import LayerwiseError, StalledError, UnreachableError
from common.lifecycle import file_limit
from common.net.data.places import Bounds, Places, neighbourhood
from common.net.own_sockets import Peer, find_sockets, open_socket, other_end
from common.supervision import Rounds, SupervisedThread

log = logging.getLogger("layerwise.guard")

# Between two looks at the sockets.
LOOK_SECONDS = 1.0
_CROWDED = "a connection to the control port has given its place to a newer one"
_SILENT = "a connection to the control port has made no call in time that it may make"


@dataclass
class _Found:
    """Connection of the port.

    Attributes:
        peer: other end.
        since: monotonic time of the first look.
        ended: has lost its place or its right, and is not closed by the library yet.
    """

    peer: Peer
    since: float
    ended: bool = False


@dataclass(frozen=True)
class _Shown:
    """Right that a connection has shown.

    Attributes:
        incarnation: of the lease; 0 without one.
        ends: Unix time of the certificate's end.
    """

    incarnation: int
    ends: float


class Guard:
    """Bounds a port's connections by address, and keeps places for lease holders, as `Places` says.

    A connection ends, too, that makes no call in time that is admitted, and one whose certificate has ended.

    Args:
        bounds: of the open connections; with few files there are fewer places for strangers.
        on_error: takes an error for each connection that is ended.
        opening_seconds: time to the first admitted call.
    """

    def __init__(
        self, bounds: Bounds, on_error: Callable[[LayerwiseError], None], opening_seconds: float
    ) -> None:
        self._places: Places[int] = Places(bounds.within(file_limit()))
        self._on_error = on_error
        self._opening_seconds = opening_seconds
        self._port = 0
        # Connections by inode, and the inodes of all other sockets.
        self._known: dict[int, _Found] = {}
        self._others: set[int] = set()
        self._lock = threading.Lock()
        self._shown: dict[Peer, _Shown] = {}
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "guard")

    def start(self, port: int) -> None:
        """Begin to look at the sockets of a port of this process."""
        self._port = port
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def note(self, peer: Peer | None, incarnation: int, ends: float = math.inf) -> None:
        """Note that a call was admitted; from any thread.

        Args:
            peer: other end of the connection; None if the library does not tell.
            incarnation: of the lease that was shown; 0 without one.
            ends: Unix time of the certificate's end.
        """
        if peer is not None:
            with self._lock:
                before = self._shown.get(peer)
                self._shown[peer] = _Shown(incarnation or (before.incarnation if before else 0), ends)

    def _run(self) -> None:
        rounds = Rounds("the guard of the control port")
        while not self._stopping.wait(LOOK_SECONDS):
            with rounds.attempt():
                self.look(time.monotonic(), time.time())

    def look(self, now: float, date: float) -> None:
        """Look at the sockets once, and end connections that have lost their places or their rights.

        Args:
            now: monotonic seconds.
            date: Unix time, for the ends of certificates.
        """
        with self._lock:
            noted = set(self._shown)
        files = dict(find_sockets())
        with self._lock:
            shown = dict(self._shown)
        self._forget_closed(files)
        self._take_new(files, now, shown)
        for inode, found in self._known.items():
            if found.ended:
                continue
            right = shown.get(found.peer)
            if right is None and now - found.since > self._opening_seconds:
                self._end(inode, StalledError(_SILENT))
            elif right and right.ends < date:
                log.info("a connection ends with its certificate")
                self._end(inode)
            elif right:
                self._promote(inode, right)
        with self._lock:
            for peer in noted - {found.peer for found in self._known.values()}:
                del self._shown[peer]
        # At each look anew: a look may fail for want of files.
        for inode, found in self._known.items():
            if found.ended:
                _hang_up(inode, files[inode])

    def _forget_closed(self, files: dict[int, int]) -> None:
        self._others &= files.keys()
        for inode in self._known.keys() - files.keys():
            self._places.leave(inode)
            del self._known[inode]

    def _take_new(self, files: dict[int, int], now: float, shown: dict[Peer, _Shown]) -> None:
        # About the order of arrival: inodes grow on each core by itself.
        for inode in sorted(files.keys() - self._known.keys() - self._others):
            with open_socket(files[inode], inode) as stream:
                peer = other_end(stream, self._port) if stream else None
            if peer is None:
                self._others.add(inode)
                continue
            self._known[inode] = _Found(peer, now)
            self._end(self._places.enter(inode, neighbourhood(peer[0])), UnreachableError(_CROWDED))
            if right := shown.get(peer):
                self._promote(inode, right)

    def _promote(self, inode: int, right: _Shown) -> None:
        if right.incarnation:
            oldest = self._places.promote(inode, right.incarnation)
            self._end(oldest, UnreachableError(_CROWDED))

    def _end(self, inode: int | None, error: LayerwiseError | None = None) -> None:
        """End a connection, if there is one to end; an error is counted."""
        if inode is None:
            return
        if error is not None:
            log.debug("%s", error)
            self._on_error(error)
        self._known[inode].ended = True
        self._places.leave(inode)


def _hang_up(inode: int, file: int) -> None:
    with open_socket(file, inode) as stream, contextlib.suppress(OSError):
        if stream:
            stream.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class Call:
    """Call under way.

    Attributes:
        address: of the caller.
        waiting: bound of the wait for the call's message; None before and after.
        ended: has given its place to a newer call.
    """

    address: str
    waiting: asyncio.Timeout | None = None
    ended: bool = False

    @property
    def waits(self) -> bool:
        """Whether the caller has not sent the message yet."""
        return self.waiting is not None and not self.waiting.expired()

    def end(self) -> None:
        """End the wait for the message."""
        assert self.waiting is not None
        self.ended = True
        self.waiting.reschedule(0.0)


class Calls:
    """Calls under way of callers without a lease, by address. For one event loop.

    A newcomer takes the place of the oldest call whose message has not come: whoever holds calls open keeps
    nobody out. A call whose message is here is carried out.

    Args:
        bounds: `strangers` and `address` are the bounds.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # Oldest first.
        self._by_address: dict[str, dict[Call, None]] = {}

    @contextlib.contextmanager
    def place(self, peer: Peer | None, incarnation: int) -> Iterator[Call]:
        """Context of a call.

        Raises:
            UnreachableError: as many calls as may be are carried out.
        """
        call = Call(neighbourhood(peer[0]) if peer else "")
        if incarnation:
            yield call
            return
        self._make_room(call.address)
        self._by_address.setdefault(call.address, {})[call] = None
        try:
            yield call
        finally:
            self._leave(call)

    def _make_room(self, address: str) -> None:
        own = self._by_address.get(address, {})
        if len(own) >= self._bounds.address:
            crowd, crowded = own, f"{self._bounds.address} calls from {address}"
        elif sum(map(len, self._by_address.values())) >= self._bounds.strangers:
            crowd = max(self._by_address.values(), key=lambda calls: sum(call.waits for call in calls))
            crowded = f"{self._bounds.strangers} calls"
        else:
            return
        oldest = next((call for call in crowd if call.waits), None)
        if oldest is None:
            raise UnreachableError(f"{crowded} are under way; call again later")
        oldest.end()
        self._leave(oldest)

    def _leave(self, call: Call) -> None:
        own = self._by_address.get(call.address, {})
        own.pop(call, None)
        if not own:
            self._by_address.pop(call.address, None)
