"""Either end of a connection of HTTP/2, for a thread."""

from __future__ import annotations

import socket
from collections.abc import Callable

from common.credentials import Certificate
from common.net.http2.end import End
from common.net.http2.frames import Code, Headers
from common.net.http2.pipe import run_sync
from common.net.http2.thread_pipe import ThreadPipe
from common.net.http2.tls import Tls, TlsThreadPipe, wrap
from common.shards.pushes import Buffer


class Connection:
    """An `End` whose every call blocks.

    Args:
        stream: the connected socket; the connection's end closes it.
        serves: whether this end answers streams or opens them.
        tls: certificates and trust; None: in the clear.
        host: name or address of the server, for the calling end.

    Raises:
        BrokenError: the peer is gone.
    """

    def __init__(
        self, stream: socket.socket, *, serves: bool, tls: Tls | None = None, host: str = ""
    ) -> None:
        self.pipe = (
            ThreadPipe(stream)
            if tls is None
            else TlsThreadPipe(wrap(stream, tls, None if serves else host), tls.check)
        )
        self._end = End(self.pipe, serves=serves)

    @property
    def certificate(self) -> Certificate | None:
        """Certificate of the peer; None in the clear."""
        return self.pipe.certificate

    @property
    def ended(self) -> bool:
        """Whether the peer has sent the whole of its side of the stream."""
        return self._end.ended

    def open(self) -> None:
        """Exchange handshakes and settings (see `End.open`)."""
        run_sync(self._end.open())

    def refuse(self, code: Code, text: str) -> None:
        """Tell the peer why the connection ends."""
        self.pipe.farewell(self._end.goaway(code, text))

    def request(self, headers: Headers) -> None:
        """Open a stream."""
        run_sync(self._end.request(headers))

    def accept(self) -> Headers | None:
        """Return the next stream's headers; None once the peer has closed the connection."""
        return run_sync(self._end.accept())

    def headers(self) -> Headers:
        """Return the next block of the stream's headers (see `End.headers`)."""
        return run_sync(self._end.headers())

    def more(self) -> bool:
        """Whether the stream has more data (see `End.more`)."""
        return run_sync(self._end.more())

    def into(self, target: memoryview) -> bool:
        """Fill a buffer with the stream's data; False where the data end before."""
        return run_sync(self._end.into(target))

    def send_headers(self, headers: Headers, *, last: bool = False) -> None:
        """Send a block of headers (see `End.send_headers`)."""
        run_sync(self._end.send_headers(headers, last=last))

    def send(self, *parts: Buffer, last: bool = False, let_go: Callable[[], None] | None = None) -> None:
        """Send data from the memory that holds the parts (see `End.send`)."""
        run_sync(self._end.send(*parts, last=last, let_go=let_go))

    def take_news(self) -> None:
        """Handle the frames that have arrived (see `End.take_news`)."""
        run_sync(self._end.take_news())

    def hand_over(self) -> End:
        """Move the connection to the running event loop; this object keeps the right to interrupt."""
        self._end.pipe = self.pipe.hand_over()
        return self._end
