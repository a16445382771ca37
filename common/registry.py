"""Registries: rows for the values of a configuration key.

A row holds everything about a value that needs no torch: name, help, heeded keys, and facts for the rest of
the program. Code with further imports (torch, sockets) lives in a module named after the row, found by
`import_implementation`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar


@dataclass(frozen=True, kw_only=True)
class Row:
    """Value of a configuration key, with the meaning.

    Attributes:
        name: the value in a configuration.
        help: meaning in a few words, for `layerwise config`.
        heeds: keys without a meaning unless a row lists them. A name without a dot is a key of the section
            that holds the choice; a name with a final dot stands for a whole section.
    """

    name: str
    help: str
    heeds: tuple[str, ...] = ()


RowT = TypeVar("RowT", bound=Row)


class Registry(Mapping[str, RowT], Generic[RowT]):
    """Rows by name, in the order of declaration."""

    def __init__(self, *rows: RowT) -> None:
        self._rows = {row.name: row for row in rows}
        assert len(self._rows) == len(rows), "two rows share a name"

    def __getitem__(self, name: str) -> RowT:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, condition: Callable[[RowT], bool]) -> Registry[RowT]:
        """Return the registry of the rows that meet a condition."""
        return Registry(*filter(condition, self._rows.values()))

    def describe(self) -> str:
        """Return a line of help: all rows with meanings."""
        return ", ".join(f"{row.name} ({row.help})" for row in self._rows.values())


def module_name(name: str) -> str:
    """Return the name of a row's module: underscores for dashes and plus signs."""
    return name.replace("-", "_").replace("+", "_")


def import_implementation(package: str, name: str) -> Any:
    """Import the module of a row from a package."""
    return importlib.import_module(f"{package}.{module_name(name)}")
