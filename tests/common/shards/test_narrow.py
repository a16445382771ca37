"""common.shards.narrow: bounds of the rounding, and one decoding for slave and master."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedError
from common.shards import narrow
from common.shards.narrow import BLOCK, PIECE, decode, decode_parameters, encode, push_nbytes
from common.shards.pushes import Header, Operation
from common.shards.table import Precision, lay_out
from master.store.store import Memory, Store
from tests.master.pushes import MIXED, PARTLY_FROZEN, SHARD, creation, parameters

NARROW = [Precision.BFLOAT16, Precision.INT8]
COUNTS = st.sampled_from([0, 1, 2, 3, 255, 256, 257, 1000, PIECE - 1, PIECE + 1, 2 * PIECE])


def numbers(count: int, seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=count) * scale * 10.0 ** rng.integers(-4, 4, count)).astype(np.float32)


@given(COUNTS, st.integers(0, 99), st.sampled_from(NARROW), st.sampled_from([1e-30, 1e-3, 1.0, 1e20]))
def test_the_rounding_is_bounded_by_the_number_or_by_its_block(
    count: int, seed: int, precision: Precision, scale: float
) -> None:
    table, before = parameters(count), numbers(count, seed, scale)
    sent = encode(table, before.view(np.uint8), precision)
    assert sent.nbytes == push_nbytes(table, precision)
    after = decode_parameters(table, sent, precision)
    if precision is Precision.BFLOAT16:
        np.testing.assert_array_equal(after, torch.from_numpy(before).bfloat16().float().numpy())
        return
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        bound = np.abs(before[block]).max() / 127 / 2
        assert np.abs(after[block] - before[block]).max() <= 1.001 * bound + 2.0**-126


def test_an_int8_push_has_a_quarter_of_the_bytes_and_a_bfloat16_push_half() -> None:
    table = parameters(1 << 20)
    sizes = {each.name: push_nbytes(table, each) / table.nbytes for each in Precision}
    assert sizes == {"FLOAT32": 1.0, "BFLOAT16": 0.5, "INT8": 0.25 + 1 / BLOCK}


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("table", [MIXED, PARTLY_FROZEN.pushed, lay_out([("n", "int64", (3,), "buffer")])])
def test_buffers_travel_unchanged(table, precision: Precision) -> None:  # type: ignore[no-untyped-def]
    wide = np.random.default_rng(0).integers(0, 2, table.nbytes).astype(np.uint8)
    wide[: table.parameters_nbytes] = numbers(table.parameters_nbytes // 4, 0).view(np.uint8)
    sent = encode(table, wide, precision)
    assert sent.nbytes == push_nbytes(table, precision)
    back = np.zeros_like(wide)
    for offset, piece in decode(table, sent, precision):
        assert offset % 8 == 0 or offset == table.parameters_nbytes
        back[offset : offset + len(piece)] = np.frombuffer(piece, np.uint8)
    start = table.parameters_nbytes
    gap = slice(start, min(-(-start // 8) * 8, table.nbytes))
    wide[gap] = 0
    np.testing.assert_array_equal(back[start:], wide[start:])
    np.testing.assert_array_equal(back[:start].view(np.float32), decode_parameters(table, sent, precision))


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("fault", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_nan_or_inf_is_still_one_for_the_master_which_refuses_the_push(
    precision: Precision, fault: float
) -> None:
    store = Store(Memory())
    store.create(*creation(np.zeros(600)))
    change = np.ones(600, np.float32)
    change[300] = fault
    sent = encode(parameters(600), change.view(np.uint8), precision)
    header = Header(SHARD, Operation.UPDATE, 0, 1, 1, 0, parameters(600), precision=precision)
    with pytest.raises(MalformedError, match="NaN or Inf"):
        store.apply(header, [(0, sent.data)])
    assert store.versions()[SHARD] == 0


@pytest.mark.parametrize("precision", NARROW)
def test_scales_or_bits_of_any_kind_change_a_shard_to_finite_numbers_or_not_at_all(
    precision: Precision,
) -> None:
    """A peer may send any bytes."""
    rng = np.random.default_rng(0)
    for sequence in range(1, 30):
        store = Store(Memory())
        store.create(*creation(np.zeros(600)))
        header = Header(SHARD, Operation.UPDATE, 0, 1, 1, 0, parameters(600), precision=precision)
        sent = rng.integers(0, 256, header.nbytes).astype(np.uint8)
        try:
            store.apply(header, [(0, sent.data)])
        except MalformedError:
            assert store.versions()[SHARD] == 0
        reading = store.read(SHARD)
        assert np.isfinite(np.frombuffer(reading.buffer, np.float32)).all(), sequence
        reading.release()


def test_every_precision_has_a_size() -> None:
    assert list(narrow.ITEMSIZES) == list(Precision)
