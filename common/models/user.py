"""Network of a user: a function in a file, `network.model = "path/to/file.py:function"`.

Parameters named `input_shape` and `outputs` (or `classes`) take their values from data and task;
`network.options` are the further keyword arguments. The function returns an `nn.Sequential` or a list of
modules, the units. A unit takes and returns a tensor, or a dict of tensors by name. Random numbers must come
from torch, whose generator the run seeds.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import Any

from torch import nn

from common.config.network import NetworkConfig
from common.config.user_code import format_error, keep_folder, load_user_function
from common.data.pointers import find_pointer
from common.errors import ConfigError
from common.signals.forms import SignalForm

# Characters of a description of a unit, or of a value that is none.
MOST_SHOWN = 80


def build(network: NetworkConfig, inputs: SignalForm, outputs: int, code: Path | None) -> list[nn.Module]:
    """Call the user's function and return the units.

    Args:
        network: names the function and its options.
        inputs: form of x; `input_shape` is the shape of an example, or a dict of shapes by name.
        outputs: number of outputs of the task, such as the classes of the data.
        code: folder in which the file is searched first, by its bare name.

    Raises:
        ConfigError: the function is missing, raises, or returns no network.
    """
    where = f"network.model: {network.model}"
    function = load_user_function(network.model, code)
    shapes = {name: form.shape for name, form in inputs.tensors.items()}
    shape = inputs.only.shape if inputs.is_plain else shapes
    data: dict[str, Any] = {"input_shape": shape, "outputs": outputs, "classes": outputs}
    try:
        named = inspect.signature(function).parameters
        with keep_folder():
            units = function(**{name: data[name] for name in data if name in named}, **network.options)
    except (Exception, SystemExit) as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        advice = find_pointer(error) or "correct the function, or network.options, its keyword arguments"
        raise ConfigError(f"{where}: {format_error(error, file)}; {advice}") from error
    if not isinstance(units, nn.Sequential | list | tuple) or not all(
        isinstance(u, nn.Module) for u in units
    ):
        raise ConfigError(
            f"{where}: returns {textwrap.shorten(repr(units), MOST_SHOWN)}; "
            "return an nn.Sequential or a list of modules, one for each unit"
        )
    if len(units) == 0:
        raise ConfigError(f"{where}: returns no unit; return at least one module")
    return list(units)


def describe(unit: nn.Module) -> str:
    """Describe a unit in one short line: the class with its numbers, or with the classes of its parts."""
    parts = [type(part).__name__ for part in unit.children()]
    text = f"{type(unit).__name__}({', '.join(parts)})" if parts else repr(unit)
    return textwrap.shorten(text, MOST_SHOWN, placeholder=" ...")
