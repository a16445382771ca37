"""Working copy of a shard: the part that the master has, and the part still to be pushed. No I/O, no clock.

One push is out at a time and does not change until it is answered; what is learned meanwhile goes into the
next. With one replica and updates the master then holds exactly what the slave held at the push. With others
at work on the shard, or an optimizer in the master, the slave fetches, and keeps its own that is under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from common.errors import MalformedError
from common.shards.pushes import Buffer, Header, Operation, PushReply
from common.shards.table import Raw, Table

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Numbers that are worked on at once: three such pieces stay in a core's own cache.
PIECE = 1 << 16


@dataclass(frozen=True, eq=False)
class Push:
    """A header and the buffer that goes with it."""

    header: Header
    buffer: Bytes
    # What it changed of the parameters here, (P,) float32: what a version without it lacks.
    local: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


class Accrued(Protocol):
    """The sum of (1/B) dL/dw over local steps."""

    def take(self) -> Floats:
        """The sum since the last time it was taken, (P,)."""


class State(Protocol):
    """What a shard is a copy of: `Flat` is that of a module, `Moments` that of its optimizers.

    Attributes:
        table: what lies where.
        buffer: uint8, (nbytes,).
    """

    table: Table
    buffer: Tensor

    def gather(self) -> None:
        """Bring the buffer up to date."""

    def load(self, data: Raw) -> None:
        """Copy a whole state over the present one."""


class WorkingCopy:
    """Copy of one shard in this slave.

    Args:
        name: the shard.
        flat: what it is a copy of.
        n_push: steps between two pushes.
        incarnation: of this slave's lease.
        n_fetch: steps between two fetches; 0 where nobody but this slave changes the shard.
        accrued: of a shard that takes gradients, what local steps were made of since the last push; None for
            one that takes updates.
        replica: which of the layer's this slave is.
    """

    def __init__(
        self,
        name: str,
        flat: State,
        n_push: int,
        incarnation: int,
        n_fetch: int = 0,
        accrued: Accrued | None = None,
        replica: int = 0,
    ) -> None:
        self.name = name
        self.unanswered: Push | None = None
        self.fetching = False
        self._flat = flat
        self._n_push = n_push
        self._n_fetch = n_fetch
        self._accrued = accrued
        operation = Operation.UPDATE if accrued is None else Operation.ACCRUED_GRADIENT
        self._header = Header(name, operation, incarnation=incarnation, table=flat.table, replica=replica)
        # What the master would hold if nobody else pushed; from `begin` on.
        self._known: Bytes = np.zeros(0, np.uint8)
        # Pushes that the version fetched next may lack.
        self._recent: list[Push] = []
        self._pushed_steps = 0
        self._fetched_steps = 0

    def initial(self) -> Push:
        """The shard's first contents, for a master that has none."""
        header = replace(self._header, operation=Operation.CREATE)
        return Push(header, self._state().copy())

    def begin(self, header: Header, buffer: Buffer) -> None:
        """Take the master's version for our own: the first fetch of a lease.

        Raises:
            MalformedError: it is of another network.
        """
        self._check(header)
        self._flat.load(buffer)
        self._keep(buffer)
        self._fetched(header)

    def _keep(self, buffer: Buffer) -> None:
        self._known = np.frombuffer(buffer, np.uint8).copy()

    def fetch_due(self, steps: int) -> bool:
        """Whether a fetch is to be started: `n_fetch` of the module's steps have gone by since the last."""
        if not self._n_fetch or self.fetching or steps - self._fetched_steps < self._n_fetch:
            return False
        self._fetched_steps = steps
        self.fetching = True
        return True

    def fetch_failed(self) -> None:
        """The master could not be asked; the next one is due after as many steps."""
        self.fetching = False

    def fetched(self, header: Header, buffer: Buffer) -> None:
        """Go over to the master's version, and add again exactly what it lacks of ours.

        The paper overwrites (Dean et al. 2012, algorithm 7.1); what is under way is kept here, on purpose.

        Raises:
            MalformedError: it is of another network.
        """
        self._check(header)
        self.fetching = False
        lacking = [push for push in self._recent if push.header.sequence > header.sequence]
        self._recent = [push for push in lacking if push is self.unanswered]
        state, theirs = self._state(), np.frombuffer(buffer, np.uint8).copy()
        stop = self._flat.table.parameters_nbytes
        own, known, there = (a[:stop].view(np.float32) for a in (state, self._known, theirs))
        unsent = own - known
        for push in lacking:
            there += push.local
        self._rebase_buffers(state, theirs)
        np.add(there, unsent, out=own)
        self._known = theirs
        self._store(state)
        self._fetched(header)

    def due(self, steps: int, next_batch: int) -> Push | None:
        """A push, if `n_push` of the module's steps have gone by since the last, and none is out."""
        return self.flush(steps, next_batch) if steps - self._pushed_steps >= self._n_push else None

    def flush(self, steps: int, next_batch: int) -> Push | None:
        """A push of whatever has changed since the last; None if nothing has, or one is still out."""
        if self.unanswered is not None:
            return None
        if steps == self._pushed_steps and self._unchanged():
            return None
        self._pushed_steps = steps
        self._header = replace(self._header, sequence=self._header.sequence + 1, next_batch=next_batch)
        self.unanswered = self._made()
        if self._n_fetch:
            self._recent.append(self.unanswered)
        return self.unanswered

    def answered(self, reply: PushReply) -> None:
        """The master has it; or, too stale, will never have it, and the next fetch does without it."""
        push = self.unanswered
        if push is None or push.header.sequence != reply.sequence:
            return
        self.unanswered = None
        if reply.refused or not self.fetching:
            self._recent = [recent for recent in self._recent if recent is not push]
        if reply.refused:
            # At once: what comes of stale weights would be refused as well.
            self._fetched_steps = -self._n_fetch

    def _unchanged(self) -> bool:
        """Without a step, too: a forward of a batch that is lost afterwards moves BN's statistics."""
        return np.array_equal(self._state(), self._known)

    def _check(self, header: Header) -> None:
        if header.table != self._flat.table:
            raise MalformedError(
                f"{self.name}: the master's tensors are not those of the network built here; has this slave "
                "the same code as the one that began the run?"
            )

    def _fetched(self, header: Header) -> None:
        sequence = max(self._header.sequence, header.sequence)
        self._header = replace(
            self._header, version=header.version, sequence=sequence, fetched_sequence=header.sequence
        )

    def _made(self) -> Push:
        """A push of what was learned since the last: `known` then is what the master will hold of it."""
        state, sent = self._state(), np.empty_like(self._known)
        stop = self._flat.table.parameters_nbytes
        # Gaps between buffers hold zeros.
        sent[stop:] = 0
        own, known, pushed = (a[:stop].view(np.float32) for a in (state, self._known, sent))
        if self._accrued is None:
            _moved(own, known, pushed)
            change = pushed
        else:
            change = own - known
            np.copyto(known, own)
            np.copyto(pushed, self._accrued.take())
        self._push_buffers(state, sent)
        self._store(state)
        return Push(self._header, sent, change)

    def _push_buffers(self, state: Bytes, sent: Bytes) -> None:
        """The change of integer buffers, the value of float ones."""
        for spec, own, known, pushed in self._buffers(state, self._known, sent):
            integer = np.dtype(spec.dtype).kind in "iub"
            pushed[...] = _difference(own, known) if integer else own
            known[...] = own

    def _rebase_buffers(self, state: Bytes, theirs: Bytes) -> None:
        """The master's buffers, and what ours have moved since the last push."""
        for spec, own, known, there in self._buffers(state, self._known, theirs):
            moved = _difference(own, known)
            own[...] = there ^ moved if spec.dtype == "bool" else there + moved

    def _buffers(self, *data: Bytes) -> Iterator[tuple[Any, ...]]:
        """Each buffer's spec, and what it is in each of some states."""
        arrays = [self._flat.table.arrays(each.data) for each in data]
        for spec in self._flat.table.tensors:
            if spec.kind == "buffer":
                yield spec, *(each[spec.name] for each in arrays)

    def _state(self) -> Bytes:
        """The module's state as bytes: its own memory on a CPU, a copy from another device."""
        self._flat.gather()
        state: Bytes = self._flat.buffer.cpu().numpy()
        return state

    def _store(self, state: Bytes) -> None:
        """Put a state that was changed back where it is a copy."""
        if self._flat.buffer.device.type != "cpu":
            self._flat.load(state.data)


class Backup(WorkingCopy):
    """The copy of a shard of float buffers that only steps change, and that is gathered anew to be read.

    It is sent from where it was gathered, which nothing changes while a push of it is out: to make and to
    keep copies of it, as of what goes on changing, would be six passes over its bytes.
    """

    def initial(self) -> Push:
        """The shard's first contents, for a master that has none."""
        return Push(replace(self._header, operation=Operation.CREATE), self._state())

    def _keep(self, buffer: Buffer) -> None:
        """Nothing is compared with it."""

    def _made(self) -> Push:
        return Push(self._header, self._state())

    def _unchanged(self) -> bool:
        return True


def _moved(own: Floats, known: Floats, change: Floats) -> None:
    """What has changed of the parameters, and what the master will hold with it, which is adopted here.

    It adds in the same arithmetic: that is known to the bit.
    """
    for start in range(0, own.size, PIECE):
        piece = slice(start, start + PIECE)
        np.subtract(own[piece], known[piece], out=change[piece])
        np.add(known[piece], change[piece], out=known[piece])
        np.copyto(own[piece], known[piece])


def _difference(new: npt.NDArray[np.generic], old: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The change; of truth values, where they differ, which the master adds as exclusive or."""
    result: npt.NDArray[np.generic] = new ^ old if new.dtype.kind == "b" else new - old  # type: ignore[operator]
    return result
