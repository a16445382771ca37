"""Working copy of a shard: the part that the master has, and the part still to be pushed. No I/O, no clock.

A single push is out at a time, unchanged until the answer; later steps go into the next push. With one
replica and updates the master then holds the exact state of the slave at the push. With several replicas, or
an optimizer in the master, the slave fetches, and keeps updates under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.errors import MalformedError
from common.shards.narrow import decode_parameters, encode
from common.shards.pushes import Buffer, Header, Operation, PushReply
from common.shards.states import Accrued, State
from common.shards.table import Precision, Table

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Numbers worked on at once: three pieces stay in a core's own cache.
PIECE = 1 << 16


@dataclass(frozen=True, eq=False)
class Push:
    """Header and buffer of a push."""

    header: Header
    buffer: Bytes
    # Change of the parameters in this slave, (P,) float32: missing in a version without the push.
    local: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    # Rounding that the buffer lacks, (P,) float32, of a narrow push.
    residual: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


class WorkingCopy:
    """Copy of a shard in a slave.

    Args:
        name: of the shard.
        flat: state behind the shard.
        n_push: steps between two pushes; `push_every` changes them.
        incarnation: of this slave's lease.
        n_fetch: steps between two fetches; 0 where only this slave changes the shard.
        accrued: gradients of the local steps since the last push; None: the shard takes updates.
        replica: of this slave.
        outer: the master takes changes as outer gradients. A fetch then follows the answer to a push, so that
            the version has the push's effect in the place of the change.
        precision: of the parameters in a push. The rounding of a push goes into the next (error feedback),
            and is dropped with a refused push or the lease.
        fragments: number of fragments that are pushed and fetched by turns, each every `n_push` and `n_fetch`
            steps; 0: whole pushes.
        blend: alpha, the share of the own weights that a fetch leaves. Pushes have own changes alone.
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
        *,
        outer: bool = False,
        precision: Precision = Precision.FLOAT32,
        fragments: int = 0,
        blend: float = 0.0,
    ) -> None:
        self.name = name
        self.unanswered: Push | None = None
        self.fetching = False
        self._flat = flat
        # Layout of a push, and of the known state: without the shard's frozen tensors.
        self._table = flat.table.pushed
        self.n_push = n_push
        self._n_fetch = self._fewest_n_fetch = n_fetch
        self._accrued = accrued
        self._outer = outer
        self._precision = precision
        # Rounding of the accrued gradients in the last answered push; that of changes is part of own - known.
        self._residual: Floats | None = None
        # Whether the effect of an answered push is still to be fetched.
        self._owes_fetch = False
        operation = Operation.UPDATE if accrued is None else Operation.ACCRUED_GRADIENT
        self._header = Header(
            name, operation, incarnation=incarnation, table=flat.table, replica=replica, precision=precision
        )
        self._fragments = fragments
        self._blend = blend
        count = max(fragments, 1)
        # The next fragments, and by fragment: steps and next batch at the last push.
        self._push_turn = self._fetch_turn = 0
        self._pushed_at, self._batches = [0] * count, [0] * count
        # State that own changes are counted from: the master's, without the pushes of further slaves and,
        # with a blend, with the share left of the own; from `begin` on.
        self._known: Bytes = np.zeros(0, np.uint8)
        # Pushes that may be missing in the next fetched version.
        self._recent: list[Push] = []
        self._pushed_steps = 0
        self._fetched_steps = 0

    def initial(self) -> Push:
        """Return the push that creates the shard."""
        header = replace(self._header, operation=Operation.CREATE, precision=Precision.FLOAT32)
        self._flat.gather()
        return Push(header, self._flat.buffer.cpu().numpy().copy())

    def create(self) -> Push:
        """Start from the own state; returns the push that creates the shard, which is out until answered."""
        created = self.initial()
        self.begin(created.header, created.buffer.data)
        self.unanswered = created
        return created

    def begin(self, header: Header, buffer: Buffer) -> None:
        """Start from the master's version, at the first fetch of a lease.

        Raises:
            MalformedError: the version is of a different network.
        """
        self._check(header)
        self._flat.load(buffer)
        self._keep(buffer)
        self._fetched(header)

    def _keep(self, buffer: Buffer) -> None:
        self._known = self._copy_moving(buffer)

    def _copy_moving(self, buffer: Buffer) -> Bytes:
        """Copy a version's bytes up to the frozen tensors, which every version has alike."""
        return np.frombuffer(buffer, np.uint8)[: self._table.nbytes].copy()

    @property
    def nbytes(self) -> int:
        """Size of the shard in bytes."""
        return self._flat.table.nbytes

    @property
    def parts(self) -> int:
        """Number of pushes in `n_push` steps: one for each fragment."""
        return len(self._pushed_at)

    @property
    def wanted(self) -> tuple[int, int]:
        """Number of the fragment that the fetch under way is for, and the count; (0, 0): the whole."""
        return self._fetch_turn, self._fragments

    def _interval(self, steps: int) -> int:
        """Return the steps from a fragment's turn to the next fragment's."""
        return -(-steps // self.parts)

    def push_every(self, steps: int) -> None:
        """Push every so many steps from now on, and fetch no more often: a fetch weighs as much as a push."""
        self.n_push = steps
        self._n_fetch = max(self._fewest_n_fetch, steps) if self._fewest_n_fetch else 0

    def fetch_due(self, steps: int) -> bool:
        """Whether to start a fetch: `n_fetch` steps of the module after the last."""
        interval = self._interval(self._n_fetch)
        if not self._n_fetch or self.fetching or steps - self._fetched_steps < interval:
            return False
        if self._outer and self.unanswered is not None:
            return False
        self._fetched_steps = steps
        self.fetching, self._owes_fetch = True, False
        return True

    def fetch_failed(self) -> None:
        """Note a failed fetch; the next, of the same fragment, is due after `n_fetch` steps."""
        self.fetching = False

    def fetched(self, header: Header, buffer: Buffer) -> None:
        """Go over to the master's version, and add exactly the missing updates of this slave.

        A deliberate change: the paper overwrites updates under way (Dean et al. 2012, algorithm 7.1).

        The version may come without the frozen tensors.

        Raises:
            MalformedError: the version is of a different network.
        """
        self._check(header)
        self.fetching = False
        lacking = [push for push in self._recent if push.header.sequence > header.sequence]
        self._recent = [push for push in lacking if push is self.unanswered]
        table, start = header.layout
        state, theirs = self._state(), np.frombuffer(buffer, np.uint8)[: table.nbytes].copy()
        own, known = (self._parameters(a, header) for a in (state, self._known))
        there = theirs[: table.parameters_nbytes].view(np.float32)
        unsent = own - known
        for push in lacking:
            if push.header.fragment == header.fragment:
                there += push.local
        if self._blend:
            there += np.float32(self._blend) * (known - there)
        self._rebase_buffers(state, theirs, table)
        np.add(there, unsent, out=own)
        self._known[start : start + table.nbytes] = theirs
        if self._fragments:
            self._fetch_turn = (header.fragment + 1) % self._fragments
        self._store(state)
        self._fetched(header)

    def due(self, steps: int, next_batch: int) -> Push | None:
        """Return a push `n_push` steps of the module after the last, unless one is out, or a fetch is due."""
        if steps - self._pushed_steps < self._interval(self.n_push):
            return None
        if self._owes_fetch and steps - self._fetched_steps >= self._interval(self._n_fetch):
            return None
        return self.flush(steps, next_batch)

    def flush(self, steps: int, next_batch: int) -> Push | None:
        """Return a push of the changes since the last; None without changes, or while a push is out.

        A push is of the next fragment with changes. Its next batch is that of the fragment that lags most.
        """
        if self.unanswered is not None:
            return None
        for _ in range(self.parts):
            turn = self._push_turn
            self._push_turn = (turn + 1) % self.parts
            self._header = replace(self._header, fragment=turn, fragments=self._fragments)
            if steps != self._pushed_at[turn] or not self._unchanged():
                break
        else:
            return None
        self._pushed_steps = self._pushed_at[turn] = steps
        self._batches[turn] = next_batch
        through = min(self._batches)
        self._header = replace(self._header, sequence=self._header.sequence + 1, next_batch=through)
        self.unanswered = self._build_push()
        if self._n_fetch:
            self._recent.append(self.unanswered)
        return self.unanswered

    def answered(self, reply: PushReply) -> None:
        """Note the answer to the push; a refused push was too stale, and the next fetch drops its change."""
        push = self.unanswered
        if push is None or push.header.sequence != reply.sequence:
            return
        self.unanswered = None
        if push.header.operation is Operation.CREATE:
            return
        self._settle(push, refused=reply.refused)
        self._owes_fetch = self._outer
        if reply.refused or not self.fetching:
            self._recent = [recent for recent in self._recent if recent is not push]
        if reply.refused:
            # At once: pushes from stale weights would be refused as well.
            self._fetched_steps = -self._n_fetch

    def _settle(self, push: Push, *, refused: bool) -> None:
        """Take a push's rounding over into the next push, or drop the rounding of a refused push."""
        if self._precision is Precision.FLOAT32:
            return
        if self._accrued is not None:
            self._residual = None if refused else push.residual
        elif refused:
            known = self._parameters(self._known, push.header)
            known += push.residual

    def _unchanged(self) -> bool:
        """Compare the state: without a step, the forward of a lost batch may have moved BN's statistics."""
        table, start = self._header.layout
        stop = start + table.nbytes
        # Parameters differ from the known ones by the rounding of narrow pushes.
        start += 0 if self._precision is Precision.FLOAT32 else table.parameters_nbytes
        return np.array_equal(self._state()[start:stop], self._known[start:stop])

    def _parameters(self, state: Bytes, header: Header) -> Floats:
        """Return the parameters in a state that a push or version is about."""
        table, start = header.layout
        return state[start : start + table.parameters_nbytes].view(np.float32)

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

    def _build_push(self) -> Push:
        """Make a push of the changes since the last; `_known` becomes the master's state after the push."""
        table, _ = self._header.layout
        state, sent = self._state(), np.empty(table.nbytes, np.uint8)
        stop = table.parameters_nbytes
        # Gaps between buffers hold zeros.
        sent[stop:] = 0
        own, known = (self._parameters(a, self._header) for a in (state, self._known))
        pushed = sent[:stop].view(np.float32)
        if self._accrued is not None:
            change = own - known
            np.copyto(known, own)
            np.copyto(pushed, self._accrued.take())
        elif self._precision is Precision.FLOAT32:
            _adopt_change(own, known, pushed)
            change = pushed
        else:
            np.subtract(own, known, out=pushed)
            change = pushed
        self._push_buffers(state, sent, table)
        self._store(state)
        if self._precision is Precision.FLOAT32:
            return Push(self._header, sent, change)
        return self._round(sent, change, table)

    def _round(self, sent: Bytes, change: Floats, table: Table) -> Push:
        """Make a narrow push of a wide buffer, and keep what the rounding leaves out."""
        known = self._parameters(self._known, self._header)
        pushed = sent[: table.parameters_nbytes].view(np.float32)
        if self._residual is not None:
            pushed += self._residual
        narrow = encode(table, sent, self._precision)
        rounded = decode_parameters(table, narrow, self._precision)
        if self._accrued is None:
            # The arithmetic is the master's.
            known += rounded
            change = rounded
        return Push(self._header, narrow, change, pushed - rounded)

    def _push_buffers(self, state: Bytes, sent: Bytes, table: Table) -> None:
        """Write the change of integer buffers and the value of float buffers, where the push has buffers."""
        for spec, own, known, pushed in self._buffers(state, self._known, (table, sent)):
            integer = np.dtype(spec.dtype).kind in "iub"
            pushed[...] = _difference(own, known) if integer else own
            known[...] = own

    def _rebase_buffers(self, state: Bytes, theirs: Bytes, table: Table) -> None:
        """Take the master's buffers, plus this slave's change since the last push, where they have come."""
        for spec, own, known, there in self._buffers(state, self._known, (table, theirs)):
            moved = _difference(own, known)
            own[...] = there ^ moved if spec.dtype == "bool" else there + moved

    def _buffers(self, own: Bytes, known: Bytes, other: tuple[Table, Bytes]) -> Iterator[tuple[Any, ...]]:
        """Yield every buffer's spec, and its values in two states and in a push or version with buffers."""
        ours = [spec for spec in self._table.tensors if spec.kind == "buffer"]
        theirs = [spec.name for spec in other[0].tensors if spec.kind == "buffer"]
        if theirs:
            states = [self._table.arrays(each.data) for each in (own, known)]
            arrays = other[0].arrays(other[1].data)
            for spec, name in zip(ours, theirs, strict=True):
                yield spec, *(state[spec.name] for state in states), arrays[name]

    def _state(self) -> Bytes:
        """Return the bytes that a push is about: the memory of the module on a CPU, else a copy."""
        self._flat.gather()
        state: Bytes = self._flat.buffer[: self._table.nbytes].cpu().numpy()
        return state

    def _store(self, state: Bytes) -> None:
        """Write a changed state back to the device, unless a CPU."""
        if self._flat.buffer.device.type != "cpu":
            self._flat.buffer[: state.nbytes].copy_(torch.from_numpy(state))


def _adopt_change(own: Floats, known: Floats, change: Floats) -> None:
    """Write the change of the parameters, and adopt the master's state after the push.

    The arithmetic is the master's, so the result agrees to the bit.
    """
    for start in range(0, own.size, PIECE):
        piece = slice(start, start + PIECE)
        np.subtract(own[piece], known[piece], out=change[piece])
        np.add(known[piece], change[piece], out=known[piece])
        np.copyto(own[piece], known[piece])


def _difference(new: npt.NDArray[np.generic], old: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return the change; for truth values the exclusive or, which the master applies again."""
    result: npt.NDArray[np.generic] = new ^ old if new.dtype.kind == "b" else new - old  # type: ignore[operator]
    return result
