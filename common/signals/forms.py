"""Forms of signals: names, shapes and dtypes of one example. Loads torch only to make tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Name of the tensor of a plain signal.
PLAIN = ""
# Names of tensors: keyword arguments in Python, and free of the characters that the wire's names use.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
FLOAT = "float32"
# Dtypes of tensors without a gradient; int8 is left to floats on the wire.
INTEGERS = {"int64": 8, "int32": 4, "uint8": 1, "bool": 1}
ITEMSIZES = {FLOAT: 4, **INTEGERS}
# Characters of a description of many tensors.
MOST_SHOWN = 500


@dataclass(frozen=True)
class TensorForm:
    """Shape and numbers of a tensor of a signal.

    Attributes:
        shape: of one example: (D,) for vectors, (C, H, W) for images, (T,) for tokens.
        dtype: float32, which carries gradients, or a key of `INTEGERS`.
        vocabulary: number of different values of integers, such as tokens; 0: floats, or unknown.
    """

    shape: tuple[int, ...]
    dtype: str = FLOAT
    vocabulary: int = 0

    @property
    def floating(self) -> bool:
        """Whether the tensor carries gradients."""
        return self.dtype == FLOAT

    @property
    def size(self) -> int:
        """Number of numbers of an example."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of an example."""
        return ITEMSIZES[self.dtype] * self.size

    def blank(self, batch_size: int) -> Tensor:
        """Return a batch of zeros, (B, *shape), on torch's default device."""
        import torch

        return torch.zeros(batch_size, *self.shape, dtype=getattr(torch, self.dtype))

    def describe(self) -> str:
        """Describe a batch: "(B, 8)" for floats, "bool (B, 8)"."""
        shape = f"({', '.join(['B', *map(str, self.shape)])})"
        return shape if self.floating else f"{self.dtype} {shape}"


@dataclass(frozen=True)
class SignalForm:
    """Tensors of a signal by name; the only tensor of a plain signal has the name `PLAIN`."""

    tensors: Mapping[str, TensorForm]

    @staticmethod
    def plain(shape: tuple[int, ...]) -> SignalForm:
        """Return the form of a float tensor."""
        return SignalForm({PLAIN: TensorForm(shape)})

    @property
    def is_plain(self) -> bool:
        """Whether the signal is a tensor, not a dict."""
        return PLAIN in self.tensors

    @property
    def only(self) -> TensorForm:
        """The tensor of a plain signal."""
        return self.tensors[PLAIN]

    @cached_property
    def floats(self) -> SignalForm:
        """Tensors that carry gradients: the form of delta, against which every gradient is checked."""
        return SignalForm({name: form for name, form in self.tensors.items() if form.floating})

    @property
    def nbytes(self) -> int:
        """Bytes of an example."""
        return sum(form.nbytes for form in self.tensors.values())

    def blank(self, batch_size: int) -> Tensor | dict[str, Tensor]:
        """Return a batch of zeros in this form, on torch's default device."""
        tensors = {name: form.blank(batch_size) for name, form in self.tensors.items()}
        return tensors[PLAIN] if self.is_plain else tensors

    def describe(self) -> str:
        """Describe a batch: "(B, 8)", or "{h: (B, 8), mask: bool (B, 4)}"."""
        if self.is_plain:
            return self.only.describe()
        listed = ", ".join(f"{name}: {form.describe()}" for name, form in self.tensors.items())
        return f"{{{shorten(listed, MOST_SHOWN)}}}"

    def describe_example(self) -> str:
        """Describe an example of a plain signal by its shape, else a batch."""
        return str(self.only.shape) if self.is_plain else self.describe()


def list_names(names: Collection[str]) -> str:
    """List the names of a signal's tensors for a message; a peer or a file may have made them many."""
    if PLAIN in names:
        return "one tensor without a name"
    return shorten(f"the tensors {', '.join(sorted(names))}", MOST_SHOWN)


def is_name(name: object) -> bool:
    """Whether a value may name a tensor of a signal."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None
