"""A shard's table of tensors: what lies where in its one flat buffer.

Imports no torch: neither the wire nor a master that only keeps state needs it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import MalformedError

Kind = Literal["parameter", "buffer"]
Raw = bytes | bytearray | memoryview | np.ndarray

FLOATS = ("float32", "float64")
# What a shard may hold, and what a tensor may be between two layers (`common.wire.precision`).
ITEMSIZES = {"float32": 4, "float64": 8, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
BOUNDARY_ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_ITEMSIZES = ITEMSIZES | BOUNDARY_ITEMSIZES
# numpy has no bfloat16: its bits.
_ARRAYS = {"bfloat16": "int16"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a shard.

    Attributes:
        name: its name in the module's state dict.
        dtype: a key of `ITEMSIZES`; in a boundary message, of `BOUNDARY_ITEMSIZES`.
        shape: its sizes; () for a single number.
        offset: bytes from the buffer's start.
        kind: "parameter" learns from gradients; "buffer" does not (BN's statistics, frozen parameters).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    kind: Kind

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * _ITEMSIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Table:
    """Every tensor of a shard and the bytes of the whole.

    Three regions: parameters (float32, without gaps from offset 0), float buffers, integer buffers. A buffer
    region starts at a multiple of 8, a tensor at a multiple of its item's size; gaps hold zeros.
    """

    tensors: tuple[TensorSpec, ...]
    nbytes: int

    @property
    def parameters_nbytes(self) -> int:
        """Bytes of the parameters, which are the buffer's beginning: 4 P."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.kind == "parameter")

    def arrays(self, data: Raw) -> dict[str, np.ndarray]:
        """Every tensor by name, as a view of `data`, (nbytes,) bytes; bfloat16's bits as int16.

        Raises:
            MalformedError: `data` is not as long as the table says.
        """
        flat = np.frombuffer(data, dtype=np.uint8)
        if flat.nbytes != self.nbytes:
            raise MalformedError(f"state of {flat.nbytes} bytes where its table says {self.nbytes}")
        return {
            tensor.name: flat[tensor.offset : tensor.offset + tensor.nbytes]
            .view(_ARRAYS.get(tensor.dtype, tensor.dtype))
            .reshape(tensor.shape)
            for tensor in self.tensors
        }


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...], Kind]]) -> Table:
    """The table of tensors given as (name, dtype, shape, kind): each at the place that `Table` promises.

    The order within a region is the order given, so the layout is a pure function of its input: a table from
    a peer is well-formed exactly if laying out its tensors gives it again.
    """
    specs: list[TensorSpec] = []
    end = 0
    region = 0
    for name, dtype, shape, kind in sorted(tensors, key=lambda tensor: _region(tensor[1], tensor[3])):
        if kind == "buffer" and _region(dtype, kind) != region:
            region = _region(dtype, kind)
            end = _aligned(end, 8)
        specs.append(TensorSpec(name, dtype, shape, _aligned(end, _ITEMSIZES[dtype]), kind))
        end = specs[-1].offset + specs[-1].nbytes
    return Table(tuple(specs), end)


def _region(dtype: str, kind: Kind) -> int:
    return 0 if kind == "parameter" else 1 if dtype in FLOATS else 2


def _aligned(offset: int, size: int) -> int:
    return -(-offset // size) * size


def check_table(table: Table, dtypes: Collection[str] = ITEMSIZES) -> None:
    """Whether a table from a peer lays its tensors out as every table here does; `dtypes` are allowed.

    Raises:
        MalformedError: an unknown dtype or kind, a name that comes twice, an overlap, a gap that is no
            alignment, or a size that lies.
    """
    for spec in table.tensors:
        if spec.dtype not in dtypes or spec.kind not in ("parameter", "buffer"):
            raise MalformedError(f"tensor {spec.name} has dtype {spec.dtype!r} and kind {spec.kind!r}")
        if spec.kind == "parameter" and spec.dtype != "float32":
            raise MalformedError(f"parameter {spec.name} is {spec.dtype}; parameters are float32")
    if len({spec.name for spec in table.tensors}) < len(table.tensors):
        raise MalformedError("a table names a tensor twice")
    if lay_out((spec.name, spec.dtype, spec.shape, spec.kind) for spec in table.tensors) != table:
        raise MalformedError("a table's tensors do not lie side by side within its bytes")
