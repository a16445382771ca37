"""Caller of a data port, as the serving end knows it: a stranger until a lease is shown."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.bounds import SMALL_MESSAGE_BYTES
from common.credentials import NOBODY, Admit, Credentials
from common.net.data.messages import Messages
from common.net.http2.connection import Connection
from common.net.http2.pace import Pace
from common.net.http2.pipe import WRITE_SECONDS

# A stranger begins a call within so long of the connection or of the last call, and sends the first message
# within so long of the call's begin.
OPENING_SECONDS = 10.0
# A lease holder may be silent between messages; the lease is looked at so often.
LEASE_SECONDS = 5.0


class Caller:
    """Peer at the other end of a served connection.

    Args:
        connection: to the peer.
        admit: raises LayerwiseError for a caller that may not call a method.
        promote: gives a caller that has shown a lease a place of the lease.
        opening_seconds: how long a stranger may be silent.

    Attributes:
        incarnation: of the last lease that was shown; 0 for a stranger.
        shown: credentials of the present call.
        lapsed: the lease ended while the caller was silent.
    """

    def __init__(
        self,
        connection: Connection,
        admit: Admit,
        promote: Callable[[Connection, int], None],
        opening_seconds: float = OPENING_SECONDS,
    ) -> None:
        self.incarnation = 0
        self.lapsed = False
        self.seconds = LEASE_SECONDS
        self._connection = connection
        self._admit = admit
        self.shown = NOBODY
        # Path and credentials of the last call that showed a lease.
        self._held: tuple[str, Credentials] = ("", NOBODY)
        self._promote = promote
        self._opening_seconds = opening_seconds
        self._due = 0.0

    def identify(self, path: str, shown: Credentials) -> None:
        """Take the path and the credentials in a call's headers.

        Raises:
            LayerwiseError: the caller may not make the call.
        """
        self._admit(path, shown)
        self.shown = shown
        if shown.incarnation:
            self._held = path, shown
            self.welcome(shown.incarnation)

    def welcome(self, incarnation: int) -> None:
        """Note that the caller has shown a lease that stands."""
        self.incarnation = incarnation
        self._promote(self._connection, incarnation)

    def bound_wait(self) -> None:
        """Bound the reads up to the next message or call: a lease holder's by the lease alone."""
        if self.incarnation:
            self._connection.pipe.set_pace(self)
        else:
            self._connection.pipe.set_deadline(time.monotonic() + self._opening_seconds)

    def take(self, nbytes: int) -> None:  # noqa: ARG002 - as of every pace
        """Look at the lease now and then, while a read waits.

        Raises:
            LayerwiseError: the lease has ended.
        """
        if (now := time.monotonic()) < self._due:
            return
        self._due = now + self.seconds
        self.lapsed = True
        self._admit(*self._held)
        self.lapsed = False


class Requests(Messages):
    """Requests of a call, and the answers, at the serving end.

    Until a lease is shown a message is small.

    Args:
        connection: on which the call is under way.
        most: bound of a lease holder's message, in bytes.
        caller: of the call.
        stalled_seconds: longest standstill within a message.
    """

    def __init__(
        self, connection: Connection, most: int, caller: Caller, stalled_seconds: float = WRITE_SECONDS
    ) -> None:
        super().__init__(connection, most if caller.incarnation else min(most, SMALL_MESSAGE_BYTES))
        self._caller = caller
        self._pace = Pace(stalled_seconds)

    def read(self) -> bytearray | None:
        """Read the next message; None at the end of the messages.

        A message that has begun must go on.
        """
        self._caller.bound_wait()
        if not self.connection.more():
            return None
        self._pace.restart()
        self.connection.pipe.set_pace(self._pace)
        return super().read()

    @property
    def incarnation(self) -> int:
        """Incarnation of the lease whose secret the call has shown; 0 for a stranger."""
        return self._caller.shown.incarnation
