"""A shard's table of tensors: the layout of the flat buffer.

Imports no torch: neither the wire nor a master that only stores state needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from common.bounds import LARGEST_SHARD_BYTES, MOST_DIMENSIONS, MOST_TENSORS
from common.errors import MalformedError, TooLargeError

Kind = Literal["parameter", "buffer", "frozen"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Raw = bytes | bytearray | memoryview | np.ndarray

FLOATS = ("float32", "float64")


class Precision(IntEnum):
    """Form of a push's parameters, by the names of `downpour.precision`; see `common.shards.narrow`."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2


# Item sizes in bytes of the dtypes of a shard; of floats between two layers (`common.wire.precision`); and of
# all tensors between two layers.
ITEMSIZES = {"float32": 4, "float64": 8, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
WIRE_ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
BOUNDARY_ITEMSIZES = WIRE_ITEMSIZES | {"int64": 8, "int32": 4, "uint8": 1, "bool": 1}
_ITEMSIZES = ITEMSIZES | BOUNDARY_ITEMSIZES
# Fragments are cut at multiples of so many numbers, 64 bytes.
_CUT = 16
# A snapshot is a safetensors file, whose format has another use for the name.
RESERVED_NAME = "__metadata__"
# numpy has no bfloat16; the bits appear as int16.
_ARRAYS = {"bfloat16": "int16"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype, shape and place of a tensor of a shard.

    Attributes:
        name: key in the module's state dict.
        dtype: a key of `ITEMSIZES`; in a boundary message, of `BOUNDARY_ITEMSIZES`.
        shape: sizes; () for a scalar.
        offset: bytes from the buffer's start.
        kind: "parameter" learns from gradients; "buffer" is changed by a forward (BN's statistics); "frozen"
            never changes (a parameter with `requires_grad=False`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    kind: Kind

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * _ITEMSIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Table:
    """Layout of a shard: every tensor, and the size of the whole buffer in bytes.

    Four regions: parameters (float32, without gaps from offset 0), float buffers, integer buffers, frozen
    tensors. Every region but the first starts at a multiple of 8, a tensor at a multiple of its item's size;
    gaps hold zeros.
    """

    tensors: tuple[TensorSpec, ...]
    nbytes: int

    @property
    def parameters_nbytes(self) -> int:
        """Bytes of the P parameters at the buffer's start: 4 P."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.kind == "parameter")

    @property
    def pushed_buffers(self) -> int:
        """Offset of the buffers of a push, for a table without frozen tensors; its size if there are none."""
        return min(align(self.parameters_nbytes, 8), self.nbytes)

    @property
    def pushed(self) -> Table:
        """Table of a push's buffer: this table without the frozen tensors, which lie at the end."""
        if not self.tensors or self.tensors[-1].kind != "frozen":
            return self
        tensors = tuple(tensor for tensor in self.tensors if tensor.kind != "frozen")
        return Table(tensors, tensors[-1].offset + tensors[-1].nbytes if tensors else 0)

    def fragment(self, index: int, count: int) -> tuple[Table, int]:
        """Return the table of one of `count` fragments of a push, and the fragment's offset in the push.

        The parameters are cut at multiples of 64 bytes into fragments of one size, the last ones shorter or
        empty; the last fragment has the buffers too.
        """
        return _fragment(self, index, count)

    def arrays(self, data: Raw) -> dict[str, np.ndarray]:
        """Return every tensor by name as a view of `data`, (nbytes,) bytes; bfloat16 appears as int16 bits.

        Raises:
            MalformedError: `data` has another length than the table's.
        """
        flat = np.frombuffer(data, dtype=np.uint8)
        if flat.nbytes != self.nbytes:
            raise MalformedError(f"state has {flat.nbytes} bytes, but its table has {self.nbytes}")
        return {
            tensor.name: flat[tensor.offset : tensor.offset + tensor.nbytes]
            .view(_ARRAYS.get(tensor.dtype, tensor.dtype))
            .reshape(tensor.shape)
            for tensor in self.tensors
        }


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...], Kind]]) -> Table:
    """Build the table of tensors given as (name, dtype, shape, kind), placed as `Table` promises.

    Within a region tensors keep the order given, so the layout is a pure function: a peer's table is
    well-formed exactly if laying out the tensors again yields an equal table.
    """
    specs: list[TensorSpec] = []
    end = 0
    region = 0
    for name, dtype, shape, kind in sorted(tensors, key=lambda tensor: _region(tensor[1], tensor[3])):
        if _region(dtype, kind) != region:
            region = _region(dtype, kind)
            end = align(end, 8)
        specs.append(TensorSpec(name, dtype, shape, align(end, _ITEMSIZES[dtype]), kind))
        end = specs[-1].offset + specs[-1].nbytes
    return Table(tuple(specs), end)


def _region(dtype: str, kind: Kind) -> int:
    if kind == "buffer":
        return 1 if dtype in FLOATS else 2
    return 0 if kind == "parameter" else 3


def align(offset: int, size: int) -> int:
    """Return the first multiple of a size from an offset on."""
    return -(-offset // size) * size


@lru_cache(maxsize=256)
def _fragment(table: Table, index: int, count: int) -> tuple[Table, int]:
    numbers = table.parameters_nbytes // 4
    size = -(-numbers // (count * _CUT)) * _CUT
    start, last = min(index * size, numbers), index == count - 1
    stop = numbers if last else min(start + size, numbers)
    offset = 4 * start if start < numbers else table.pushed_buffers
    tensors: list[tuple[str, str, tuple[int, ...], Kind]] = []
    if stop > start:
        tensors.append(("fragment", "float32", (stop - start,), "parameter"))
    if last:
        tensors += [
            (f"buffer {number}", spec.dtype, spec.shape, spec.kind)
            for number, spec in enumerate(table.tensors)
            if spec.kind == "buffer"
        ]
    return lay_out(tensors), offset


def check_table(table: Table, dtypes: Collection[str] = ITEMSIZES) -> None:
    """Check that a table from a peer has the layout of `lay_out` and only allowed `dtypes`.

    Raises:
        MalformedError: an unknown dtype or kind, a repeated or reserved name, an overlap, a gap beyond
            alignment, or a wrong size.
        TooLargeError: too many tensors.
    """
    if len(table.tensors) > MOST_TENSORS:
        raise TooLargeError(f"a table of {len(table.tensors)} tensors; at most {MOST_TENSORS}")
    for spec in table.tensors:
        check_dimensions(spec.name, spec.shape)
        if spec.dtype not in dtypes or spec.kind not in KINDS:
            raise MalformedError(f"tensor {spec.name} has dtype {spec.dtype!r} and kind {spec.kind!r}")
        if spec.kind == "parameter" and spec.dtype != "float32":
            raise MalformedError(f"parameter {spec.name} is {spec.dtype}; parameters are float32")
    names = {spec.name for spec in table.tensors}
    if len(names) < len(table.tensors):
        raise MalformedError("a table names a tensor twice")
    if RESERVED_NAME in names:
        raise MalformedError(f"no tensor can be named {RESERVED_NAME}; rename the parameter in the network")
    if lay_out((spec.name, spec.dtype, spec.shape, spec.kind) for spec in table.tensors) != table:
        raise MalformedError("a table's tensors overlap, leave gaps or exceed its bytes")


def check_shape(name: str, shape: Sequence[int]) -> None:
    """Check dimensions and sizes of a tensor from a peer, without a product of unchecked numbers.

    Raises:
        TooLargeError: more dimensions or elements than `common.bounds` allows.
    """
    check_dimensions(name, shape)
    if max(shape, default=0) > LARGEST_SHARD_BYTES or math.prod(shape) > LARGEST_SHARD_BYTES:
        raise TooLargeError(f"tensor {name} has over {LARGEST_SHARD_BYTES} elements")


def check_dimensions(name: str, shape: Sequence[int]) -> None:
    """Check the number of dimensions of a tensor from a peer.

    Raises:
        TooLargeError: more dimensions than `common.bounds` allows.
    """
    if len(shape) > MOST_DIMENSIONS:
        raise TooLargeError(f"tensor {name} has {len(shape)} dimensions; at most {MOST_DIMENSIONS}")
