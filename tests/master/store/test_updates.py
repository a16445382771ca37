"""master.store.updates: results of pushes, however the pieces are cut."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedError
from common.shards.table import ITEMSIZES, Kind, Table, lay_out
from master.store import updates
from master.store.updates import apply_update, check_finite, regions
from tests.master.pushes import MIXED

Bytes = npt.NDArray[np.uint8]

KINDS: st.SearchStrategy[tuple[str, Kind]] = st.just(("float32", "parameter")) | st.sampled_from(
    sorted(ITEMSIZES)
).map(lambda dtype: (dtype, "buffer"))
SHAPES = st.lists(st.integers(0, 9), max_size=2).map(tuple)
TABLES = st.lists(st.tuples(KINDS, SHAPES), max_size=6).map(
    lambda tensors: lay_out((str(i), kind[0], shape, kind[1]) for i, (kind, shape) in enumerate(tensors))
)


def filled(table: Table, seed: int) -> Bytes:
    """A buffer of plausible numbers in every tensor."""
    rng = np.random.default_rng(seed)
    buffer = np.zeros(table.nbytes, np.uint8)
    for array in table.arrays(buffer).values():
        if array.dtype.kind == "f":
            array[...] = rng.normal(size=array.shape)
        else:
            array[...] = rng.integers(0, 2 if array.dtype.kind == "b" else 100, array.shape)
    return buffer


def expected(table: Table, active: Bytes, pushed: Bytes, replicas: int) -> dict[str, npt.NDArray[np.generic]]:
    """Tensor by tensor, by the definition of the design."""
    own, new = table.arrays(active), table.arrays(pushed)
    made = {}
    for spec in table.tensors:
        name = spec.name
        if spec.kind == "parameter":
            made[name] = own[name] + new[name]
        elif spec.dtype == "bool":
            made[name] = own[name] ^ new[name]
        elif spec.dtype in ("float32", "float64"):
            made[name] = own[name] + (new[name] - own[name]) / replicas if replicas > 1 else new[name]
        else:
            made[name] = own[name] + new[name]
    return made


@given(TABLES, st.integers(1, 3), st.data())
def test_an_update_in_any_pieces_is_applied_tensor_by_tensor_as_defined(
    table: Table, replicas: int, data: st.DataObject
) -> None:
    active, pushed, idle = filled(table, 1), filled(table, 2), filled(table, 3)
    before = active.copy()
    cuts = sorted(data.draw(st.sets(st.integers(0, table.nbytes // 8).map(lambda i: 8 * i), max_size=4)))
    edges = [0, *cuts, table.nbytes]
    pieces = [(a, pushed[a:b].tobytes()) for a, b in itertools.pairwise(edges) if b > a]
    apply_update(regions(table), active, idle, pieces, replicas)
    for name, array in expected(table, active, pushed, replicas).items():
        np.testing.assert_array_equal(table.arrays(idle)[name], array, err_msg=name)
    np.testing.assert_array_equal(active, before)


def test_an_update_larger_than_a_piece_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    table = lay_out([("w", "float32", (3 * updates.PIECE_BYTES // 4 + 5,), "parameter")])
    active, pushed, idle = filled(table, 1), filled(table, 2), np.zeros(table.nbytes, np.uint8)
    apply_update(regions(table), active, idle, [(0, pushed.tobytes())], 1)
    np.testing.assert_array_equal(idle.view(np.float32), active.view(np.float32) + pushed.view(np.float32))


@given(TABLES)
def test_regions_cover_every_tensor_once_and_nothing_else(table: Table) -> None:
    covered = np.zeros(table.nbytes, int)
    for region in regions(table):
        assert region.start < region.stop
        covered[region.start : region.stop] += 1
        assert region.start % region.dtype.itemsize == 0
    wanted = np.zeros(table.nbytes, int)
    for spec in table.tensors:
        wanted[spec.offset : spec.offset + spec.nbytes] += 1
    np.testing.assert_array_equal(covered, wanted)


@pytest.mark.parametrize("where", ["weight", "mean", "wide"])
@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("replicas", [1, 2])
def test_nan_and_inf_are_refused_in_parameters_and_float_buffers(
    where: str, what: float, replicas: int
) -> None:
    active, pushed, idle = filled(MIXED, 1), filled(MIXED, 2), np.zeros(MIXED.nbytes, np.uint8)
    before = active.copy()
    MIXED.arrays(pushed)[where].flat[-1] = what
    with pytest.raises(MalformedError, match="NaN or Inf"):
        apply_update(regions(MIXED), active, idle, [(0, pushed.tobytes())], replicas)
    np.testing.assert_array_equal(active, before)


def test_a_sum_that_overflows_is_refused_though_both_are_finite() -> None:
    table = lay_out([("w", "float32", (2,), "parameter")])
    largest = np.full(2, np.finfo(np.float32).max, np.float32).view(np.uint8)
    with pytest.raises(MalformedError, match="NaN or Inf"):
        apply_update(regions(table), largest, np.zeros(8, np.uint8), [(0, largest.tobytes())], 1)


def test_no_numpy_warning_comes_of_what_is_refused(recwarn: pytest.WarningsRecorder) -> None:
    test_a_sum_that_overflows_is_refused_though_both_are_finite()
    assert not recwarn.list


def test_whatever_bits_an_integer_has_it_is_finite() -> None:
    for region in regions(MIXED):
        if region.dtype.kind != "f":
            check_finite(region, np.full(region.stop - region.start, 255, np.uint8))


def test_a_piece_that_ends_within_a_number_is_refused_and_active_stays() -> None:
    active, pushed = filled(MIXED, 1), filled(MIXED, 2)
    before = active.copy()
    with pytest.raises(MalformedError, match="splits a number"):
        apply_update(regions(MIXED), active, np.zeros_like(active), [(0, pushed[:6].data)], 1)
    assert np.array_equal(active, before)
