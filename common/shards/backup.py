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

    _creates = False

    def begin_anew(self) -> None:
        """Start without a version of the master's: the first push will create the shard.

        A new slave would begin at the same numbers, so that they need not cross the link.
        """
        # Memory that is used for the first time would hold up a step.
        self._state()
        self._creates = True

    def flush(self, steps: int, next_batch: int) -> Push | None:
        """Return a push of the state, which creates the shard if nobody has; None while a push is out."""
        if not self._creates or self.unanswered is not None or steps == self._pushed_at[0]:
            return super().flush(steps, next_batch)
        self._creates = False
        self._pushed_steps = self._pushed_at[0] = steps
        self.unanswered = Push(replace(self._header, operation=Operation.CREATE), self._state())
        return self.unanswered

    def _keep(self, buffer: Buffer) -> None:
        """Keep no copy: no state is compared."""

    def _build_push(self) -> Push:
        return Push(self._header, self._state())

    def _unchanged(self) -> bool:
        return True
