"""The local copy of a shard: what of it the master has, and what is still to be pushed. No I/O, no clock.

One push is out at a time and does not change until it is answered; what is learned meanwhile goes into the
next. With one replica the master then holds exactly what the slave held at the push.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from common.errors import MalformedError
from common.flat import Flat
from common.messages import Buffer, Header, Operation, PushReply
from common.table import Table

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Push:
    """A header and the buffer that goes with it."""

    header: Header
    buffer: Bytes


class Replica:
    """One shard's copy in this slave.

    Args:
        name: the shard.
        flat: the module's state.
        n_push: steps between two pushes.
        incarnation: of this slave's lease.
    """

    def __init__(self, name: str, flat: Flat, n_push: int, incarnation: int) -> None:
        self.name = name
        self.unanswered: Push | None = None
        self._flat = flat
        self._n_push = n_push
        self._header = Header(name, Operation.UPDATE, incarnation=incarnation, table=flat.table)
        self._known: Bytes = np.zeros(flat.table.nbytes, np.uint8)
        self._pushed_steps = 0

    def initial(self) -> Push:
        """The shard's first contents, for a master that has none."""
        header = replace(self._header, operation=Operation.CREATE)
        return Push(header, self._state().copy())

    def fetched(self, header: Header, buffer: Buffer) -> None:
        """Take the master's version for our own: the first fetch of a lease.

        Raises:
            MalformedError: it is of another network.
        """
        if header.table != self._flat.table:
            raise MalformedError(
                f"{self.name}: the master's tensors are not those of the network built here; has this slave "
                "the same code as the one that began the run?"
            )
        self._flat.load(buffer)
        self._known = np.frombuffer(buffer, np.uint8).copy()
        self._header = replace(self._header, version=header.version, sequence=header.sequence)

    def due(self, steps: int, next_batch: int) -> Push | None:
        """A push, if `n_push` of the module's steps have gone by since the last, and none is out."""
        return self.flush(steps, next_batch) if steps - self._pushed_steps >= self._n_push else None

    def flush(self, steps: int, next_batch: int) -> Push | None:
        """A push of whatever has been learned since the last; None if nothing was, or one is still out."""
        if self.unanswered is not None or steps == self._pushed_steps:
            return None
        self._pushed_steps = steps
        self._header = replace(self._header, sequence=self._header.sequence + 1, next_batch=next_batch)
        self.unanswered = Push(self._header, self._update())
        return self.unanswered

    def answered(self, reply: PushReply) -> None:
        """The master has it."""
        if self.unanswered is not None and self.unanswered.header.sequence == reply.sequence:
            self.unanswered = None

    def _update(self) -> Bytes:
        """The change of parameters and integer buffers, the value of float buffers, since the last push."""
        state, change = self._state(), np.zeros_like(self._known)
        table: Table = self._flat.table
        stop = table.parameters_nbytes
        own, known, sent = (a[:stop].view(np.float32) for a in (state, self._known, change))
        np.subtract(own, known, out=sent)
        # The master adds in the same arithmetic: what it will hold is known to the bit, and adopted here.
        np.add(known, sent, out=known)
        np.copyto(own, known)
        olds, news, outs = (table.arrays(each.data) for each in (self._known, state, change))
        for spec in table.tensors:
            if spec.kind == "buffer":
                old, new = olds[spec.name], news[spec.name]
                outs[spec.name][...] = _difference(new, old) if new.dtype.kind in "iub" else new
                old[...] = new
        if self._flat.buffer.device.type != "cpu":
            self._flat.load(self._known)
        return change

    def _state(self) -> Bytes:
        """The module's state as bytes: its own memory on a CPU, a copy from another device."""
        self._flat.gather()
        state: Bytes = self._flat.buffer.cpu().numpy()
        return state


def _difference(new: npt.NDArray[np.generic], old: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The change; of truth values, where they differ, which the master adds as exclusive or."""
    result: npt.NDArray[np.generic] = new ^ old if new.dtype.kind == "b" else new - old  # type: ignore[operator]
    return result
