"""Virtual network v of a user: a function in a file, `decoupling.gradient_options.v`.

Parameters named `input_shape`, `output_shape` and `outputs` take the shape of an example's h, that of an
example's output, and its last number. The function returns a new `nn.Module`, which maps h (B, *input_shape)
to (B, *output_shape). Random numbers, of the parameters and in training, must come from torch, whose
generator the run seeds.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from common.config.user_code import format_error, keep_folder, load_user_function
from common.errors import ConfigError
from common.models.user import MOST_SHOWN


class OwnV:
    """Function of a user that builds v; the file runs at the first call.

    Args:
        spec: `path/to/file.py:function`.
        code: folder in which the file is searched first, by its bare name.
    """

    def __init__(self, spec: str, code: Path | None) -> None:
        self._spec = spec
        self._code = code

    @functools.cached_property
    def _function(self) -> Callable[..., Any]:
        return load_user_function(self._spec, self._code)

    def __call__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> nn.Module:
        """Build v for an h of (B, *input_shape).

        Raises:
            ConfigError: the function is missing, raises, or returns no module.
        """
        function = self._function
        given = {"input_shape": input_shape, "output_shape": output_shape, "outputs": output_shape[-1]}
        try:
            named = inspect.signature(function).parameters
            with keep_folder():
                module = function(**{name: value for name, value in given.items() if name in named})
        except (Exception, SystemExit) as error:
            file = getattr(getattr(function, "__code__", None), "co_filename", "")
            raise self._error(
                f"raised {format_error(error, file)} for input_shape = {input_shape} and output_shape = "
                f"{output_shape}; correct the function"
            ) from error
        if not isinstance(module, nn.Module):
            shown = textwrap.shorten(repr(module), MOST_SHOWN)
            raise self._error(f"returns {shown}; return an nn.Module from h to the output")
        return module

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"decoupling.gradient_options.v: {self._spec}: {text}")
