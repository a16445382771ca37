"""common.wire.signals: messages between layers as bytes and back."""

from __future__ import annotations

import dataclasses
import struct
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedError
from common.shards.table import WIRE_ITEMSIZES, lay_out
from common.signals.forms import TensorForm
from common.signals.values import plain
from common.wire import precision
from common.wire.boundary import MESSAGES, Down, Message, Up
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import decode_boundary, encode_boundary
from common.wire.signals import from_wire, to_wire

SHAPES = st.one_of(
    st.tuples(st.integers(1, 8), st.integers(0, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)
NARROW = sorted(set(WIRE_ITEMSIZES) - {"float32"})
Sent = TypeVar("Sent", bound=Message)
TENSORS = tuple(kind for kind, each in MESSAGES.items() if each.signals)
BARE = tuple(kind for kind, each in MESSAGES.items() if not each.signals)


def up(tensor: torch.Tensor) -> Up:
    return Up(0, tensor, layer=2, incarnation=1)


def down(tensor: torch.Tensor, u: torch.Tensor | None = None) -> Down:
    return Down(0, tensor, u, layer=2, incarnation=1)


def passed(message: Sent, wire: str = "float32") -> Sent:
    arrived = from_wire(decode_boundary(encode_boundary(to_wire(message, wire))))
    assert type(arrived) is type(message)
    return arrived


@given(st.sampled_from([Up, Down]), SHAPES, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 99))
def test_vectors_and_feature_maps_arrive_bit_for_bit(
    kind: type[Up] | type[Down], shape: tuple[int, ...], batch: int, incarnation: int, seed: int
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    arrived = passed(kind(batch, tensor, layer=3, incarnation=incarnation, replica=4, sender=5))
    assert (arrived.layer, arrived.batch, arrived.incarnation) == (3, batch, incarnation)
    assert (arrived.replica, arrived.sender) == (4, 5)
    (came,) = map(plain, arrived.carried().values())
    assert came.dtype == torch.float32
    assert came.shape == tensor.shape
    assert torch.equal(came, tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4).t(),
        torch.arange(24.0).view(2, 3, 4)[:, ::2],
        torch.arange(3.0).view(3, 1, 1).expand(3, 4, 5),
        torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    ],
    ids=["transposed", "strided", "expanded", "channels last"],
)
def test_a_tensor_that_is_not_contiguous_arrives_as_it_reads(tensor: torch.Tensor) -> None:
    assert torch.equal(plain(passed(up(tensor)).h), tensor)


def test_a_gradient_arrives_with_the_input_that_it_was_taken_at() -> None:
    delta, u = torch.rand(3, 5), torch.rand(5, 3).t()
    arrived = passed(down(delta, u))
    assert arrived.u is not None
    assert torch.equal(plain(arrived.delta), delta)
    assert torch.equal(plain(arrived.u), u)


@given(st.sampled_from(NARROW), SHAPES, st.booleans(), st.integers(0, 99))
def test_what_travels_narrow_arrives_as_it_was_rounded(
    wire: str, shape: tuple[int, ...], with_input: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    delta, u = (torch.randn(shape, generator=generator) for _ in range(2))
    arrived = passed(down(delta, u if with_input else None), wire)
    assert plain(arrived.delta).dtype == torch.float32
    assert torch.equal(plain(arrived.delta), precision.round_trip(delta, wire))
    assert (arrived.u is not None) == with_input
    if arrived.u is not None:
        assert torch.equal(plain(arrived.u), precision.round_trip(u, wire))


@pytest.mark.parametrize("wire", NARROW)
def test_what_is_sent_again_is_the_same_bytes(wire: str) -> None:
    message = down(torch.randn(4, 9))
    assert encode_boundary(to_wire(message, wire)) == encode_boundary(to_wire(message, wire))


@pytest.mark.parametrize("wire", NARROW)
def test_a_message_is_as_large_as_its_dtype_says(wire: str) -> None:
    sent = to_wire(up(torch.randn(64, 256)), wire)
    assert (
        len(sent.data) <= precision.nbytes(TensorForm((256,)), 64, wire) + 4
    )  # between the scale and what it is of
    assert len(encode_boundary(sent)) < 64 * 256 * 4 / (3.8 if wire == "int8" else 1.9)


@pytest.mark.parametrize("wire", NARROW)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_arrives(wire: str, number: float) -> None:
    tensor = torch.ones(3, 4)
    tensor[1, 2] = number
    torch.testing.assert_close(passed(up(tensor), wire).h, tensor, rtol=0, atol=0, equal_nan=True)


def test_special_numbers_arrive_as_they_are() -> None:
    tensor = torch.tensor([[float("inf"), -0.0, 1e-42, float("nan")]])
    arrived = plain(passed(down(tensor)).delta)
    assert torch.equal(arrived.view(torch.int32), tensor.view(torch.int32))


def test_what_arrives_is_memory_of_its_own() -> None:
    encoded = encode_boundary(to_wire(up(torch.zeros(2, 2))))
    first, again = (plain(from_wire(decode_boundary(encoded)).carried()["h"]) for _ in range(2))
    first.add_(1)
    assert again.count_nonzero() == 0


@pytest.mark.parametrize("kind", BARE)
def test_a_message_without_a_tensor_arrives_without_one(kind: BoundaryKind) -> None:
    message = passed(MESSAGES[kind](17, layer=4, incarnation=5))
    assert (message.kind, message.layer, message.batch, message.incarnation) == (kind, 4, 17, 5)
    assert not message.carried()


@pytest.mark.parametrize("kind", sorted(set(BoundaryKind) - set(MESSAGES)))
def test_a_kind_that_no_layer_sends_is_refused(kind: BoundaryKind) -> None:
    with pytest.raises(MalformedError, match=f"{kind.name} is no message between layers"):
        from_wire(BoundaryMessage(kind, 2))


def wrong(kind: BoundaryKind, *tensors: tuple[str, str, tuple[int, ...]]) -> BoundaryMessage:
    table = lay_out([(name, dtype, shape, "buffer") for name, dtype, shape in tensors])
    return BoundaryMessage(kind, 2, table=table, data=bytes(table.nbytes))


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [("tensor", "float64", (2, 2))],
        [("tensor", "int32", (2, 2))],
        [("one", "float32", (2,)), ("two", "float32", (2,))],
        [("input", "float32", (2, 2))],
        [("tensor", "int8", (2, 2))],
        [("tensor", "float16", (2, 2))],
        [("tensor", "int8", (2, 2)), ("tensor.scale", "float32", ())],
        [("tensor", "int8", (2, 2)), ("tensor.scale", "float32", (2, 2))],
        [("tensor", "int8", (2, 2)), ("tensor.scale", "float16", (2,))],
        [("tensor", "int8", (2, 2)), ("input.scale", "float32", (2,))],
        [("tensor", "float16", (2, 2)), ("tensor.scale", "float32", (2,))],
        [("tensor", "bfloat16", (2, 2)), ("tensor.scale", "float32", ())],
        [("tensor", "float32", (2, 2)), ("tensor.scale", "float32", ())],
    ],
    ids=[
        "none",
        "of doubles",
        "of integers",
        "two",
        "an input alone",
        "of codes without a scale",
        "of halves without a scale",
        "of codes with one scale",
        "of codes with a scale for each",
        "of codes with narrow scales",
        "of codes with another's scale",
        "of halves with scales",
        "of bfloat16 with a scale",
        "of floats with a scale",
    ],
)
def test_an_activation_or_gradient_with_other_than_one_tensor_of_floats_is_refused(
    kind: BoundaryKind, tensors: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    with pytest.raises(MalformedError):
        from_wire(wrong(kind, *tensors))


@pytest.mark.parametrize("wire", ["float16", "int8"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_scale_that_is_not_finite_is_refused(wire: str, number: float) -> None:
    sent = to_wire(down(torch.ones(2, 3)), wire)
    scale = next(spec for spec in sent.table.tensors if spec.name == "tensor.scale")
    data = bytearray(sent.data)
    data[scale.offset : scale.offset + 4] = struct.pack("<f", number)
    with pytest.raises(MalformedError, match="scale"):
        from_wire(decode_boundary(encode_boundary(dataclasses.replace(sent, data=data))))
