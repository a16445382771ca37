"""common.wire.signals: named tensors on the wire."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.errors import MalformedError
from common.shards.table import lay_out
from common.signals.forms import SignalForm
from common.signals.values import Signal, form_of, split
from common.wire.boundary import Down, Message, Up
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import decode_boundary, encode_boundary
from common.wire.precision import signal_nbytes
from common.wire.signals import from_wire, to_wire

INTEGERS = {
    "mask": torch.tensor([[True, False, True]]),
    "tokens": torch.tensor([[2**40, -1]]),
    "small": torch.tensor([[-5]], dtype=torch.int32),
    "bytes": torch.tensor([[255, 0]], dtype=torch.uint8),
}


def passed(message: Message, wire: str = "float32") -> Message:
    return from_wire(decode_boundary(encode_boundary(to_wire(message, wire))))


@pytest.mark.parametrize("wire", ["float32", "bfloat16", "float16", "int8"])
def test_floats_are_rounded_by_name_and_integers_travel_unchanged(wire: str) -> None:
    floats = {"h": torch.randn(1, 4), "skip": 1000 * torch.randn(1, 2, 3)}
    arrived = passed(Up(3, {**floats, **INTEGERS}, layer=2), wire)
    assert isinstance(arrived, Up)
    tensors = split(arrived.h)
    assert tensors.keys() == floats.keys() | INTEGERS.keys()
    for name, tensor in INTEGERS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    for name, tensor in floats.items():
        assert tensors[name].dtype == torch.float32
        assert torch.allclose(tensors[name], tensor, rtol=0.02, atol=0.01 * float(tensor.abs().max()))


def test_a_gradient_beside_its_input_keeps_both_apart() -> None:
    delta: Signal = {"h": torch.ones(1, 2), "skip": torch.zeros(1, 1)}
    u: Signal = {"h": torch.full((1, 2), 3.0), "skip": torch.ones(1, 1)}
    arrived = passed(Down(0, delta, u, layer=1), "int8")
    assert isinstance(arrived, Down)
    assert arrived.u is not None
    for came, sent in ((arrived.delta, delta), (arrived.u, u)):
        assert {name: each.tolist() for name, each in split(came).items()} == {
            name: each.tolist() for name, each in split(sent).items()
        }


def test_a_tensor_may_be_called_scale() -> None:
    given: Signal = {"scale": torch.randn(1, 3), "h": torch.randn(1, 3)}
    arrived = passed(Up(0, given, layer=2), "int8")
    assert isinstance(arrived, Up)
    assert split(arrived.h).keys() == {"scale", "h"}


@pytest.mark.parametrize("wire", ["float32", "float16", "int8"])
def test_counted_bytes_are_those_of_the_encoding_but_for_gaps(wire: str) -> None:
    given: Signal = {"h": torch.randn(8, 6), **{name: each.expand(8, -1) for name, each in INTEGERS.items()}}
    encoded = to_wire(Up(0, given, layer=2), wire)
    counted = signal_nbytes(form_of(given), 8, wire)
    assert sum(spec.nbytes for spec in encoded.table.tensors) == counted


def message(*specs: tuple[str, str, tuple[int, ...]], data: bytes | None = None) -> BoundaryMessage:
    table = lay_out((*spec, "buffer") for spec in specs)
    return BoundaryMessage(BoundaryKind.ACTIVATION, 2, table=table, data=data or bytes(table.nbytes))


@pytest.mark.parametrize(
    "specs",
    [
        [("tensor", "float32", (1, 2)), ("tensor/mask", "bool", (1, 2))],
        [("tensor/2", "float32", (1, 2))],
        [("tensor/", "float32", (1, 2))],
        [("tensor/a/b", "float32", (1, 2))],
        [("input/h", "float32", (1, 2))],
        [("mask", "bool", (1, 2)), ("tensor/h", "float32", (1, 2))],
        [("tensor/h", "float32", (1, 2)), ("tensor/h.scale", "float32", (1,))],
        [("tensor/h", "int8", (1, 2))],
        [("tensor/mask", "bool", (1, 2)), ("tensor/mask.scale", "float32", ())],
        [("tensor/h", "float64", (1, 2))],
    ],
    ids=str,
)
def test_tables_of_no_signal_are_refused(specs: list[tuple[str, str, tuple[int, ...]]]) -> None:
    with pytest.raises(MalformedError, match=r"ACTIVATION has the tensors .* named tensors of each"):
        from_wire(message(*specs))


def test_a_bool_has_two_values() -> None:
    with pytest.raises(MalformedError, match="bytes other than 0 and 1 in tensor/mask"):
        from_wire(
            message(
                ("tensor/h", "float32", (1,)), ("tensor/mask", "bool", (2,)), data=bytes([0] * 8 + [1, 2])
            )
        )
    (empty,) = split(from_wire(message(("tensor/mask", "bool", (0, 2)))).carried()["h"]).values()
    assert empty.shape == (0, 2)


def test_messages_of_plain_signals_are_as_before() -> None:
    tensor: Tensor = torch.randn(2, 3)
    assert [spec.name for spec in to_wire(Up(0, tensor, layer=2)).table.tensors] == ["tensor"]
    assert SignalForm.plain((3,)) == form_of(tensor)
