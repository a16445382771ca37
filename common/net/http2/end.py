"""State machine of either end of a connection of HTTP/2, one stream at a time."""

from __future__ import annotations

from collections import deque

import hpack

from common.net.http2 import frames
from common.net.http2.frames import BrokenError, Code, Headers, Kind, ProtocolError, ResetError
from common.net.http2.loop_pipe import LoopPipe
from common.net.http2.pipe import Pipe, cut
from common.net.http2.windows import ReceiveWindows, SendWindows
from common.shards.pushes import Buffer

# A stream has headers and trailers.
_MOST_BLOCKS = 2


class End:
    """Either end of a connection.

    On an event loop one task must read while another one sends. Over a thread's pipe nothing suspends (see
    `Connection`), and frames that have arrived are read when something is to be sent.

    Args:
        pipe: the socket; the connection's end closes it.
        serves: whether this end answers streams or opens them.

    Attributes:
        ended: whether the peer has sent the whole of its side of the stream.

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
        self._sending, self._receiving = SendWindows(), ReceiveWindows()
        self._settled = False
        self._going_away = False
        self._stream = 0
        self._newest = 0 if serves else -1
        self._blocks: deque[Headers] = deque()
        self._reset: int | None = None
        # Payload and padding left of the DATA frame under way, and whether the frame is the stream's last.
        self._left = self._padding = 0
        self._last = False

    async def open(self) -> None:
        """Exchange TLS handshakes, where the pipe has TLS, prefaces and settings."""
        await self.pipe.handshake()
        own = {frames.WINDOW: frames.OWN_WINDOW, frames.FRAME_BYTES: frames.LARGEST_FRAME_BYTES}
        own |= {frames.HEADER_BYTES: frames.MOST_CONTROL_BYTES}
        own |= {frames.STREAMS: 1} if self._serves else {frames.ENABLE_PUSH: 0}
        # The connection's window is as wide as a stream's: only one stream is open.
        wide = frames.window_update(0, frames.OWN_WINDOW - frames.FIRST_WINDOW)
        await self.pipe.write((b"" if self._serves else frames.PREFACE) + frames.settings(own) + wide)
        if self._serves and await self.pipe.read(len(frames.PREFACE)) != frames.PREFACE:
            raise ProtocolError(Code.PROTOCOL_ERROR, "the preface of HTTP/2 is missing")
        while not self._settled:
            await self._step()

    def goaway(self, code: Code, text: str = "") -> bytes:
        """Encode the frame that tells the peer why the connection ends."""
        return frames.goaway(max(0, self._newest), code, text)

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self.pipe.enqueue(frames.frame(Kind.PING, payload=bytes(8)))

    # --- streams

    async def request(self, headers: Headers) -> None:
        """Open a stream."""
        if self._going_away:
            raise BrokenError("the peer takes no more calls on this connection")
        self._begin(self._newest + 2)
        await self.send_headers(headers)

    async def accept(self) -> Headers | None:
        """Return the next stream's headers; None once the peer has closed the connection."""
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
        self._sending.begin_stream()
        self._receiving.begin_stream()
        self._blocks.clear()
        self._reset, self.ended = None, False

    # --- receiving

    async def headers(self) -> Headers:
        """Return the next block of the stream's headers; data before the block is dropped.

        Raises:
            ResetError: the peer gave the stream up.
        """
        while not self._blocks:
            if self.ended:
                raise self._reset_error()
            await self._step()
        return self._blocks.popleft()

    async def more(self) -> bool:
        """Whether the stream has more data; False once the peer has ended the data.

        Raises:
            ResetError: the peer gave the stream up.
        """
        while not self._left:
            if self._blocks:
                return False
            if self._reset is not None:
                raise self._reset_error()
            if self.ended:
                return False
            await self._step()
        return True

    async def into(self, target: memoryview) -> bool:
        """Fill a buffer with the stream's data; False where the data end before."""
        while target.nbytes:
            if not await self.more():
                return False
            count = min(target.nbytes, self._left)
            await self.pipe.into(target[:count])
            target = target[count:]
            self._left -= count
            if not self._left:
                await self._end_data_frame()
        return True

    def _reset_error(self) -> ResetError:
        return ResetError(f"the peer gave up the call (code {self._reset})")

    async def _end_data_frame(self) -> None:
        """Finish a frame of data, and let the peer send as much again."""
        await self.pipe.skip(self._padding)
        self._padding = 0
        if self._last:
            self._end_receiving()
        if updates := self._receiving.updates(None if self.ended else self._stream):
            self.pipe.enqueue(updates)

    def _end_receiving(self) -> None:
        """Note the end of the peer's side: from now on only a sender reads."""
        self.ended = True
        self.pipe.notify()

    async def _step(self) -> None:
        """Read and handle one frame; of a DATA frame the head alone."""
        if self._left:  # data that no one wanted
            await self.pipe.skip(self._left)
            self._left = 0
            await self._end_data_frame()
        length, kind, flags, stream = frames.parse_head(await self.pipe.read(frames.HEAD_BYTES))
        if not self._settled and kind != Kind.SETTINGS:
            raise ProtocolError(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if length > (frames.LARGEST_FRAME_BYTES if kind == Kind.DATA else frames.MOST_CONTROL_BYTES):
            raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == Kind.DATA:
            await self._begin_data_frame(flags, stream, length)
        else:
            await self._control(kind, flags, stream, await self.pipe.read(length))

    async def _begin_data_frame(self, flags: int, stream: int, length: int) -> None:
        if not 0 < stream <= self._newest:
            raise ProtocolError(Code.PROTOCOL_ERROR, f"data of stream {stream}, which was never opened")
        wanted = stream == self._stream and not self.ended
        self._receiving.take(length, stream=wanted)
        self._padding = 0
        if flags & frames.PADDED:
            self._padding = (await self.pipe.read(1))[0] if length else 0
            if self._padding >= length:
                raise ProtocolError(Code.PROTOCOL_ERROR, "more padding than frame")
            length -= 1 + self._padding
        self._last = wanted and bool(flags & frames.END_STREAM)
        if not wanted:
            await self.pipe.skip(length)
        self._left = length if wanted else 0
        if not self._left:
            await self._end_data_frame()

    async def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == Kind.HEADERS:
            await self._receive_headers(flags, stream, payload)
        elif kind == Kind.SETTINGS:
            self._apply_settings(flags, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._widen(stream, frames.number(payload) & frames.LARGEST_WINDOW)
        elif kind == Kind.PING:
            if len(payload) != 8:
                raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a PING of {len(payload)} bytes")
            if not flags & frames.ACK:
                self.pipe.enqueue(frames.frame(Kind.PING, frames.ACK, payload=payload))
        elif kind == Kind.RST_STREAM:
            code = frames.number(payload)
            if stream == self._stream:
                self._reset = code
                self._end_receiving()
        elif kind == Kind.GOAWAY:
            self._going_away = True
        elif kind in (Kind.PUSH_PROMISE, Kind.CONTINUATION):
            raise ProtocolError(Code.PROTOCOL_ERROR, f"{Kind(kind).name} out of place")

    async def _receive_headers(self, flags: int, stream: int, payload: bytes) -> None:
        last, block = bool(flags & frames.END_STREAM), frames.unpadded(flags, payload)
        while not flags & frames.END_HEADERS:
            length, kind, flags, continued = frames.parse_head(await self.pipe.read(frames.HEAD_BYTES))
            if kind != Kind.CONTINUATION or continued != stream:
                raise ProtocolError(Code.PROTOCOL_ERROR, "headers that are not continued")
            if not length or len(block) + length > frames.MOST_CONTROL_BYTES:
                raise ProtocolError(Code.ENHANCE_YOUR_CALM, "headers without end")
            block += await self.pipe.read(length)
        try:
            headers = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        except hpack.HPACKError:
            raise ProtocolError(Code.COMPRESSION_ERROR, "headers that cannot be decoded") from None
        self._take_headers(stream, headers, last)

    def _take_headers(self, stream: int, headers: Headers, last: bool) -> None:
        if self._serves and stream > self._newest:
            if not stream % 2:
                raise ProtocolError(Code.PROTOCOL_ERROR, f"a client opens stream {stream}")
            if self._stream:
                self._newest = stream
                self.pipe.enqueue(frames.reset(stream, Code.REFUSED_STREAM))
                return
            self._begin(stream)
        elif stream != self._stream or self.ended:
            return
        if len(self._blocks) == _MOST_BLOCKS:
            raise ProtocolError(Code.ENHANCE_YOUR_CALM, "more blocks of headers than a stream has")
        self._blocks.append(headers)
        if last:
            self._end_receiving()

    def _apply_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        for key, value in frames.parse_settings(payload):
            if key == frames.TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
            elif key == frames.WINDOW:
                self._sending.set_initial(value)
            elif key == frames.FRAME_BYTES:
                self._sending.set_frame_bytes(value)
        self._settled = True
        self.pipe.notify()
        self.pipe.enqueue(frames.frame(Kind.SETTINGS, frames.ACK))

    def _widen(self, stream: int, by: int) -> None:
        if stream in (0, self._stream):
            self._sending.widen(by, stream=stream != 0)
        elif not by:
            raise ProtocolError(Code.PROTOCOL_ERROR, "a window that grows by nothing")
        self.pipe.notify()

    # --- sending

    async def send_headers(self, headers: Headers, *, last: bool = False) -> None:
        """Send a block of headers; the last block ends the stream, whatever the peer still has to send."""
        flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
        block = self._encoder.encode(headers, huffman=False)
        reset = frames.reset(self._stream, Code.NO_ERROR) if last and not self.ended else b""
        await self.pipe.write(frames.frame(Kind.HEADERS, flags, self._stream, block) + reset)

    async def send(self, *parts: Buffer, last: bool = False) -> None:
        """Send data from the memory that holds the parts, in as few frames as the peer takes.

        Raises:
            ResetError: the peer gave the stream up.
        """
        views = [memoryview(part).cast("B") for part in parts]
        left = sum(view.nbytes for view in views)
        while True:
            count = min(left, await self._room()) if left else 0
            flags = frames.END_STREAM if last and count == left else 0
            taken, views = (views, []) if count == left else cut(views, count)
            await self.pipe.write(frames.frame_head(Kind.DATA, flags, self._stream, count), *taken)
            self._sending.spend(count)
            left -= count
            if not left:
                return

    async def _room(self) -> int:
        """Return the bytes that may be sent at once; waits until the peer takes at least one."""
        while True:
            room = self._sending.room
            if self._reset is not None:
                raise self._reset_error()
            if isinstance(self.pipe, LoopPipe) and not self.ended:
                if room > 0:
                    return room
                # Another task reads what the peer says.
                await self.pipe.wait_for_news()
                continue
            # News of the peer would lie behind data that are being read.
            if self._left and room <= 0:
                raise ProtocolError(Code.ENHANCE_YOUR_CALM, "the peer sends, and takes no answers")
            if room > 0 and (self._left or not self.pipe.readable()):
                return room
            await self._step()
