"""Arithmetic of a push on a shard, piece by piece.

An update's change of the parameters is added; with an accrued gradient the server optimizer takes a step. In
either case a float buffer moves by (value - own) / R towards the replica's value, integer buffers add their
changes, and boolean buffers flip where the replica's value has changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import MalformedError
from common.shards.narrow import decode
from common.shards.pushes import Buffer, Header
from common.shards.table import Kind, Precision, Table
from master.store.optimizers import Bytes, Floats, ServerOptimizer, moments_of
from master.store.outer import Outer
from master.store.staleness import compensate

# Computes parameters at some bytes of the idle buffer from a pushed piece.
Change = Callable[[slice, Floats], None]

# A piece and its two counterparts in the shard's buffers stay in a core's cache together.
PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes [start, stop) of a shard with numbers of a single dtype and kind; pushes end before `frozen`."""

    start: int
    stop: int
    dtype: np.dtype[np.generic]
    kind: Kind


def regions(table: Table) -> tuple[Region, ...]:
    """Group neighbouring tensors of equal dtype and kind."""
    found: list[Region] = []
    for spec in table.tensors:
        stop = spec.offset + spec.nbytes
        dtype = np.dtype(spec.dtype)
        last = found[-1] if found else None
        if last and (last.dtype, last.kind) == (dtype, spec.kind) and last.stop == spec.offset:
            found[-1] = Region(last.start, stop, dtype, spec.kind)
        elif stop > spec.offset:
            found.append(Region(spec.offset, stop, dtype, spec.kind))
    return tuple(found)


def gaps(shard: Iterable[Region]) -> tuple[slice, ...]:
    """Bytes between regions; always zeros."""
    pairs = itertools.pairwise(shard)
    return tuple(slice(left.stop, right.start) for left, right in pairs if left.stop < right.start)


def check_finite(region: Region, numbers: npt.NDArray[np.generic]) -> None:
    """Refuse NaN and infinities.

    Raises:
        MalformedError: a NaN or an infinity.
    """
    if region.dtype.kind == "f":
        check_numbers(numbers)


def check_numbers(numbers: npt.NDArray[np.generic]) -> None:
    """Refuse NaN and infinities among floats.

    Raises:
        MalformedError: a NaN or an infinity.
    """
    if not np.isfinite(numbers).all():
        raise MalformedError(
            "the push would store NaN or Inf, and nothing was changed: training has diverged; lower "
            "optimizer.learning_rate or optimizer.synthesizer.learning_rate, or scale the data"
        )


def make_addition(active: Bytes, idle: Bytes, weight: float = 1.0) -> Change:
    """Make the change of an update: own + weight * change."""

    def add(where: slice, change: Floats) -> None:
        weighted = change if weight == 1.0 else change * np.float32(weight)
        np.add(active[where].view(np.float32), weighted, out=idle[where].view(np.float32))

    return add


@dataclass(frozen=True, slots=True)
class Delay:
    """Inputs of delay compensation: parameters at the fetch, (4 P,) bytes, and lambda."""

    fetched: Bytes
    strength: float


def make_step(
    optimizer: ServerOptimizer | Outer,
    table: Table,
    active: Bytes,
    idle: Bytes,
    steps: int,
    weight: float = 1.0,
    delay: Delay | None = None,
) -> Change:
    """Make the change of a push to a server optimizer: a step, moments included.

    Args:
        optimizer: the server optimizer.
        table: of the shard.
        active: parameters and moments before, only read.
        idle: parameters and moments after.
        steps: number of earlier steps.
        weight: factor of the push, as the optimizer says.
        delay: inputs of delay compensation; None: no compensation.
    """

    def step(where: slice, pushed: Floats) -> None:
        own, result = active[where].view(np.float32), idle[where].view(np.float32)
        before, after = (moments_of(table, each, optimizer.moments, where) for each in (active, idle))
        # The pushed piece may lie in the place of the result; and torch refuses read-only memory.
        if delay is None:
            gradient = pushed.copy()
        else:
            gradient = compensate(pushed, own, delay.fetched[where].view(np.float32), delay.strength)
        for source, target in zip([own, *before], [result, *after], strict=True):
            np.copyto(target, source)
        optimizer.apply(result, gradient, after, steps, weight)
        for moment in after:
            check_numbers(moment)

    return step


def apply_update(
    shard: Iterable[Region],
    active: Bytes,
    idle: Bytes,
    pushed: Iterable[tuple[int, Buffer]],
    replicas: int,
    change: Change | None = None,
) -> None:
    """Compute the result of a push on the active buffer, into the idle buffer.

    Args:
        shard: the regions of the shard's table.
        active: the shard's present buffer, only read.
        idle: the buffer to write.
        pushed: pieces of the push's buffer with their offsets in bytes; pieces may lie in idle.
        replicas: R, the divisor of a float buffer's move.
        change: arithmetic of the parameters; addition by default.

    Raises:
        MalformedError: a piece splits a number, or the result is not finite; idle is spoiled, active
            untouched.
    """
    change = change or make_addition(active, idle)
    for region, start, stop, piece in cut_pieces(tuple(shard), pushed):
        if piece.nbytes % region.dtype.itemsize:
            raise MalformedError(f"a piece of {piece.nbytes} bytes splits a number of {region.dtype}")
        numbers = np.frombuffer(piece, region.dtype)
        own, result = active[start:stop].view(region.dtype), idle[start:stop].view(region.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if region.kind == "parameter":
                change(slice(start, stop), numbers)
            elif region.dtype.kind == "b":
                np.logical_xor(own, numbers, out=result)
            elif region.dtype.kind != "f":
                np.add(own, numbers, out=result)
            else:
                np.copyto(result, own + (numbers - own) / replicas if replicas > 1 else numbers)
        check_finite(region, result)


def widen(header: Header, pushed: Iterable[tuple[int, Buffer]]) -> Iterable[tuple[int, Buffer]]:
    """Bring the pieces of a push into the layout of the shard's buffer."""
    if header.precision is Precision.FLOAT32 and not header.fragments:
        return pushed
    table, start = header.layout
    if header.precision is not Precision.FLOAT32:
        pieces = [data for _, data in pushed]
        pushed = decode(table, pieces[0] if len(pieces) == 1 else b"".join(pieces), header.precision)
    return ((start + offset, data) for offset, data in pushed)


def cut_pieces(
    shard: tuple[Region, ...], pushed: Iterable[tuple[int, Buffer]]
) -> Iterator[tuple[Region, int, int, memoryview]]:
    """Cut pushed pieces at the regions' edges and to the size of a cache: (region, start, stop, bytes)."""
    for offset, data in pushed:
        view = memoryview(data)
        for region in shard:
            start, end = max(region.start, offset), min(region.stop, offset + view.nbytes)
            while start < end:
                stop = min(start + PIECE_BYTES, end)
                yield region, start, stop, view[start - offset : stop - offset]
                start = stop
