"""How a push changes a shard: the arithmetic alone, piece by piece.

An update (design, section 5) adds the change of the parameters, moves each float buffer by
(value - own) / R towards the replica's value, and adds the changes of integer buffers (of truth values: flips
those that changed).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import MalformedError
from common.messages import Buffer
from common.table import Table

Bytes = npt.NDArray[np.uint8]

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


def check_finite(region: Region, numbers: npt.NDArray[np.generic]) -> None:
    """Refuse what a push would make of a shard where it is no longer finite.

    Raises:
        MalformedError: a NaN or an infinity.
    """
    if region.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise MalformedError("the push would store NaN or Inf; nothing was changed")


def apply_update(
    shard: Iterable[Region], active: Bytes, idle: Bytes, pushed: Iterable[tuple[int, Buffer]], replicas: int
) -> None:
    """Write active + update into idle.

    Args:
        shard: the regions of the shard's table.
        active: the shard's present buffer, only read.
        idle: the buffer to write.
        pushed: the update's buffer in pieces, each with its offset in bytes.
        replicas: R, by which a float buffer's move is divided.

    Raises:
        MalformedError: the result is not finite; idle is spoiled, active untouched.
    """
    for region, start, stop, piece in _pieces(tuple(shard), pushed):
        change = np.frombuffer(piece, region.dtype)
        own, result = active[start:stop].view(region.dtype), idle[start:stop].view(region.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if region.dtype.kind == "b":
                np.logical_xor(own, change, out=result)
            elif region.parameters or region.dtype.kind != "f":
                np.add(own, change, out=result)
            else:
                np.copyto(result, own + (change - own) / replicas if replicas > 1 else change)
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
