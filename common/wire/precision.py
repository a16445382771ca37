"""Encoding of activations and gradients in fewer bits than float32, between two layers.

Integer and boolean tensors of a signal travel unchanged.

Nothing is remembered from one tensor to the next: equal tensors have equal encodings, so a message may be
resent, lost or overtaken (docs/performance.md says why there is no error feedback).

- bfloat16: rounded to the nearest; the range is float32's.
- float16: first multiplied by a power of two that brings the tensor's largest magnitude to [2^14, 2^15). So
  no value overflows, and values within 2^-28 of the largest keep all of float16's 11 bits: deltas are small,
  and many would be subnormal without the scale.
- int8: each row (example) is divided by its largest magnitude / 127 and rounded to the nearest. The deltas of
  examples differ by orders of magnitude; a scale shared by all rows would round small ones to zero.

A tensor with a NaN, an Inf or a magnitude over `LARGEST` travels as float32, so that the receiver detects the
fault. (bfloat16 has NaN and Inf itself; finite magnitudes over 3.39e38 become Inf.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import MalformedError
from common.shards.table import WIRE_ITEMSIZES
from common.signals.forms import SignalForm, TensorForm

# Below this bound neither a scale nor a product with a scale overflows.
LARGEST = 2.0**126
# Float32's smallest normal magnitude, 2^SMALLEST_EXPONENT: scales are not subnormal.
SMALLEST_EXPONENT = -126
_TOP_EXPONENT, _TOP_CODE = 15, 127


def narrow(tensor: Tensor, wire: str) -> tuple[Tensor, Tensor | None]:
    """Encode a tensor for the wire.

    Args:
        tensor: (B, ...) float32, or integers, which stay as they are.
        wire: a key of `WIRE_ITEMSIZES`.

    Returns:
        Values of the tensor's shape, and the scale, of `scale_shape`, that the receiver multiplies them by;
        None if there is no scale. For float32, the tensor itself.
    """
    floating = tensor.is_floating_point() and tensor.numel()
    return PRECISIONS[wire].encode(tensor) if floating else (tensor, None)


def _float32(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    return tensor, None


def _bfloat16(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    return tensor.to(torch.bfloat16), None


def _float16(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    low, high = tensor.aminmax()
    largest = max(-float(low), float(high))
    if not largest <= LARGEST:  # also true for NaN
        return tensor, None
    exponent = max(math.frexp(largest)[1] - _TOP_EXPONENT, SMALLEST_EXPONENT)
    return tensor.mul(2.0**-exponent).to(torch.float16), torch.tensor(2.0**exponent)


def _int8(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    rows = tensor.reshape(len(tensor), -1)
    largest = torch.maximum(rows.amax(1), rows.amin(1).neg_())
    if not float(largest.max()) <= LARGEST:
        return tensor, None
    scale = largest.div_(_TOP_CODE).clamp_min_(2.0**SMALLEST_EXPONENT)
    codes = rows.div(scale[:, None]).round_().to(torch.int8)
    return codes.view(tensor.shape), scale


@dataclass(frozen=True)
class Precision:
    """A dtype of tensors between two layers.

    Attributes:
        encode: function from a tensor to its values in the dtype, and their scale.
        scale_shape: function from a tensor's shape to the shape of its scale; None without a scale.
    """

    encode: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    scale_shape: Callable[[tuple[int, ...]], tuple[int, ...] | None] = lambda _: None


# Rows of `common.config.profiles.WIRES`; the sizes are in `WIRE_ITEMSIZES`.
PRECISIONS = {
    "float32": Precision(_float32),
    "bfloat16": Precision(_bfloat16),
    "float16": Precision(_float16, lambda _: ()),
    "int8": Precision(_int8, lambda shape: shape[:1]),
}


def widen(values: Tensor, scale: Tensor | None) -> Tensor:
    """Decode the result of `narrow`: floats to float32; float32 values and integers are returned unchanged.

    Args:
        values: (B, ...).
        scale: of the shape that `scale_shape` gives for the values; None without a scale.

    Raises:
        MalformedError: the scale is not finite.
    """
    if scale is None:
        return values.float() if values.is_floating_point() else values
    if not scale.isfinite().all():
        raise MalformedError(f"a {values.dtype} tensor came with a scale that is not finite")
    return values.float().mul_(scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim)))


def round_trip(tensor: Tensor, wire: str) -> Tensor:
    """Encode and decode a tensor, (B, ...), as seen by the receiver."""
    return widen(*narrow(tensor, wire))


def scale_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of the float32 scale of a tensor sent as `dtype`, or None without a scale."""
    return PRECISIONS[dtype].scale_shape(shape) if dtype in PRECISIONS else None


def nbytes(form: TensorForm, batch_size: int, wire: str) -> int:
    """Count the bytes of an encoded batch of a tensor, with the scale."""
    if not form.floating:
        return batch_size * form.nbytes
    shape = (batch_size, *form.shape)
    scale = scale_shape(wire, shape)
    scales = 0 if scale is None else WIRE_ITEMSIZES["float32"] * math.prod(scale)
    return WIRE_ITEMSIZES[wire] * math.prod(shape) + scales


def signal_nbytes(form: SignalForm, batch_size: int, wire: str) -> int:
    """Count the bytes of an encoded batch of a signal, with the scales."""
    return sum(nbytes(each, batch_size, wire) for each in form.tensors.values())
