"""Signals as tensors: a tensor, or a dict of tensors by name.

Float tensors carry gradients; integer and boolean tensors travel unchanged. Dimension 0 is the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from common.signals.forms import PLAIN, SignalForm, TensorForm

if TYPE_CHECKING:
    from torch import Tensor

# Named in quotes: messages are described in processes that load no torch.
Signal: TypeAlias = "Tensor | dict[str, Tensor]"


def split(signal: Signal) -> dict[str, Tensor]:
    """Return the tensors by name; the tensor of a plain signal under `PLAIN`."""
    return signal if isinstance(signal, dict) else {PLAIN: signal}


def join(tensors: Mapping[str, Tensor]) -> Signal:
    """Return the signal of tensors by name: the inverse of `split`."""
    return tensors[PLAIN] if PLAIN in tensors else dict(tensors)


def arrange(signal: Signal, form: SignalForm) -> Signal:
    """Return the tensors of a form in the form's order: a unit may join all values of its dict."""
    tensors = split(signal)
    return join({name: tensors[name] for name in form.tensors})


def plain(signal: Signal) -> Tensor:
    """Return the tensor of a plain signal, (B, ...)."""
    assert not isinstance(signal, dict), signal.keys()
    return signal


def map_tensors(function: Callable[[Tensor], Tensor], signal: Signal) -> Signal:
    """Return the signal with a function applied to each tensor."""
    if isinstance(signal, dict):
        return {name: function(tensor) for name, tensor in signal.items()}
    return function(signal)


def map_floats(function: Callable[[Tensor], Tensor], signal: Signal) -> Signal:
    """Return the signal with a function applied to each float tensor."""
    return map_tensors(lambda each: function(each) if each.is_floating_point() else each, signal)


def floats(signal: Signal) -> Signal:
    """Return the float tensors of a signal."""
    if isinstance(signal, dict):
        return {name: tensor for name, tensor in signal.items() if tensor.is_floating_point()}
    return signal


def count(signal: Signal) -> int:
    """Return B, the number of examples."""
    return len(next(iter(split(signal).values())))


def form_of(signal: Signal) -> SignalForm:
    """Return the form of one example of a batch."""
    return SignalForm({name: _form_of(tensor) for name, tensor in split(signal).items()})


def _form_of(tensor: Tensor) -> TensorForm:
    return TensorForm(tuple(tensor.shape[1:]), name_dtype(tensor))


def name_dtype(tensor: Tensor) -> str:
    """Return the name of the dtype, "float32", of a tensor of any shape."""
    return str(tensor.dtype).removeprefix("torch.")


def offer(signal: Signal) -> Signal:
    """Return a signal for a unit, which may put tensors of its own into the dict."""
    return dict(signal) if isinstance(signal, dict) else signal


def is_finite(signal: Signal) -> bool:
    """Whether every number of every float tensor is finite."""
    return all(_is_finite(tensor) for tensor in split(signal).values() if tensor.is_floating_point())


def _is_finite(tensor: Tensor) -> bool:
    # The sum decides nearly always, in one pass without memory; only a sum of finite numbers may overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
