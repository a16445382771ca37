"""Thread for served synthesis: M and I compute while the event loop answers heartbeats."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from common.config.sections import Config
from common.errors import LayerwiseError
from common.wire.messages import SynthesisMessage
from master.store.store import Store

log = logging.getLogger("layerwise.master")


class SynthesisThread:
    """Served synthesis of a run, on a thread. Loads torch."""

    def __init__(self, config: Config, store: Store) -> None:
        from master.synthesis.served import Synthesis

        self._make: Callable[[], Synthesis] = lambda: Synthesis(config, store)
        self._synthesis = self._make()
        self._thread = ThreadPoolExecutor(1, "synthesis")

    async def answer(self, k: int, message: SynthesisMessage) -> SynthesisMessage | None:
        """Process a message from a slave of layer k, after all earlier messages; answer a question.

        Raises:
            LayerwiseError: the message is refused.
        """
        synthesis = self._synthesis
        return await asyncio.get_running_loop().run_in_executor(self._thread, synthesis.answer, k, message)

    def restart(self) -> None:
        """Discard the synthesizers before a rollback; new synthesizers begin from the shards."""
        self._synthesis.end()
        self._synthesis = self._make()

    async def settle(self) -> None:
        """Push the synthesizers' latest steps; log a failure instead of raising."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._synthesis.settle)
        except LayerwiseError as error:
            log.error("%s", error)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
