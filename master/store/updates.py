"""How a push changes a shard: the arithmetic alone, piece by piece.

Of an update the change of the parameters is added; on an accrued gradient the master's optimizer takes a
step. Either way each float buffer moves by (value - own) / R towards the replica's value, and the changes of
integer buffers are added (of truth values: those that changed are flipped).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import MalformedError
from common.shards.pushes import Buffer
from common.shards.table import Table
from master.store.optimizers import Bytes, Floats, ServerOptimizer, moments_of
from master.store.staleness import compensated

# Writes what a pushed piece makes of the parameters at these bytes into the idle buffer.
Change = Callable[[slice, Floats], None]

# A piece and its two counterparts in the shard's buffers stay in a core's cache together.
PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes [start, stop) of a shard that hold numbers of one dtype, treated alike."""

    start: int
    stop: int
    dtype: np.dtype[np.generic]
    parameters: bool


def regions(table: Table) -> tuple[Region, ...]:
    """A table's runs of tensors of one dtype and kind."""
    found: list[Region] = []
    for spec in table.tensors:
        stop = spec.offset + spec.nbytes
        dtype, parameters = np.dtype(spec.dtype), spec.kind == "parameter"
        last = found[-1] if found else None
        if last and (last.dtype, last.parameters) == (dtype, parameters) and last.stop == spec.offset:
            found[-1] = Region(last.start, stop, dtype, parameters)
        elif stop > spec.offset:
            found.append(Region(spec.offset, stop, dtype, parameters))
    return tuple(found)


def gaps(shard: Iterable[Region]) -> tuple[slice, ...]:
    """The bytes between regions, which hold zeros."""
    pairs = itertools.pairwise(shard)
    return tuple(slice(left.stop, right.start) for left, right in pairs if left.stop < right.start)


def check_finite(region: Region, numbers: npt.NDArray[np.generic]) -> None:
    """Refuse what a push would make of a shard where it is no longer finite.

    Raises:
        MalformedError: a NaN or an infinity.
    """
    if region.dtype.kind == "f":
        _check_finite(numbers)


def _check_finite(numbers: npt.NDArray[np.generic]) -> None:
    if not np.isfinite(numbers).all():
        raise MalformedError("the push would store NaN or Inf; nothing was changed")


def added(active: Bytes, idle: Bytes, weight: float = 1.0) -> Change:
    """Of an update: own + weight * change."""

    def add(where: slice, change: Floats) -> None:
        weighted = change if weight == 1.0 else change * np.float32(weight)
        np.add(active[where].view(np.float32), weighted, out=idle[where].view(np.float32))

    return add


@dataclass(frozen=True, slots=True)
class Delay:
    """What compensating a gradient's delay needs: the parameters at the fetch, (4 P,) bytes, and lambda."""

    fetched: Bytes
    strength: float


def stepped(
    optimizer: ServerOptimizer,
    table: Table,
    active: Bytes,
    idle: Bytes,
    steps: int,
    weight: float = 1.0,
    delay: Delay | None = None,
) -> Change:
    """Of an accrued gradient: a step of the master's optimizer, its moments in the same buffers.

    Args:
        optimizer: the master's.
        table: the shard's.
        active: parameters and moments before, only read.
        idle: parameters and moments after.
        steps: how many steps went before.
        weight: what the learning rate is multiplied by.
        delay: how the gradient is compensated; None: not at all.
    """

    def step(where: slice, pushed: Floats) -> None:
        own, result = active[where].view(np.float32), idle[where].view(np.float32)
        before, after = (moments_of(table, each, optimizer.moments, where) for each in (active, idle))
        # What was pushed may lie in the result's place; and torch takes no memory that is read only.
        if delay is None:
            gradient = pushed.copy()
        else:
            gradient = compensated(pushed, own, delay.fetched[where].view(np.float32), delay.strength)
        for source, target in zip([own, *before], [result, *after], strict=True):
            np.copyto(target, source)
        optimizer.apply(result, gradient, after, steps, weight)
        for moment in after:
            _check_finite(moment)

    return step


def apply_update(
    shard: Iterable[Region],
    active: Bytes,
    idle: Bytes,
    pushed: Iterable[tuple[int, Buffer]],
    replicas: int,
    change: Change | None = None,
) -> None:
    """Write what a push makes of active into idle.

    Args:
        shard: the regions of the shard's table.
        active: the shard's present buffer, only read.
        idle: the buffer to write.
        pushed: the push's buffer in pieces, each with its offset in bytes; they may lie in idle.
        replicas: R, by which a float buffer's move is divided.
        change: what it makes of the parameters; by default it is added.

    Raises:
        MalformedError: the result is not finite; idle is spoiled, active untouched.
    """
    change = change or added(active, idle)
    for region, start, stop, piece in _pieces(tuple(shard), pushed):
        numbers = np.frombuffer(piece, region.dtype)
        own, result = active[start:stop].view(region.dtype), idle[start:stop].view(region.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if region.parameters:
                change(slice(start, stop), numbers)
            elif region.dtype.kind == "b":
                np.logical_xor(own, numbers, out=result)
            elif region.dtype.kind != "f":
                np.add(own, numbers, out=result)
            else:
                np.copyto(result, own + (numbers - own) / replicas if replicas > 1 else numbers)
        check_finite(region, result)


def _pieces(
    shard: tuple[Region, ...], pushed: Iterable[tuple[int, Buffer]]
) -> Iterator[tuple[Region, int, int, memoryview]]:
    """Each pushed piece cut at the regions' edges and to the cache's size: (region, start, stop, bytes)."""
    for offset, data in pushed:
        view = memoryview(data)
        for region in shard:
            start, end = max(region.start, offset), min(region.stop, offset + view.nbytes)
            while start < end:
                stop = min(start + PIECE_BYTES, end)
                yield region, start, stop, view[start - offset : stop - offset]
                start = stop
