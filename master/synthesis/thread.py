"""The thread on which the master runs M for its slaves: the event loop, and heartbeats with it, go on."""

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
    """Served synthesis of one run. Loads torch."""

    def __init__(self, config: Config, store: Store) -> None:
        from master.synthesis.served import Synthesis

        self._make: Callable[[], Synthesis] = lambda: Synthesis(config, store)
        self._synthesis = self._make()
        self._thread = ThreadPoolExecutor(1, "synthesis")

    async def answer(self, k: int, message: SynthesisMessage) -> SynthesisMessage | None:
        """Take what a slave of layer k says, after what came before it.

        Raises:
            LayerwiseError: it cannot be taken.
        """
        synthesis = self._synthesis
        return await asyncio.get_running_loop().run_in_executor(self._thread, synthesis.answer, k, message)

    def restart(self) -> None:
        """Every lease has ended and the shards are about to be put back: each M begins from its shard."""
        self._synthesis.end()
        self._synthesis = self._make()

    async def settle(self) -> None:
        """Bring all that was learned into the shards; what is wrong is told, and no more."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._synthesis.settle)
        except LayerwiseError as error:
            log.error("%s", error)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
