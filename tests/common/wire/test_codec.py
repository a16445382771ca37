"""common.wire: our encoding is protobuf's, byte for byte, and no bytes from outside can break us.

The generated classes stand here for any other language's client.
"""

from __future__ import annotations

import dataclasses
import random
import types
import typing
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import bounds
from common.errors import LayerwiseError, MalformedError, TooLargeError
from common.shards import pushes
from common.shards.pushes import Frame, Header, Operation
from common.shards.table import BOUNDARY_ITEMSIZES, ITEMSIZES, Table, TensorSpec, check_table, lay_out
from common.wire import codec, encoding, messages
from common.wire.codec import decoder, encode
from common.wire.encoding import field_head, split_fields, varint
from common.wire.messages import BoundaryKind, BoundaryMessage, SynthesisKind, SynthesisMessage
from common.wire.methods import METHODS
from common.wire.payloads import (
    CHUNK_BYTES,
    decode_boundary,
    decode_frame,
    decode_synthesis,
    encode_boundary,
    encode_frame,
    encode_synthesis,
    frames,
)
from common.wire.ranges import RANGES, Mapped, Range, Rule
from protos import layerwise_pb2 as pb

# Those without a payload: what has one is tested by itself.
MESSAGES = [
    kind
    for kind in {**vars(messages), **vars(pushes)}.values()
    if dataclasses.is_dataclass(kind) and kind not in (Frame, BoundaryMessage, SynthesisMessage, Table)
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SHAPES = st.lists(st.integers(0, 3), max_size=2).map(tuple)


def tables(dtypes: Iterable[str]) -> st.SearchStrategy[Table]:
    """Any table whose buffers have such dtypes."""
    buffers = st.sampled_from(sorted(dtypes)).map(lambda dtype: (dtype, "buffer"))
    frozen = buffers.map(lambda kind: (kind[0], "frozen"))
    kinds: st.SearchStrategy[Any] = st.just(("float32", "parameter")) | buffers | frozen
    return st.dictionaries(TEXT, st.tuples(kinds, SHAPES), max_size=4).map(
        lambda tensors: lay_out((name, kind[0], shape, kind[1]) for name, (kind, shape) in tensors.items())
    )


TABLES, BOUNDARY_TABLES = tables(ITEMSIZES), tables(BOUNDARY_ITEMSIZES)


def within(rule: Range, kind: type) -> st.SearchStrategy[Any]:
    """Any number of a range."""
    if kind is int:
        return st.integers(int(rule.low), int(rule.high))
    return st.floats(rule.low, rule.high, allow_nan=False)


def values_of(annotation: Any, rule: Rule | None) -> st.SearchStrategy[Any]:
    """Any value that a message's field of that annotation may have."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        bool: st.booleans(),
        Table: TABLES,
        pushes.Buffer: st.binary(max_size=64),
    }
    if annotation in (int, float):
        assert isinstance(rule, Range)
        return within(rule, annotation)
    if annotation in simple:
        return simple[annotation]
    if origin is types.UnionType:
        return st.none() | values_of(arguments[0], rule)
    if origin is dict:
        # A map from texts to texts holds no number.
        keys, values = (rule.keys, rule.values) if isinstance(rule, Mapped) else (None, None)
        assert rule or arguments == (str, str)
        return st.dictionaries(
            within(keys, int) if keys else TEXT, values_of(arguments[1], values), max_size=3
        )
    if origin is list:
        return st.lists(values_of(arguments[0], rule), max_size=2)
    if issubclass(annotation, IntEnum):
        return st.sampled_from(list(annotation))
    return instances(annotation)


def instances(kind: type, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any message of a class; `given` are the values of some fields."""
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind) if f.name not in given]
    rules = RANGES.get(kind, {})
    return st.builds(kind, **given, **{name: values_of(hints[name], rules.get(name)) for name in names})


FRAMES = instances(Frame)
# Of these, the data is as long as the table says.
TENSORS = st.one_of(
    instances(BoundaryMessage, table=BOUNDARY_TABLES),
    # Plus zero: minus zero is left out as zero is, and read as it.
    instances(SynthesisMessage).map(lambda message: dataclasses.replace(message, loss=message.loss + 0.0)),
).map(lambda message: dataclasses.replace(message, data=bytes(i % 251 for i in range(message.table.nbytes))))
ENCODE: dict[type, Any] = {BoundaryMessage: encode_boundary, SynthesisMessage: encode_synthesis}
DECODE: dict[type, Any] = {BoundaryMessage: decode_boundary, SynthesisMessage: decode_synthesis}


def plain(message: Any) -> Any:
    """A message with its data as bytes, to be compared."""
    return dataclasses.replace(message, data=bytes(message.data))


# --- what we write, and what we read ----------------------------------------------------------------------


def generated_table(table: Table) -> Any:
    specs = [
        pb.TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape, offset=t.offset, kind=t.kind)
        for t in table.tensors
    ]
    return pb.Table(tensors=specs, nbytes=table.nbytes)


def generated(message: Any) -> Any:
    """A frame or a message of tensors made with the generated classes alone."""
    made = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    if "table" in made:
        made["table"] = generated_table(made["table"])
    if isinstance(message, Frame):
        header = made.pop("header")
        return pb.Frame(**made) if header is None else pb.Frame(**made, header=generated(header))
    return getattr(pb, type(message).__name__)(**made)


@given(FRAMES)
def test_a_frame_is_written_as_the_generated_class_writes_it(frame: Frame) -> None:
    assert encode_frame(frame) == generated(frame).SerializeToString()


@given(TENSORS)
def test_a_message_of_tensors_is_written_as_the_generated_class_writes_it(message: Any) -> None:
    assert ENCODE[type(message)](message) == generated(message).SerializeToString()


@given(FRAMES)
def test_a_frame_that_the_generated_class_wrote_is_read(frame: Frame) -> None:
    assert plain(decode_frame(generated(frame).SerializeToString())) == plain(frame)


@given(TENSORS)
def test_a_message_of_tensors_that_the_generated_class_wrote_is_read(message: Any) -> None:
    decode = DECODE[type(message)]
    assert plain(decode(generated(message).SerializeToString())) == plain(message)


def fields_of(encoded: bytes) -> list[bytes]:
    """A message's top-level fields, each with its tag."""
    found, position = [], 0
    while position < len(encoded):
        start = position
        tag, position = encoding.read_varint(memoryview(encoded), position)
        _, position = encoding._content(memoryview(encoded), tag & 7, position)
        found.append(encoded[start:position])
    return found


UNKNOWN = st.lists(
    st.sampled_from(
        [
            varint(99 << 3 | 0) + varint(2**64 - 1),
            varint(98 << 3 | 1) + bytes(8),
            varint(97 << 3 | 2) + varint(3) + b"\x0a\x0b\x0c",
            varint(96 << 3 | 5) + bytes(4),
            # Our own numbers, of another wire type: unknown to protobuf, too.
            varint(3 << 3 | 5) + bytes(4),
            varint(8 << 3 | 5) + bytes(4),
        ]
    ),
    max_size=3,
)


@given(FRAMES, UNKNOWN, st.randoms(use_true_random=False))
def test_a_frame_is_read_with_fields_in_any_order_among_unknown_ones(
    frame: Frame, unknown: list[bytes], shuffled: random.Random
) -> None:
    fields = fields_of(encode_frame(frame)) + unknown
    shuffled.shuffle(fields)
    assert plain(decode_frame(b"".join(fields))) == plain(frame)


@given(TENSORS, UNKNOWN, st.randoms(use_true_random=False))
def test_a_message_of_tensors_is_read_with_fields_in_any_order_among_unknown_ones(
    message: Any, unknown: list[bytes], shuffled: random.Random
) -> None:
    fields = fields_of(ENCODE[type(message)](message)) + unknown
    shuffled.shuffle(fields)
    assert plain(DECODE[type(message)](b"".join(fields))) == plain(message)


def test_of_a_field_that_comes_twice_the_last_counts_as_protobuf_has_it() -> None:
    twice = encode_frame(Frame(None, 8, b"first")) + encode_frame(Frame(None, 16, b"last"))
    parsed = pb.Frame.FromString(twice)
    ours = decode_frame(twice)
    assert (ours.offset, bytes(ours.data)) == (parsed.offset, parsed.data) == (16, b"last")


def test_a_message_that_comes_twice_is_merged_as_protobuf_merges_it() -> None:
    halves = [
        pb.BoundaryMessage(kind=pb.ACTIVATION, table=pb.Table(tensors=[spec], nbytes=nbytes))
        for spec, nbytes in ((generated_table(TABLE).tensors[0], 0), (generated_table(TABLE).tensors[1], 36))
    ]
    twice = b"".join(half.SerializeToString() for half in halves)
    twice += pb.BoundaryMessage(data=bytes(36)).SerializeToString()
    assert decode_boundary(twice).table == Table(TABLE.tensors[:2], 36)


def test_a_table_too_large_to_be_remembered_is_read_as_any_other() -> None:
    table = lay_out([(f"a tensor with a long name, number {i}", "float32", (), "buffer") for i in range(400)])
    message = BoundaryMessage(BoundaryKind.GRADIENT, 1, table=table, data=bytes(table.nbytes))
    encoded = encode_boundary(message)
    assert len(encoded) - table.nbytes > codec.MOST_REMEMBERED_BYTES
    assert plain(decode_boundary(encoded)) == message


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_comes_back_as_it_was_sent(kind: type) -> None:
    @settings(max_examples=20)
    @given(instances(kind))
    def comes_back(message: Any) -> None:
        assert decoder(kind)(encode(message)) == message

    comes_back()


def test_every_method_of_the_protos_has_its_path() -> None:
    assert {method.path for method in METHODS} == {
        f"/{service.full_name}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


# --- payloads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"abc",
        bytearray(b"abc"),
        memoryview(b"abc"),
        np.arange(3, dtype=np.float32).data,
        memoryview(b"xabcx")[1:4],
    ],
)
def test_a_payload_may_be_any_buffer(payload: Any) -> None:
    encoded = encode_frame(Frame(None, 0, payload))
    assert encoded == pb.Frame(data=bytes(payload)).SerializeToString()
    assert bytes(decode_frame(encoded).data) == bytes(payload)


def test_a_payload_is_a_view_of_what_was_received() -> None:
    encoded = encode_frame(Frame(None, 0, bytes(1 << 16)))
    data = decode_frame(encoded).data
    assert isinstance(data, memoryview)
    assert data.obj is encoded


@pytest.mark.parametrize("nbytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
def test_a_buffer_as_frames_is_whole_in_order_and_in_chunks_of_bounded_size(nbytes: int) -> None:
    buffer = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    cut = list(frames(Header("1/weights", Operation.VALUE), buffer.data))
    assert [frame.header is not None for frame in cut] == [True] + [False] * (len(cut) - 1)
    assert [frame.offset for frame in cut] == [i * CHUNK_BYTES for i in range(len(cut))]
    assert all(len(frame.data) <= CHUNK_BYTES for frame in cut)
    assert b"".join(frame.data for frame in cut) == buffer.tobytes()


# --- bytes from outside -----------------------------------------------------------------------------------


@settings(max_examples=500)
@given(st.binary(max_size=64), st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True))
def test_arbitrary_bytes_are_split_or_malformed(message: bytes, wanted: list[int]) -> None:
    try:
        small, found = split_fields(message, tuple(wanted))
    except MalformedError:
        return
    assert set(found) <= set(wanted)
    heads = sum(
        len(field_head(field, len(view))) + len(view) for field, views in found.items() for view in views
    )
    # A length may be written longer than need be.
    assert len(small) + heads <= len(message)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 2**70)), max_size=8), st.data()
)
def test_what_looks_like_fields_is_read_as_protobuf_reads_it_or_malformed(
    fields: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    encoded = b"".join(varint(number << 3 | kind) + varint(value) for number, kind, value in fields)
    encoded += data.draw(st.binary(max_size=8))
    try:
        ours = decode_frame(encoded)
    except MalformedError:
        return
    theirs = pb.Frame.FromString(encoded)
    assert (ours.offset, bytes(ours.data)) == (theirs.offset, theirs.data)


TABLE = lay_out(
    [
        ("weight", "float32", (3, 2), "parameter"),
        ("mean", "float32", (3,), "buffer"),
        ("count", "int64", (), "buffer"),
    ]
)
BOUNDARY_TABLE = lay_out([("tensor", "int8", (3, 2), "buffer"), ("tensor.scale", "float32", (3,), "buffer")])
FRAME = encode_frame(
    Frame(Header("2/weights", Operation.UPDATE, 7, 3, 9, 100, TABLE), 0, bytes(range(TABLE.nbytes)))
)
BOUNDARY = encode_boundary(
    BoundaryMessage(
        BoundaryKind.ACTIVATION, 2, 0, 5, 3, 7, BOUNDARY_TABLE, bytes(range(BOUNDARY_TABLE.nbytes))
    )
)

SYNTHESIS = encode_synthesis(
    SynthesisMessage(SynthesisKind.LEARN, "input", 2, 5, 10, 1.5, [3], TABLE, bytes(range(TABLE.nbytes)))
)
WITH_PAYLOAD = [(decode_frame, FRAME), (decode_boundary, BOUNDARY), (decode_synthesis, SYNTHESIS)]


@pytest.mark.parametrize(("decode", "encoded"), WITH_PAYLOAD)
def test_every_truncation_of_a_message_is_read_or_refused(decode: Any, encoded: bytes) -> None:
    for length in range(len(encoded)):
        try:
            decode(encoded[:length])
        except (MalformedError, TooLargeError):
            continue


@pytest.mark.parametrize(("decode", "encoded"), WITH_PAYLOAD)
def test_thousands_of_mutations_of_a_message_are_read_or_refused(decode: Any, encoded: bytes) -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(4000):
        mutated = bytearray(encoded)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutated))
            what = rng.randrange(4)
            if what == 0:
                mutated[at] = rng.randrange(256)
            elif what == 1:
                mutated[at] ^= 1 << rng.randrange(8)
            elif what == 2:
                del mutated[at : at + rng.randint(1, 8)]
            else:
                mutated[at:at] = rng.randbytes(rng.randint(1, 8))
        try:
            decode(bytes(mutated))
        except (MalformedError, TooLargeError):
            refused += 1
    assert 0 < refused < 4000


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_arbitrary_bytes_are_a_message_or_malformed(kind: type) -> None:
    decode: Any = decoder(kind)
    rng = random.Random(1)
    for _ in range(200):
        try:
            decode(rng.randbytes(rng.randint(1, 24)))
        except MalformedError:
            continue


def refusal(encoded: bytes, decode: Any = decode_frame) -> LayerwiseError:
    with pytest.raises(LayerwiseError) as caught:
        decode(encoded)
    return caught.value


def test_a_length_that_lies_takes_no_memory() -> None:
    for length in (5, 2**31, 2**63, 2**70):
        assert isinstance(refusal(varint(3 << 3 | 2) + varint(length) + b"abc"), MalformedError)


def test_a_number_that_never_ends_is_malformed() -> None:
    assert isinstance(refusal(b"\x10" + b"\xff" * 40), MalformedError)


def test_a_message_of_nothing_but_small_fields_is_refused_before_they_are_read() -> None:
    assert isinstance(refusal(b"\x10\x01" * (bounds.MOST_FIELDS + 1)), MalformedError)
    assert isinstance(refusal(b"\x1a\x00" * (bounds.MOST_FIELDS + 1)), MalformedError)
    header = b"\x0a" + varint(bounds.MOST_SMALL_BYTES) + bytes(bounds.MOST_SMALL_BYTES)
    assert isinstance(refusal(header), TooLargeError)


def test_text_that_is_not_utf_8_is_malformed() -> None:
    assert isinstance(refusal(b"\x0a\x02\xff\xfe", decoder(messages.JoinRequest)), MalformedError)


def test_a_kind_that_we_do_not_know_is_malformed() -> None:
    assert isinstance(refusal(b"\x08\x63", decode_boundary), MalformedError)


def test_an_operation_that_we_do_not_know_is_malformed() -> None:
    assert isinstance(refusal(pb.Frame(header=pb.Header(operation=9)).SerializeToString()), MalformedError)  # type: ignore[arg-type]


def test_tensors_of_another_size_than_their_table_says_are_malformed() -> None:
    for nbytes in (0, BOUNDARY_TABLE.nbytes - 1, BOUNDARY_TABLE.nbytes + 1):
        encoded = encode_boundary(
            BoundaryMessage(BoundaryKind.ACTIVATION, 2, table=BOUNDARY_TABLE, data=bytes(nbytes))
        )
        assert isinstance(refusal(encoded, decode_boundary), MalformedError)


@pytest.mark.parametrize("dtype", sorted(ITEMSIZES | BOUNDARY_ITEMSIZES))
def test_each_message_has_its_own_dtypes(dtype: str) -> None:
    table = lay_out([("tensor", dtype, (2, 3), "buffer")])
    data = bytes(table.nbytes)
    between = encode_boundary(BoundaryMessage(BoundaryKind.GRADIENT, 1, table=table, data=data))
    asked = encode_synthesis(SynthesisMessage(SynthesisKind.ASK, table=table, data=data))
    for encoded, decode, allowed in (
        (between, decode_boundary, BOUNDARY_ITEMSIZES),
        (asked, decode_synthesis, ITEMSIZES),
    ):
        if dtype in allowed:
            assert decode(encoded).table == table
        else:
            assert isinstance(refusal(encoded, decode), MalformedError)
    if dtype not in ITEMSIZES:
        with pytest.raises(MalformedError, match=dtype):
            check_table(table)


def changed(index: int, **what: Any) -> Table:
    tensors = list(TABLE.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **what)
    return Table(tuple(tensors), TABLE.nbytes)


@pytest.mark.parametrize(
    "table",
    [
        changed(0, dtype="float16"),
        changed(0, dtype="object"),
        changed(0, dtype=""),
        changed(0, dtype="float64"),
        changed(0, kind="secret"),
        changed(0, kind="frozen"),
        changed(1, kind="frozen"),
        changed(0, shape=(3, 3)),
        changed(0, shape=(2**63, 2**63)),
        changed(1, offset=0),
        changed(1, offset=20),
        changed(1, offset=32),
        changed(1, offset=2**63),
        Table(TABLE.tensors, TABLE.nbytes + 1),
        Table(TABLE.tensors, 0),
        Table((), 8),
        Table(TABLE.tensors[::-1], TABLE.nbytes),
        Table((*TABLE.tensors, TABLE.tensors[0]), TABLE.nbytes),
    ],
    ids=repr,
)
def test_a_table_that_is_not_laid_out_as_ours_is_malformed(table: Table) -> None:
    with pytest.raises(MalformedError):
        check_table(table)


def test_a_table_with_two_tensors_of_one_name_is_malformed() -> None:
    twins = lay_out([("w", "float32", (2,), "parameter"), ("w", "float32", (2,), "parameter")])
    with pytest.raises(MalformedError, match="twice"):
        check_table(twins)


@given(TABLES)
def test_a_table_laid_out_here_comes_back_over_the_wire_and_is_accepted(table: Table) -> None:
    back = decode_frame(encode_frame(Frame(Header("1/weights", Operation.CREATE, table=table)))).header
    assert back is not None
    assert back.table == table
    assert all(isinstance(spec, TensorSpec) for spec in back.table.tensors)
    check_table(back.table)
