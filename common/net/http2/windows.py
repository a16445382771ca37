"""Flow control of HTTP/2 (RFC 9113, section 5.2), for one stream at a time."""

from __future__ import annotations

from common.net.http2 import frames
from common.net.http2.frames import Code, ProtocolError


class SendWindows:
    """Bytes that the peer lets this end send, on the connection and on the stream.

    Raises (every method that takes a peer's number):
        ProtocolError: the number breaks a rule.
    """

    def __init__(self) -> None:
        self._connection = self._stream = self._initial = frames.FIRST_WINDOW
        self._frame_bytes = frames.FIRST_FRAME_BYTES

    @property
    def room(self) -> int:
        """Bytes that the next DATA frame may have; zero or less while a window is full."""
        return min(self._connection, self._stream, self._frame_bytes)

    def begin_stream(self) -> None:
        """Give a new stream the window that the peer's settings name."""
        self._stream = self._initial

    def spend(self, nbytes: int) -> None:
        """Note bytes that were sent."""
        self._connection -= nbytes
        self._stream -= nbytes

    def widen(self, by: int, *, stream: bool) -> None:
        """Take a WINDOW_UPDATE of the stream or of the connection."""
        if not by:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a window that grows by nothing")
        if stream:
            self._stream += by
        else:
            self._connection += by
        if max(self._connection, self._stream) > frames.LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window wider than 2**31 - 1")

    def set_initial(self, window: int) -> None:
        """Take the window of a stream from SETTINGS; the open stream's moves with it."""
        if window > frames.LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, f"a window of {window} bytes")
        self._stream += window - self._initial
        self._initial = window

    def set_frame_bytes(self, nbytes: int) -> None:
        """Take the largest frame of the peer from SETTINGS."""
        if not frames.FIRST_FRAME_BYTES <= nbytes < 1 << 24:
            raise ProtocolError(Code.PROTOCOL_ERROR, f"frames of {nbytes} bytes")
        self._frame_bytes = min(nbytes, frames.LARGEST_FRAME_BYTES)


class ReceiveWindows:
    """Bytes received since the peer was last given more room, on the connection and on the stream."""

    def __init__(self) -> None:
        self._connection = self._stream = 0

    def begin_stream(self) -> None:
        """Count a new stream from zero."""
        self._stream = 0

    def take(self, nbytes: int, *, stream: bool) -> None:
        """Count received bytes, of the open stream or of a stream that has ended."""
        self._connection += nbytes
        if stream:
            self._stream += nbytes

    def updates(self, stream: int | None) -> bytes:
        """Return the WINDOW_UPDATE frames that are due; None for a stream that takes no more data."""
        due = b""
        if self._connection > frames.OWN_WINDOW // 2:
            due += frames.window_update(0, self._connection)
            self._connection = 0
        if stream is not None and self._stream > frames.OWN_WINDOW // 2:
            due += frames.window_update(stream, self._stream)
            self._stream = 0
        return due
