"""Description of errors of a layer's units in training."""

from __future__ import annotations

import traceback
from types import TracebackType

from torch import nn

from common.config.user_code import find_user_line, format_error
from common.models.flow import list_units
from common.models.user import describe as describe_unit


def describe_unit_error(error: BaseException, module: nn.Module, first_unit: int) -> str:
    """Describe an error in one line: the unit, type and text of the error, and the line of a user's file.

    Args:
        error: raised while the layer computed.
        module: the layer's units.
        first_unit: number in the network of the layer's first unit, from 1.
    """
    text = f"{format_error(error)} ({find_user_line(error) or _innermost(error)})"
    for number, unit in enumerate(list_units(module), first_unit):
        if _passes_through(error.__traceback__, unit):
            return f"unit {number} ({describe_unit(unit)}) raised {text}"
    return text


def _innermost(error: BaseException) -> str:
    """Return FILE:LINE of the innermost call."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _passes_through(trace: TracebackType | None, unit: nn.Module) -> bool:
    """Whether a method of the unit was under way."""
    while trace is not None:
        if trace.tb_frame.f_locals.get("self") is unit:
            return True
        trace = trace.tb_next
    return False
