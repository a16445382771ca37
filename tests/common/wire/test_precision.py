"""common.wire.precision: what is left of a tensor that travelled in fewer bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.errors import MalformedError
from common.shards.table import WIRE_ITEMSIZES
from common.signals.forms import TensorForm
from common.wire.precision import LARGEST, narrow, nbytes, round_trip, scale_shape, widen

WIRES = sorted(WIRE_ITEMSIZES)
SCALED = ["float16", "int8"]
# Float32's smallest normal number: under it there is no relative error to speak of.
TINY = 2.0**-126
NUMBERS = st.floats(-LARGEST, LARGEST, width=32) | st.floats(-1, 1, width=32) | st.just(0.0)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Rows of any magnitudes: zeros, subnormal and huge ones."""
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    numbers = draw(st.lists(NUMBERS, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(numbers, dtype=torch.float32).view(rows, columns)


def error(tensor: Tensor, wire: str) -> Tensor:
    """In float64, in which nothing here is rounded."""
    return (round_trip(tensor, wire).double() - tensor.double()).abs()


@given(tensors(), st.sampled_from(WIRES))
def test_what_is_finite_stays_so_and_keeps_its_shape(tensor: Tensor, wire: str) -> None:
    back = round_trip(tensor, wire)
    assert (back.shape, back.dtype) == (tensor.shape, torch.float32)
    assert back.isfinite().all()
    assert (back[tensor == 0] == 0).all()


@given(tensors())
def test_float32_is_the_tensor_itself(tensor: Tensor) -> None:
    assert round_trip(tensor, "float32") is tensor


@given(tensors())
def test_bfloat16_keeps_eight_bits(tensor: Tensor) -> None:
    assert (error(tensor, "bfloat16") <= tensor.double().abs() * 2.0**-8 + TINY * 2.0**-8).all()


@given(tensors().filter(lambda tensor: tensor.numel() > 0))
def test_float16_keeps_eleven_bits_of_whatever_is_not_far_smaller_than_the_largest(tensor: Tensor) -> None:
    largest = tensor.double().abs().max()
    bound = torch.maximum(tensor.double().abs() * 2.0**-11, largest * 2.0**-39)
    assert (error(tensor, "float16") <= bound + TINY * 2.0**-23).all()


@given(tensors().filter(lambda tensor: tensor.numel() > 0))
def test_int8_is_off_by_half_a_code_of_its_own_row(tensor: Tensor) -> None:
    code = tensor.double().abs().amax(1, keepdim=True) / 127
    assert (error(tensor, "int8") <= code * 0.5001 + TINY / 2).all()


@pytest.mark.parametrize("exponent", [-140, -60, -20, 0, 40, 120])
def test_float16_and_int8_know_no_magnitude(exponent: int) -> None:
    """Up to a power of two, a tensor is rounded alike: no delta is too small, no activation too large."""
    tensor = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    if exponent < -100:
        tensor = tensor.sign()
    for wire in SCALED:
        there = torch.ldexp(tensor.double(), torch.tensor(exponent)).float()
        expected = torch.ldexp(round_trip(tensor, wire).double(), torch.tensor(exponent)).float()
        allowed = 2.0**-127 if exponent < -100 else 0.0
        torch.testing.assert_close(round_trip(there, wire), expected, rtol=1e-6, atol=allowed)


def test_one_example_of_large_deltas_takes_nothing_from_the_others() -> None:
    tensor = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    scaled = tensor * torch.tensor([1e-6, 1.0, 1e6, 1e-12])[:, None]
    off = (round_trip(scaled, "int8") - scaled).norm(dim=1) / scaled.norm(dim=1)
    assert (off < 0.01).all()


@pytest.mark.parametrize("wire", SCALED)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_no_scale_can_be_for_goes_as_it_is(wire: str, number: float) -> None:
    tensor = torch.ones(3, 4)
    tensor[2, 1] = number
    values, scale = narrow(tensor, wire)
    assert values is tensor
    assert scale is None


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3, 3), (5,)])
def test_a_tensor_has_the_bytes_that_are_counted(wire: str, shape: tuple[int, ...]) -> None:
    values, scale = narrow(torch.rand(shape), wire)
    assert (None if scale is None else tuple(scale.shape)) == scale_shape(wire, shape)
    assert values.nbytes + (0 if scale is None else scale.nbytes) == nbytes(
        TensorForm(shape[1:]), shape[0], wire
    )


@pytest.mark.parametrize("wire", WIRES)
def test_feature_maps_in_any_order_of_memory_are_rounded_alike(wire: str) -> None:
    tensor = torch.randn(3, 4, 5, 6)
    other = tensor.to(memory_format=torch.channels_last)
    assert torch.equal(round_trip(other, wire), round_trip(tensor, wire))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_malformed(number: float) -> None:
    with pytest.raises(MalformedError, match="finite"):
        widen(torch.ones(2, 3, dtype=torch.int8), torch.tensor([1.0, number]))
