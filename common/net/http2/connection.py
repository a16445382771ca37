"""Either end of a connection of HTTP/2, one stream at a time: for an event loop, and for a thread."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

import hpack

from common.net.http2 import frames
from common.net.http2.frames import BrokenError, Code, Headers, Kind, ProtocolError, ResetError
from common.net.http2.pipe import LoopPipe, Pipe, cut
from common.shards.pushes import Buffer

# A stream has headers, and trailers.
_MOST_BLOCKS = 2

Result = TypeVar("Result")


class End:
    """Either end of a connection.

    On an event loop one task is to read while another one sends. Over a thread's `Pipe` nothing here ever
    suspends (see `Connection`), and what has come is read when something is to be sent.

    Args:
        pipe: the socket; it is closed with the connection.
        serves: whether this end answers streams or opens them.

    Attributes:
        pipe: the socket, with the deadline of what is read.
        ended: whether the peer has sent all that it had to of the stream.

    Raises (every method):
        BrokenError: the connection is gone; ProtocolError where the peer broke a rule.
        StalledError: the peer stood still.
    """

    def __init__(self, pipe: Pipe, *, serves: bool) -> None:
        self.pipe = pipe
        self.ended = True
        self._serves = serves
        self._decoder = hpack.Decoder(frames.MOST_CONTROL_BYTES)
        self._encoder = hpack.Encoder()
        self._settled = False
        self._going = False
        self._stream = 0
        self._newest = 0 if serves else -1
        self._blocks: deque[Headers] = deque()
        self._reset: int | None = None
        # Of the frame of data that is being read.
        self._left = self._padding = 0
        self._last = False
        # Of the connection and of the stream, what came since the peer was told that more may come.
        self._since = self._since_on_stream = 0
        self._peer_frame_bytes = frames.FIRST_FRAME_BYTES
        self._peer_window = self._stream_window = self._window = frames.FIRST_WINDOW

    async def open(self) -> None:
        """Say and hear how each end wants it."""
        own = {frames.WINDOW: frames.OWN_WINDOW, frames.FRAME_BYTES: frames.LARGEST_FRAME_BYTES}
        own |= {frames.HEADER_BYTES: frames.MOST_CONTROL_BYTES}
        own |= {frames.STREAMS: 1} if self._serves else {frames.ENABLE_PUSH: 0}
        # The connection's window as wide as a stream's: only one is open.
        wide = frames.window_update(0, frames.OWN_WINDOW - frames.FIRST_WINDOW)
        await self.pipe.write((b"" if self._serves else frames.PREFACE) + frames.settings(own) + wide)
        if self._serves and await self.pipe.read(len(frames.PREFACE)) != frames.PREFACE:
            raise ProtocolError(Code.PROTOCOL_ERROR, "it does not begin as HTTP/2 does")
        while not self._settled:
            await self._step()

    def goaway(self, code: Code, text: str = "") -> bytes:
        """The frame that tells the peer why this is the end."""
        payload = struct.pack(">LL", max(0, self._newest), code) + text.encode()[:200]
        return frames.frame(Kind.GOAWAY, payload=payload)

    # --- streams

    async def request(self, headers: Headers) -> None:
        """Open a stream."""
        if self._going:
            raise BrokenError("the peer takes no more calls on this connection")
        self._begin(self._newest + 2)
        await self.send_headers(headers)

    async def accept(self) -> Headers | None:
        """The next stream's headers; None once the peer has closed the connection."""
        self._stream, self.ended = 0, True
        while not self._stream:
            try:
                await self._step()
            except ProtocolError:
                raise
            except BrokenError:
                return None
        return self._blocks.popleft()

    def _begin(self, stream: int) -> None:
        self._stream = self._newest = stream
        self._stream_window = self._peer_window
        self._blocks.clear()
        self._since_on_stream = 0
        self._reset, self.ended = None, False

    # --- in

    async def headers(self) -> Headers:
        """The next block of the stream's headers; data that comes before it is dropped.

        Raises:
            ResetError: the peer gave the stream up.
        """
        while not self._blocks:
            if self.ended:
                raise self._given_up()
            await self._step()
        return self._blocks.popleft()

    async def more(self) -> bool:
        """Whether there is more of the stream's data; False at its end.

        Raises:
            ResetError: the peer gave the stream up.
        """
        while not self._left:
            if self._blocks:
                return False
            if self._reset is not None:
                raise self._given_up()
            if self.ended:
                return False
            await self._step()
        return True

    async def into(self, target: memoryview) -> bool:
        """Fill it with the stream's data; False if that ends before."""
        while target.nbytes:
            if not await self.more():
                return False
            count = min(target.nbytes, self._left)
            await self.pipe.into(target[:count])
            target = target[count:]
            self._left -= count
            if not self._left:
                await self._data_read()
        return True

    def _given_up(self) -> ResetError:
        return ResetError(f"the peer gave up the call (code {self._reset})")

    async def _data_read(self) -> None:
        """A frame of data is through: so much more may come."""
        await self.pipe.skip(self._padding)
        self._padding = 0
        if self._last:
            self._end_heard()
        if self._since > frames.OWN_WINDOW // 2:
            self.pipe.say(frames.window_update(0, self._since))
            self._since = 0
        if self._since_on_stream > frames.OWN_WINDOW // 2 and not self.ended:
            self.pipe.say(frames.window_update(self._stream, self._since_on_stream))
            self._since_on_stream = 0

    def _end_heard(self) -> None:
        """The stream's other side is through: from now on nobody reads but who sends."""
        self.ended = True
        self.pipe.tell()

    async def _step(self) -> None:
        """Read one frame and do what it says; of data only the head."""
        if self._left:  # nobody wanted it
            await self.pipe.skip(self._left)
            self._left = 0
            await self._data_read()
        high, low, kind, flags, stream = struct.unpack(">BHBBL", await self.pipe.read(9))
        length, stream = high << 16 | low, stream & frames.LARGEST_WINDOW
        if not self._settled and kind != Kind.SETTINGS:
            raise ProtocolError(Code.PROTOCOL_ERROR, "its first frame is not SETTINGS")
        if length > (frames.LARGEST_FRAME_BYTES if kind == Kind.DATA else frames.MOST_CONTROL_BYTES):
            raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == Kind.DATA:
            await self._data(flags, stream, length)
        else:
            await self._control(kind, flags, stream, await self.pipe.read(length))

    async def _data(self, flags: int, stream: int, length: int) -> None:
        if not 0 < stream <= self._newest:
            raise ProtocolError(Code.PROTOCOL_ERROR, f"data of stream {stream}, which nobody opened")
        theirs = stream == self._stream and not self.ended
        self._since += length
        self._since_on_stream += length if theirs else 0
        self._padding = 0
        if flags & frames.PADDED:
            self._padding = (await self.pipe.read(1))[0] if length else 0
            if self._padding >= length:
                raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than frame")
            length -= 1 + self._padding
        self._last = theirs and bool(flags & frames.END_STREAM)
        if not theirs:
            await self.pipe.skip(length)
        self._left = length if theirs else 0
        if not self._left:
            await self._data_read()

    async def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == Kind.HEADERS:
            await self._headers(flags, stream, payload)
        elif kind == Kind.SETTINGS:
            self._set(flags, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._widen(stream, frames.number(payload) & frames.LARGEST_WINDOW)
        elif kind == Kind.PING:
            if len(payload) != 8:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, "a PING of another size")
            if not flags & frames.ACK:
                self.pipe.say(frames.frame(Kind.PING, frames.ACK, payload=payload))
        elif kind == Kind.RST_STREAM:
            code = frames.number(payload)
            if stream == self._stream:
                self._reset = code
                self._end_heard()
        elif kind == Kind.GOAWAY:
            self._going = True
        elif kind in (Kind.PUSH_PROMISE, Kind.CONTINUATION):
            raise ProtocolError(Code.PROTOCOL_ERROR, f"a {Kind(kind).name} where none may be")

    async def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        last, block = bool(flags & frames.END_STREAM), frames.unpadded(flags, payload)
        while not flags & frames.END_HEADERS:
            high, low, kind, flags, of = struct.unpack(">BHBBL", await self.pipe.read(9))
            length = high << 16 | low
            if kind != Kind.CONTINUATION or of != stream:
                raise ProtocolError(Code.PROTOCOL_ERROR, "headers that are not continued")
            if not length or len(block) + length > frames.MOST_CONTROL_BYTES:
                raise ProtocolError(Code.ENHANCE_YOUR_CALM, "headers without end")
            block += await self.pipe.read(length)
        try:
            headers = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        except hpack.HPACKError:
            raise ProtocolError(Code.COMPRESSION_ERROR, "headers that cannot be read") from None
        self._heard(stream, headers, last)

    def _heard(self, stream: int, headers: Headers, last: bool) -> None:
        if self._serves and stream > self._newest:
            if not stream % 2:
                raise ProtocolError(Code.PROTOCOL_ERROR, f"it opens stream {stream}")
            if self._stream:
                self._newest = stream
                self.pipe.say(frames.reset(stream, Code.REFUSED_STREAM))
                return
            self._begin(stream)
        elif stream != self._stream or self.ended:
            return
        if len(self._blocks) == _MOST_BLOCKS:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "more headers than a stream has")
        self._blocks.append(headers)
        if last:
            self._end_heard()

    def _set(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        if len(payload) % 6:
            raise ProtocolError(Code.FRAME_SIZE_ERROR, "settings of no size that they have")
        for which, value in struct.iter_unpack(">HL", payload):
            if which == frames.TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
            elif which == frames.WINDOW:
                if value > frames.LARGEST_WINDOW:
                    raise ProtocolError(Code.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
                self._stream_window += value - self._peer_window
                self._peer_window = value
            elif which == frames.FRAME_BYTES:
                if not frames.FIRST_FRAME_BYTES <= value < 1 << 24:
                    raise ProtocolError(Code.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._peer_frame_bytes = value
        self._settled = True
        self.pipe.tell()
        self.pipe.say(frames.frame(Kind.SETTINGS, frames.ACK))

    def _widen(self, stream: int, by: int) -> None:
        if not by:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a window that grows by nothing")
        if stream == 0:
            self._window += by
        elif stream == self._stream:
            self._stream_window += by
        if max(self._window, self._stream_window) > frames.LARGEST_WINDOW:
            raise ProtocolError(Code.FLOW_CONTROL_ERROR, "a window wider than any may be")
        self.pipe.tell()

    # --- out

    async def send_headers(self, headers: Headers, *, last: bool = False) -> None:
        """A block of headers; the last one ends the stream, whatever the peer still has to send."""
        flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
        block = self._encoder.encode(headers, huffman=False)
        over = frames.reset(self._stream, Code.NO_ERROR) if last and not self.ended else b""
        await self.pipe.write(frames.frame(Kind.HEADERS, flags, self._stream, block) + over)

    async def send(self, *parts: Buffer, last: bool = False) -> None:
        """Data, from where it lies, in as few frames as the peer takes.

        Raises:
            ResetError: the peer gave the stream up.
        """
        views = [memoryview(part).cast("B") for part in parts]
        left = sum(view.nbytes for view in views)
        while True:
            count = min(left, await self._room()) if left else 0
            flags = frames.END_STREAM if last and count == left else 0
            taken, views = cut(views, count)
            await self.pipe.write(frames.frame_head(Kind.DATA, flags, self._stream, count), *taken)
            self._window -= count
            self._stream_window -= count
            left -= count
            if not left:
                return

    async def _room(self) -> int:
        """How much may be sent at once; waits until something may be."""
        while True:
            most = min(self._peer_frame_bytes, frames.LARGEST_FRAME_BYTES)
            room = min(self._window, self._stream_window, most)
            if self._reset is not None:
                raise self._given_up()
            if isinstance(self.pipe, LoopPipe) and not self.ended:
                if room > 0:
                    return room
                # What the peer says is read by another task.
                await self.pipe.news()
                continue
            # What the peer has said meanwhile lies behind data that is being read.
            if self._left and room <= 0:
                raise ProtocolError(Code.ENHANCE_YOUR_CALM, "it sends, and takes no answers")
            if room > 0 and (self._left or not self.pipe.readable()):
                return room
            await self._step()


class Connection:
    """Either end of a connection, for a thread: an `End` whose every call blocks.

    Args:
        stream: the connected socket; it is closed with the connection.
        serves: whether this end answers streams or opens them.
    """

    def __init__(self, stream: socket.socket, *, serves: bool) -> None:
        self.pipe = Pipe(stream)
        self._end = End(self.pipe, serves=serves)

    @property
    def ended(self) -> bool:
        """Whether the peer has sent all that it had to of the stream."""
        return self._end.ended

    def open(self) -> None:
        """Say and hear how each end wants it."""
        now(self._end.open())

    def refuse(self, code: Code, text: str) -> None:
        """Tell the peer why this is the end."""
        self.pipe.farewell(self._end.goaway(code, text))

    def request(self, headers: Headers) -> None:
        """Open a stream."""
        now(self._end.request(headers))

    def accept(self) -> Headers | None:
        """The next stream's headers; None once the peer has closed the connection."""
        return now(self._end.accept())

    def headers(self) -> Headers:
        """The next block of the stream's headers (see `End.headers`)."""
        return now(self._end.headers())

    def more(self) -> bool:
        """Whether there is more of the stream's data (see `End.more`)."""
        return now(self._end.more())

    def into(self, target: memoryview) -> bool:
        """Fill it with the stream's data; False if that ends before."""
        return now(self._end.into(target))

    def send_headers(self, headers: Headers, *, last: bool = False) -> None:
        """A block of headers (see `End.send_headers`)."""
        now(self._end.send_headers(headers, last=last))

    def send(self, *parts: Buffer, last: bool = False) -> None:
        """Data, from where it lies (see `End.send`)."""
        now(self._end.send(*parts, last=last))

    def handed_over(self) -> End:
        """The same connection for the running event loop; this one is of no more use, but to interrupt it."""
        self._end.pipe = self.pipe.handed_over()
        return self._end


def now(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine that never suspends returns."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    raise AssertionError("a thread's connection has suspended")
