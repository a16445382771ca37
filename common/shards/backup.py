"""Working copy of a layer's optimizer state, without a copy of the known state. No I/O, no clock."""

from __future__ import annotations

from dataclasses import replace

from common.shards.pushes import Buffer, Operation
from common.shards.working_copy import Push, WorkingCopy


class Backup(WorkingCopy):
    """Working copy of float buffers that change by steps alone and are gathered anew for each push.

    A push is sent from the gathered buffer, which stays unchanged while the push is out: copies, as for a
    changing state, would take six passes over the bytes.
    """

    def initial(self) -> Push:
        """Return the push that creates the shard."""
        return Push(replace(self._header, operation=Operation.CREATE), self._state())

    def _keep(self, buffer: Buffer) -> None:
        """Keep no copy: no state is compared."""

    def _build_push(self) -> Push:
        return Push(self._header, self._state())

    def _unchanged(self) -> bool:
        return True
