"""common.shards.assembly: a buffer comes together only from its own pieces, in order, whole."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.bounds import LARGEST_SHARD_BYTES
from common.errors import LayerwiseError, MalformedError, TooLargeError
from common.shards.assembly import Assembly
from common.shards.pushes import Frame, Header, Operation
from common.shards.table import Table, lay_out

TABLE = lay_out([("weight", "float32", (16,), "parameter"), ("count", "int64", (), "buffer")])
HEADER = Header("1/weights", Operation.UPDATE, table=TABLE)
DATA = bytes(range(TABLE.nbytes))


def piece(start: int, stop: int, header: Header | None = None) -> Frame:
    return Frame(header, start, DATA[start:stop])


def assembled(*frames: Frame, registered: Table | None = None) -> Assembly:
    assembly = Assembly(frames[0], registered)
    for frame in frames[1:]:
        assembly.add(frame)
    return assembly


def refusal(*frames: Frame, registered: Table | None = None) -> LayerwiseError:
    with pytest.raises(LayerwiseError) as caught:
        assembled(*frames, registered=registered)
    return caught.value


def whole(assembly: Assembly) -> bytes:
    return b"".join(data for _, data in assembly.pieces)


@pytest.mark.parametrize("registered", [None, TABLE])
def test_any_cut_at_multiples_of_eight_comes_together(registered: Table | None) -> None:
    rng = random.Random(0)
    for _ in range(50):
        inner = sorted(rng.sample(range(8, TABLE.nbytes, 8), rng.randint(0, 5)))
        cuts = [0, *inner, TABLE.nbytes]
        pieces = [piece(a, b, HEADER if a == 0 else None) for a, b in itertools.pairwise(cuts)]
        assembly = assembled(*pieces, registered=registered)
        assert assembly.complete
        assert whole(assembly) == DATA


def test_a_header_alone_may_come_before_the_data() -> None:
    assembly = assembled(Frame(HEADER), piece(0, TABLE.nbytes))
    assert assembly.complete
    assert whole(assembly) == DATA


def test_an_empty_buffer_is_complete_with_its_header() -> None:
    assert Assembly(Frame(Header("1/weights", Operation.UPDATE)), None).complete


def test_a_truncated_buffer_is_not_complete() -> None:
    assert not assembled(piece(0, 8, HEADER)).complete
    assert not assembled(piece(0, 8, HEADER), piece(8, TABLE.nbytes - 1)).complete


@pytest.mark.parametrize(
    "frames",
    [
        [piece(0, 16, HEADER), piece(8, 24)],
        [piece(0, 16, HEADER), piece(0, 16)],
        [piece(0, 16, HEADER), piece(24, 32)],
        [piece(8, 16, HEADER)],
        [piece(0, 12, HEADER), piece(12, 24)],
        [piece(0, 16, HEADER), piece(16, 16)],
        [piece(0, 16, HEADER), piece(16, 32, HEADER)],
        [piece(0, 16)],
        [Frame(HEADER, 0, DATA + b"x")],
        [piece(0, 16, HEADER), Frame(None, 16, DATA)],
        [piece(0, TABLE.nbytes, HEADER), Frame(None, TABLE.nbytes, b"x")],
        [piece(0, 16, HEADER), Frame(None, 2**64 - 8, b"x" * 8)],
    ],
    ids=["overlap", "repeat", "gap", "late start", "split number", "empty piece", "second header",
         "no header", "oversized", "oversized later", "beyond the end", "far away"],
)  # fmt: skip
def test_a_piece_that_is_not_the_next_one_is_malformed(frames: list[Frame]) -> None:
    assert isinstance(refusal(*frames), MalformedError)
    assert isinstance(refusal(*frames, registered=TABLE), MalformedError)


def test_another_table_than_the_registered_one_is_malformed() -> None:
    other = lay_out([("weight", "float32", (4, 4), "parameter"), ("count", "int64", (), "buffer")])
    assert isinstance(refusal(piece(0, 16, HEADER), registered=other), MalformedError)


def test_a_table_that_is_laid_out_wrongly_is_malformed() -> None:
    wrong = dataclasses.replace(HEADER, table=Table(TABLE.tensors, TABLE.nbytes + 8))
    assert isinstance(refusal(Frame(wrong)), MalformedError)


def test_a_shard_beyond_the_limit_is_refused_by_its_table_alone() -> None:
    numbers = LARGEST_SHARD_BYTES // 4 + 1
    header = Header("1/weights", Operation.CREATE, table=lay_out([("w", "float32", (numbers,), "parameter")]))
    assert isinstance(refusal(Frame(header)), TooLargeError)


@given(st.lists(st.tuples(st.integers(0, TABLE.nbytes), st.integers(0, TABLE.nbytes)), max_size=6))
def test_a_piece_that_is_announced_is_judged_as_one_that_is_handed_over(
    pieces: list[tuple[int, int]],
) -> None:
    announced, handed = (assembled(piece(0, 8, HEADER)) for _ in range(2))
    for start, nbytes in [*pieces, (8, TABLE.nbytes - 8)]:
        assert judged(announced.expect, start, nbytes) == judged(
            handed.add, Frame(None, start, bytes(nbytes))
        )
        assert announced.complete == handed.complete
    assert whole(announced) == DATA[:8]


def judged(take: Callable[..., None], *arguments: object) -> str:
    try:
        take(*arguments)
    except MalformedError as error:
        return str(error)
    return "taken"
