"""Served synthesis at the control port: slaves' questions and lessons for M and I."""

from __future__ import annotations

from collections.abc import AsyncIterator

from common.errors import MalformedError
from common.net.control import ControlServer
from common.wire.messages import SynthesisMessage
from common.wire.methods import SYNTHESIZE
from master.roster import Roster
from master.synthesis.thread import SynthesisThread
from master.tally import Tally


class SynthesisServicer:
    """Synthesizers of a run; `synthesis` is None where M and I run in the slaves."""

    def __init__(self, roster: Roster, synthesis: SynthesisThread | None, tally: Tally) -> None:
        self._roster = roster
        self._synthesis = synthesis
        self._tally = tally

    def register(self, server: ControlServer) -> None:
        """Serve the method."""
        server.add(SYNTHESIZE, self.synthesize)

    async def synthesize(self, requests: AsyncIterator[SynthesisMessage]) -> AsyncIterator[SynthesisMessage]:
        """Answer a slave's messages in order; later messages wait in the stream.

        Raises:
            MalformedError: an invalid message, or synthesis runs in the slaves.
            FencedError: the sender's lease has passed to another slave.
        """
        async for request in requests:
            self._tally.add(bytes_received=len(request.data))
            seat = self._roster.seat(request.incarnation)
            if self._synthesis is None:
                raise MalformedError('M runs in the slaves here: cluster.synthesis = "slave"')
            reply = await self._synthesis.answer(seat.layer, request)
            if reply is not None:
                self._tally.add(bytes_sent=len(reply.data))
                yield reply
