"""A user's own network: a function in a file, `network.model = "path/to/file.py:function"`.

Parameters of the function named `input_shape` and `classes` are filled in from the data; `network.options`
are its other keyword arguments. It returns an `nn.Sequential` or a list of modules, which are the units. It
draws random numbers from torch alone, whose generator is seeded by the run.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

from torch import nn

from common.config.network import NetworkConfig
from common.config.user_code import load_user_function, told
from common.errors import ConfigError


def build(
    network: NetworkConfig, input_shape: tuple[int, ...], classes: int, code: Path | None
) -> list[nn.Module]:
    """The units that the user's function returns.

    Args:
        network: names the function and its options.
        input_shape: of one example.
        classes: how many labels the data has.
        code: folder where the file is looked for by its bare name first.

    Raises:
        ConfigError: no such function, it raises, or what it returns is no network.
    """
    where = f"network.model: {network.model}"
    function = load_user_function(network.model, code)
    data = {"input_shape": input_shape, "classes": classes}
    try:
        named = inspect.signature(function).parameters
        units = function(**{name: data[name] for name in data if name in named}, **network.options)
    except Exception as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        raise ConfigError(
            f"{where}: {told(error, file)}; correct it, or its keyword arguments, which are network.options"
        ) from error
    if not isinstance(units, nn.Sequential | list | tuple) or not all(
        isinstance(u, nn.Module) for u in units
    ):
        raise ConfigError(
            f"{where}: returns {shown(units)}; return an nn.Sequential or a list of modules, one a unit"
        )
    if len(units) == 0:
        raise ConfigError(f"{where}: returns no unit; return at least one module")
    return list(units)


def shown(value: object) -> str:
    """A module or a user's value in one short line."""
    return textwrap.shorten(repr(value), 120, placeholder=" ...")
