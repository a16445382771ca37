"""Receiving half of an end of a connection: frames from the peer, and the answers that HTTP/2 asks for."""

from __future__ import annotations

from collections import deque

import hpack

from common.errors import RefusedError
from common.net.http2 import frames
from common.net.http2.budget import SMALL_DATA_BYTES, SMALL_FRAME_BYTES, UNWANTED_DATA_BYTES, FrameBudget
from common.net.http2.frames import Code, Headers, Kind, ProtocolError, ResetError
from common.net.http2.handshakes import TLS_ALONE
from common.net.http2.pipe import Pipe
from common.net.http2.windows import ReceiveWindows, SendWindows

# A stream has headers and trailers.
_MOST_BLOCKS = 2
# An event loop serves its other connections after so many frames of one.
TURN_FRAMES = 256


class Reception:
    """State of a connection and of its stream, as the frames from the peer change the state.

    Args:
        pipe: the socket; the connection's end closes it.
        serves: whether this end answers streams or opens them.

    Attributes:
        ended: whether the peer has sent the whole of its side of the stream.
        budget: frames without payload that the peer may still send.
    """

    def __init__(self, pipe: Pipe, *, serves: bool) -> None:
        self.pipe = pipe
        self.ended = True
        self.budget = FrameBudget()
        self._turn = 0
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
        # Bytes of payload sent since a look for frames of the peer.
        self._unheard = 0
        # Payload and padding left of the DATA frame under way, and whether the frame is the stream's last.
        self._left = self._padding = 0
        self._last = False

    def _begin(self, stream: int) -> None:
        self._stream = self._newest = stream
        self._sending.begin_stream()
        self._receiving.begin_stream()
        self._blocks.clear()
        self._reset, self.ended = None, False

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
        self._turn += 1
        if self._turn >= TURN_FRAMES:
            self._turn = 0
            await self.pipe.pause()
        length, kind, flags, stream = frames.parse_head(await self.pipe.read(frames.HEAD_BYTES))
        # A server that does not begin HTTP/2 says why by GOAWAY alone.
        first = (Kind.SETTINGS,) if self._serves else (Kind.SETTINGS, Kind.GOAWAY)
        if not self._settled and kind not in first:
            raise ProtocolError(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if length > (frames.LARGEST_FRAME_BYTES if kind == Kind.DATA else frames.MOST_CONTROL_BYTES):
            raise ProtocolError(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == Kind.DATA:
            await self._begin_data_frame(flags, stream, length)
        else:
            self.budget.spend(1 + length // SMALL_FRAME_BYTES)
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
        if not wanted:
            self.budget.spend(1 + length // UNWANTED_DATA_BYTES)
        elif length < SMALL_DATA_BYTES:
            self.budget.spend()
        self._last = wanted and bool(flags & frames.END_STREAM)
        if not wanted:
            await self.pipe.skip(length)
        self._left = length if wanted else 0
        if not self._left:
            await self._end_data_frame()

    async def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream and kind in (Kind.SETTINGS, Kind.PING, Kind.GOAWAY):
            raise ProtocolError(Code.PROTOCOL_ERROR, f"{Kind(kind).name} of a stream")
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
            if not self._serves and frames.goaway_code(payload) == Code.INADEQUATE_SECURITY:
                raise RefusedError(f"the peer {TLS_ALONE}")
        elif kind in (Kind.PUSH_PROMISE, Kind.CONTINUATION):
            raise ProtocolError(Code.PROTOCOL_ERROR, f"{Kind(kind).name} out of place")

    async def _receive_headers(self, flags: int, stream: int, payload: bytes) -> None:
        last, block = bool(flags & frames.END_STREAM), frames.unpadded(flags, payload)
        while not flags & frames.END_HEADERS:
            length, kind, flags, continued = frames.parse_head(await self.pipe.read(frames.HEAD_BYTES))
            if kind != Kind.CONTINUATION or continued != stream:
                raise ProtocolError(Code.PROTOCOL_ERROR, "headers that are not continued")
            self.budget.spend()
            if len(block) + length > frames.MOST_CONTROL_BYTES:
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
