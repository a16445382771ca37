"""Flow of signals through units: the form after every unit, and checks of the first passage."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from common.config.user_code import format_error
from common.errors import ConfigError
from common.models import user
from common.signals.forms import FLOAT, ITEMSIZES, MOST_SHOWN, PLAIN, SignalForm, is_name
from common.signals.values import Signal, form_of, name_dtype, offer, split

# Tensors of a signal; twice as many with scales, and gradients beside inputs, are within a message's bound.
MOST_TENSORS = 64


@torch.no_grad()
def find_forms(units: Sequence[nn.Module], inputs: SignalForm, where: str) -> list[SignalForm]:
    """Return the forms of the signals after the units, by passing two examples of zeros through.

    Args:
        units: of the network.
        inputs: form of x.
        where: name of the network, for a refusal.

    Raises:
        ConfigError: a unit fails, changes its input, or gives no signal; names the unit.
    """
    h, forms = inputs.blank(2), [inputs]
    for number, unit in enumerate(units, 1):
        place = f"{where}: unit {number} ({user.describe(unit)})"
        before = versions(h)
        try:
            result = unit.eval()(offer(h))
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{place} {_explain(error, forms, units)}") from error
        finally:
            unit.train()
        if versions(h) != before:
            raise ConfigError(f"{place} {CHANGES_INPUT}")
        h = check_signal(result, 2, place)
        forms.append(form_of(h))
    return forms[1:]


def list_units(layer: nn.Module) -> list[nn.Module]:
    """Return the units of a layer, or of a network, in order; a unit may occur twice, as an activation may.

    `children()` would leave out the second.
    """
    return list(layer._modules.values())  # type: ignore[arg-type]


CHANGES_INPUT = "changes its input in place, which belongs to another unit; use inplace=False"


def versions(signal: Signal) -> list[int]:
    """Return the number of changes of each tensor's memory."""
    return [tensor._version for tensor in split(signal).values()]


def check_signal(result: Any, count: int, place: str) -> Signal:
    """Return what a unit gave, if it is a signal of `count` examples.

    Raises:
        ConfigError: a tensor of other numbers, or a dict with other keys or values than a signal's.
    """
    if isinstance(result, Tensor) and _is_tensor_of(result, count) and name_dtype(result) == FLOAT:
        return result
    if not isinstance(result, dict):
        raise ConfigError(
            f"{place} gives {describe(result)} for {count} examples; it must give float32 ({count}, ...), or "
            "a dict of tensors"
        )
    for name, tensor in result.items():
        if not is_name(name):
            raise ConfigError(
                f"{place} names a tensor {name!r}; give letters, digits and underscores, at most 64"
            )
        if not isinstance(tensor, Tensor) or not _is_tensor_of(tensor, count):
            raise ConfigError(
                f'{place} gives "{name}" as {describe(tensor)} for {count} examples; it must give '
                f"({count}, ...), of {', '.join(ITEMSIZES)}"
            )
    if not any(tensor.is_floating_point() for tensor in result.values()):
        raise ConfigError(
            f"{place} gives {describe(result)}, without floats that carry a gradient; return a float32 "
            "tensor as well"
        )
    if len(result) > MOST_TENSORS:
        raise ConfigError(f"{place} gives {len(result)} tensors; join some: at most {MOST_TENSORS}")
    return result


def has_form(result: Any, form: SignalForm, count: int) -> bool:
    """Whether what a unit gave is a signal of `count` examples in a form."""
    if isinstance(result, dict) == form.is_plain:
        return False
    tensors = result if isinstance(result, dict) else {PLAIN: result}
    return tensors.keys() == form.tensors.keys() and all(
        isinstance(tensors[name], Tensor)
        and name_dtype(tensors[name]) == each.dtype
        and tensors[name].shape == (count, *each.shape)
        for name, each in form.tensors.items()
    )


def describe(value: Any) -> str:
    """Describe what a unit gave."""
    if isinstance(value, Tensor):
        return f"{name_dtype(value)} {tuple(value.shape)}"
    if isinstance(value, dict):
        listed = ", ".join(f"{name}: {describe(each)}" for name, each in value.items())
        return f"{{{shorten(listed, MOST_SHOWN)}}}"
    return f"a {type(value).__name__}"


def _is_tensor_of(tensor: Tensor, count: int) -> bool:
    return name_dtype(tensor) in ITEMSIZES and tensor.shape[:1] == (count,)


def _explain(error: BaseException, forms: Sequence[SignalForm], units: Sequence[nn.Module]) -> str:
    """Explain why a unit failed on the last of the forms: a tensor dropped below, or the unit's error."""
    taken = forms[-1]
    if isinstance(error, KeyError) and error.args and not taken.is_plain and is_name(error.args[0]):
        name = error.args[0]
        holders = [place for place, form in enumerate(forms) if name in form.tensors]
        if holders and name not in taken.tensors:
            dropper = holders[-1] + 1
            return (
                f'needs the tensor "{name}", which unit {dropper} ({user.describe(units[dropper - 1])}) '
                f"drops; return it from there and from every unit between"
            )
        if name not in taken.tensors:
            return f'needs the tensor "{name}", but takes {taken.describe()}; give it from a unit below'
    return f"cannot take {taken.describe()}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """Return the first line of a unit's error, with the kind where the text alone says little."""
    if isinstance(error, SystemExit):
        return format_error(error)
    return next(iter(str(error).splitlines()), "") or type(error).__name__
