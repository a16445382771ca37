"""Slave's side of served synthesis, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from common.credentials import Credentials
from common.errors import LayerwiseError, UnreachableError
from common.net.backoff import Backoff
from common.net.control import async_stream, error_of
from common.net.tasks import run_until_one_ends
from common.wire.messages import SynthesisKind, SynthesisMessage
from common.wire.methods import SYNTHESIZE


class Asking:
    """Questions and lessons of a lease over one stream, with a single question open.

    A question is repeated on the next stream until the answer comes. A lesson on a broken stream may be lost:
    M learns from the next lesson, as after the death of a master.

    Args:
        channel: to the master.
        shown: credentials of the lease.
        on_answer: takes the answers.
        backoff: for a master that is away.
    """

    def __init__(
        self,
        channel: Any,
        shown: Credentials,
        on_answer: Callable[[SynthesisMessage], None],
        backoff: Backoff,
    ) -> None:
        self._channel = channel
        self._shown = shown
        self._on_answer = on_answer
        self._backoff = backoff
        self._question: SynthesisMessage | None = None
        self._outgoing: asyncio.Queue[SynthesisMessage] = asyncio.Queue()

    def send(self, message: SynthesisMessage) -> None:
        """Hand over a question or a lesson; on the event loop's thread."""
        if message.kind is not SynthesisKind.LEARN:
            self._question = message
        self._outgoing.put_nowait(message)

    async def run(self) -> None:
        """Keep the stream open until cancelled.

        Raises:
            LayerwiseError: the master refused a message, or has been away for too long.
        """
        while True:
            error: LayerwiseError = UnreachableError("the master closed the stream of its synthesizer")
            try:
                await self._stream()
            except grpc.RpcError as failure:
                error = error_of(failure, SYNTHESIZE)
            await asyncio.sleep(self._backoff.delay_after(error))

    async def _stream(self) -> None:
        # An open question is last in the queue: an empty queue means that the broken stream took it.
        if self._question and self._outgoing.empty():
            self._outgoing.put_nowait(self._question)
        call = async_stream(self._channel, SYNTHESIZE, self._shown)
        try:
            await run_until_one_ends(self._receive(call), self._transmit(call))
        finally:
            call.cancel()

    async def _receive(self, call: Any) -> None:
        while isinstance(answer := await call.read(), SynthesisMessage):
            self._backoff.reset()
            self._question = None
            self._on_answer(answer)

    async def _transmit(self, call: Any) -> None:
        try:
            while True:
                await call.write(await self._outgoing.get())
        except asyncio.InvalidStateError:
            # The call is over: the reader gets the status.
            await asyncio.get_running_loop().create_future()
