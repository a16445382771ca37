"""Parameters of a push in fewer bits than float32. Needs no torch: the master widens too.

A narrow push has the parameters' values, padded to 8 bytes; with int8 the scales, padded to 8 bytes; and then
the buffers as they are. Integers must be summed exactly, and statistics are few.

- bfloat16: rounded to the nearest.
- int8: each BLOCK of numbers in the order of the shard has a float32 scale, its largest magnitude / 127, by
  which the receiver multiplies. A block with a NaN or an Inf is widened to NaN, which the master refuses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from common.shards.table import Precision, Raw, Table, align

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Numbers under one scale.
BLOCK = 256
# Numbers worked on at once: whole blocks that stay in a core's own cache.
PIECE = 256 * BLOCK
ITEMSIZES = {Precision.FLOAT32: 4, Precision.BFLOAT16: 2, Precision.INT8: 1}
_TOP_CODE = 127
# Float32's smallest normal magnitude: scales are not subnormal.
_SMALLEST = np.float32(2.0**-126)


def push_nbytes(table: Table, precision: Precision) -> int:
    """Count the bytes of a push of a shard without its frozen tensors (`Table.pushed`)."""
    if precision is Precision.FLOAT32:
        return table.nbytes
    return _head(table, precision) + table.nbytes - table.pushed_buffers


def encode(table: Table, pushed: Bytes, precision: Precision) -> Bytes:
    """Encode a push's buffer, (table.nbytes,) bytes in the table's layout; `table` has no frozen tensors."""
    narrow = np.zeros(push_nbytes(table, precision), np.uint8)
    narrow[_head(table, precision) :] = pushed[table.pushed_buffers :]
    numbers = pushed[: table.parameters_nbytes].view(np.float32)
    values, scales = _views(table, narrow, precision)
    for start in range(0, numbers.size, PIECE):
        piece = numbers[start : start + PIECE]
        if precision is Precision.BFLOAT16:
            values[start : start + PIECE] = _round_to_bfloat16(piece)
        else:
            blocks = slice(start // BLOCK, (start + PIECE) // BLOCK)
            values[start : start + PIECE], scales[blocks] = _round_to_int8(piece)
    return narrow


def decode(table: Table, narrow: Raw, precision: Precision) -> Iterator[tuple[int, memoryview]]:
    """Yield pieces of the push's buffer in the table's layout, with their offsets in bytes."""
    buffer = np.frombuffer(narrow, np.uint8)
    values, scales = _views(table, buffer, precision)
    for start in range(0, values.size, PIECE):
        yield 4 * start, _widen(values, scales, start, precision).view(np.uint8).data
    if table.pushed_buffers < table.nbytes:
        yield table.pushed_buffers, buffer[_head(table, precision) :].data


def decode_parameters(table: Table, narrow: Bytes, precision: Precision) -> Floats:
    """Decode the parameters alone, (P,): to the bit what the master decodes."""
    values, scales = _views(table, narrow, precision)
    widened = np.empty(values.size, np.float32)
    for start in range(0, values.size, PIECE):
        widened[start : start + PIECE] = _widen(values, scales, start, precision)
    return widened


def _head(table: Table, precision: Precision) -> int:
    """Return the offset of the buffers in a narrow push: behind values and scales."""
    count = table.parameters_nbytes // 4
    scales = 4 * -(-count // BLOCK) if precision is Precision.INT8 else 0
    return align(count * ITEMSIZES[precision], 8) + align(scales, 8)


def _views(
    table: Table, narrow: Bytes, precision: Precision
) -> tuple[npt.NDArray[np.int8] | npt.NDArray[np.uint16], Floats]:
    """Return views of the values, (P,), and of the scales."""
    count = table.parameters_nbytes // 4
    nbytes = count * ITEMSIZES[precision]
    if precision is Precision.BFLOAT16:
        return narrow[:nbytes].view(np.uint16), np.zeros(0, np.float32)
    start = align(nbytes, 8)
    return narrow[:nbytes].view(np.int8), narrow[start : start + 4 * -(-count // BLOCK)].view(np.float32)


def _round_to_bfloat16(numbers: Floats) -> npt.NDArray[np.uint16]:
    bits = numbers.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    # Rounding could carry a NaN into another number.
    rounded[np.isnan(numbers)] = 0x7FC0
    return rounded.astype(np.uint16)


def _round_to_int8(numbers: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return codes, (n,), and a scale for each block."""
    blocks = np.zeros((-(-numbers.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: numbers.size] = numbers
    scales = np.maximum(np.abs(blocks).max(1) / np.float32(_TOP_CODE), _SMALLEST)
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.rint(blocks / scales[:, None])).clip(-_TOP_CODE, _TOP_CODE)
    scales[~np.isfinite(scales)] = np.nan
    return codes.astype(np.int8).reshape(-1)[: numbers.size], scales


def _widen(
    values: npt.NDArray[np.int8] | npt.NDArray[np.uint16], scales: Floats, start: int, precision: Precision
) -> Floats:
    piece = values[start : start + PIECE]
    if precision is Precision.BFLOAT16:
        return (piece.astype(np.uint32) << 16).view(np.float32)
    scale = np.repeat(scales[start // BLOCK : (start + PIECE) // BLOCK], BLOCK)[: piece.size]
    with np.errstate(invalid="ignore", over="ignore"):
        return piece.astype(np.float32) * scale
