"""What is compared: the variants of a file's [compare] section, times what `--over` names, times seeds."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import files, settings
from common.config.sections import Config
from common.config.settings import key
from common.errors import ConfigError

# What stands between the values of --over, but for those within brackets or quotes.
_PIECE = re.compile(r"""(?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,])+""")


@dataclass(frozen=True)
class Section:
    """The file's [compare] section."""

    seeds: int = key(1, "runs of each variant, with run.seed, run.seed + 1, ...", minimum=1)
    variants: dict[str, Any] = key({}, "by name, the keys in which it differs from the rest of the file")


@dataclass(frozen=True)
class Variant:
    """One method: its name, the file name that stands for it, and its run with the first seed."""

    name: str
    slug: str
    config: Config

    def seeded(self, number: int) -> Config:
        """Its run with the number-th seed, from 0."""
        run = dataclasses.replace(self.config.run, seed=self.config.run.seed + number)
        return dataclasses.replace(self.config, run=run)


@dataclass(frozen=True)
class Comparison:
    """What is run."""

    name: str
    seeds: int
    variants: list[Variant]


def read(
    path: Path, overrides: Sequence[str], over: Sequence[str], seeds: int | None, place: str
) -> Comparison:
    """What a file and the command line ask for; every variant is checked here.

    Args:
        path: of the file.
        overrides: `--set`, for all variants.
        over: `--over`, each "section.key=a,b".
        seeds: how many; None for the file's.
        place: "cluster", "driver" or "synchronous".

    Raises:
        ConfigError: a variant cannot be run, or there is nothing to compare.
    """
    values = files.read_values(path)
    section = settings.read(Section, values.pop("compare", {}), "compare.", sources={"": str(path)})
    if not section.variants and not over:
        raise ConfigError(
            f"{path}: has nothing to compare; give --over section.key=a,b or [compare.variants] in the file"
        )
    if place == "synchronous":
        overrides = [*overrides, "cluster.profile=synchronous"]
    variants: list[Variant] = []
    for name, changes in (section.variants or {"": {}}).items():
        if not isinstance(changes, dict):
            raise ConfigError(f"{path}: compare.variants.{name}: expected keys that differ, got {changes!r}")
        for chosen in itertools.product(*map(_values, over)):
            full = ", ".join([*([name] if name else []), *chosen])
            variants.append(_variant(full, _merged(values, changes), [*overrides, *chosen], path, variants))
    return Comparison(variants[0].config.run.name, seeds or section.seeds, variants)


def _variant(
    name: str, values: dict[str, Any], overrides: Iterable[str], path: Path, others: Sequence[Variant]
) -> Variant:
    try:
        config = files.build(values, overrides, path)
    except ConfigError as error:
        raise ConfigError(f'variant "{name}": {error}') from None
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "variant"
    if any(other.slug == slug for other in others):
        raise ConfigError(f'variant "{name}": another one has the folder name {slug}; give it another name')
    return Variant(name, slug, config)


def _values(text: str) -> list[str]:
    """`section.key=a,b` as an override for each value."""
    name, equals, listed = text.partition("=")
    pieces = [piece.strip() for piece in _PIECE.findall(listed)]
    if not equals or not pieces:
        raise ConfigError(f"--over {text}: expected section.key=a,b,...")
    return [f"{name.strip()}={piece}" for piece in pieces]


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """What the file says, with a variant's keys in it."""
    merged = copy.deepcopy(values)
    for keys, value in _leaves(changes):
        table = merged
        for each in keys[:-1]:
            table = table.setdefault(each, {})
        table[keys[-1]] = value
    return merged


def _leaves(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of nested tables. A table of options is one value: it replaces the file's."""
    for name, value in table.items():
        if isinstance(value, dict) and not name.endswith("options"):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value
