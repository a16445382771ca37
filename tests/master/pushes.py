"""Pushes and tables for the tests of the master."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from common.optim.optimizers import Settings
from common.shards.pushes import Header, Operation
from common.shards.table import Table, lay_out
from master.store.optimizers import ServerOptimizer
from master.store.policies import Policies, Policy, uniform

Pieces = list[tuple[int, memoryview]]

SHARD = "1/weights"

# Every kind of region: parameters, float buffers of two sizes, integers, truth values.
MIXED = lay_out(
    [
        ("weight", "float32", (3, 3), "parameter"),
        ("mean", "float32", (3,), "buffer"),
        ("wide", "float64", (2,), "buffer"),
        ("count", "int64", (), "buffer"),
        ("small", "int32", (3,), "buffer"),
        ("byte", "uint8", (5,), "buffer"),
        ("mask", "bool", (4,), "buffer"),
    ]
)

# Parameters, a float buffer, and frozen tensors behind a gap of four bytes.
PARTLY_FROZEN = lay_out(
    [
        ("fixed", "float32", (4,), "frozen"),
        ("weight", "float32", (2,), "parameter"),
        ("mean", "float32", (1,), "buffer"),
        ("mask", "bool", (3,), "frozen"),
    ]
)


def parameters(count: int) -> Table:
    """Table of a single tensor of `count` parameters."""
    return lay_out([("weight", "float32", (count,), "parameter")])


def update(
    numbers: npt.ArrayLike,
    sequence: int = 1,
    *,
    incarnation: int = 1,
    shard: str = "1/weights",
    version: int = 0,
    next_batch: int = 0,
) -> tuple[Header, Pieces]:
    """Update of parameters, in a single piece."""
    data = np.atleast_1d(np.asarray(numbers, np.float32))
    table = parameters(data.size)
    header = Header(shard, Operation.UPDATE, version, incarnation, sequence, next_batch, table)
    return header, [(0, memoryview(data.tobytes()))]


def gradient(
    numbers: npt.ArrayLike, sequence: int = 1, *, incarnation: int = 1, version: int = 0, fetched: int = 0
) -> tuple[Header, Pieces]:
    """Accrued gradient of parameters, in a single piece."""
    header, pieces = update(numbers, sequence, incarnation=incarnation, version=version)
    return replace(header, operation=Operation.ACCRUED_GRADIENT, fetched_sequence=fetched), pieces


def creation(
    numbers: npt.ArrayLike, *, incarnation: int = 1, shard: str = "1/weights"
) -> tuple[Header, Pieces]:
    """Creation of a shard, in a single piece."""
    data = np.atleast_1d(np.asarray(numbers, np.float32))
    header = Header(shard, Operation.CREATE, incarnation=incarnation, table=parameters(data.size))
    return header, [(0, memoryview(data.tobytes()))]


def noise(sequence: int, count: int) -> npt.NDArray[np.float32]:
    """Gradient of a sequence number, reproducible."""
    return np.random.default_rng(sequence).normal(size=count).astype(np.float32)


def adam() -> Policies:
    """Every shard takes gradients, for Adam."""
    return uniform(Policy(optimizer=ServerOptimizer(Settings("adam", 0.01))))
