"""State machine of either end of a connection of HTTP/2, one stream at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from common.net.http2 import frames
from common.net.http2.budget import EARNED_FRAMES
from common.net.http2.frames import BrokenError, Code, Headers, Kind, ProtocolError
from common.net.http2.loop_pipe import LoopPipe
from common.net.http2.pipe import cut
from common.net.http2.reception import Reception
from common.shards.pushes import Buffer

# A thread looks for frames that have arrived after so many bytes of sent payload: a look is a system call.
_UNHEARD_BYTES = 64 << 10
# Bytes of sent payload that let the peer send a further frame without payload: news of windows.
_EARNING_BYTES = 1 << 10


class End(Reception):
    """Either end of a connection.

    On an event loop one task must read while another one sends. Over a thread's pipe nothing suspends (see
    `Connection`), and a sender reads frames that have arrived now and then.

    Raises (every method):
        BrokenError: the connection is gone; ProtocolError where the peer broke a rule.
        StalledError: the peer stood still.
    """

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
        self.budget.earn()
        return True

    # --- sending

    async def send_headers(self, headers: Headers, *, last: bool = False) -> None:
        """Send a block of headers; the last block ends the stream, whatever the peer still has to send."""
        flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
        block = self._encoder.encode(headers, huffman=False)
        reset = frames.reset(self._stream, Code.NO_ERROR) if last and not self.ended else b""
        await self.pipe.write(frames.frame(Kind.HEADERS, flags, self._stream, block) + reset)

    async def send(
        self, *parts: Buffer, last: bool = False, let_go: Callable[[], None] | None = None
    ) -> None:
        """Send data from the memory that holds the parts, in as few frames as the peer takes.

        Args:
            parts: the data.
            last: whether the data end the stream.
            let_go: called as soon as the peer must be waited for, on a thread alone; the rest of the data has
                been copied by then, and the memory of the parts is free.

        Raises:
            ResetError: the peer gave the stream up.
        """
        views = [memoryview(part).cast("B") for part in parts]
        left = sum(view.nbytes for view in views)
        while True:
            if let_go is not None and self._sending.room <= 0:
                views, let_go = [_copy(views)], let_go()
            count = min(left, await self._room(read=let_go is None)) if left else 0
            flags = frames.END_STREAM if last and count == left else 0
            taken, views = (views, []) if count == left else cut(views, count)
            frame = [memoryview(frames.frame_head(Kind.DATA, flags, self._stream, count)), *taken]
            if let_go is not None and (frame := self.pipe.offer(frame)):
                frame, views = [_copy(frame)], [_copy(views)]
                let_go = let_go()
            if frame:
                await self.pipe.write(*frame)
            self._sending.spend(count)
            self._unheard += count
            self.budget.earn(EARNED_FRAMES + count // _EARNING_BYTES)
            left -= count
            if not left:
                return

    async def take_news(self) -> None:
        """Handle the frames that have arrived, on a thread: later data then wait for none of them."""
        while not self._left and self.pipe.readable():
            await self._step()

    async def _room(self, *, read: bool = True) -> int:
        """Return the bytes that may be sent at once; waits until the peer takes at least one.

        Args:
            read: whether frames that have arrived are handled before, although there is room.
        """
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
            if room > 0 and (not read or self._left or not self._has_news()):
                return room
            await self._step()

    def _has_news(self) -> bool:
        if self._unheard < _UNHEARD_BYTES:
            return False
        if not self.pipe.readable():
            self._unheard = 0
            return False
        return True


def _copy(views: Iterable[memoryview]) -> memoryview:
    return memoryview(b"".join(views))
