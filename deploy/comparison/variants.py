"""Variants to compare: a file's [compare] section, times the values of `--over`, times the seeds."""

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

# Commas separate the values of --over, except within brackets or quotes.
_PIECE = re.compile(r"""(?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,])+""")


@dataclass(frozen=True)
class Section:
    """Section [compare] of a configuration file."""

    seeds: int = key(1, "runs of each variant, with run.seed, run.seed + 1, ...", minimum=1)
    variants: dict[str, Any] = key({}, "for each variant's name, the keys in which it differs from the file")


@dataclass(frozen=True)
class Variant:
    """A method to compare: name, folder name, and configuration with the first seed."""

    name: str
    slug: str
    config: Config

    def with_seed(self, number: int) -> Config:
        """Return the configuration of the run with the number-th seed, from 0."""
        run = dataclasses.replace(self.config.run, seed=self.config.run.seed + number)
        return dataclasses.replace(self.config, run=run)


@dataclass(frozen=True)
class Comparison:
    """Variants and seeds of a comparison."""

    name: str
    seeds: int
    variants: list[Variant]


def read(
    path: Path, overrides: Sequence[str], over: Sequence[str], seeds: int | None, place: str
) -> Comparison:
    """Read a comparison from a file and the command line; every variant is checked.

    Args:
        path: the configuration file.
        overrides: values of `--set`, for all variants.
        over: values of `--over`, each "section.key=a,b".
        seeds: number of seeds; None for the file's.
        place: "cluster", "driver" or "synchronous".

    Raises:
        ConfigError: a variant's configuration is refused, or the comparison has no variants.
    """
    return build(files.read_values(path), path, overrides, list(map(_values, over)), seeds, place)


def build(
    values: dict[str, Any],
    path: Path | None,
    overrides: Sequence[str],
    over: Sequence[Sequence[str]],
    seeds: int | None,
    place: str,
) -> Comparison:
    """Build a comparison from the values of a file.

    Args:
        values: values of the file at `path`, with section [compare].
        path: the configuration file; None: there is none.
        overrides: "section.key=value", for all variants.
        over: overrides of which each variant has one of every list.
        seeds: number of seeds; None for the file's.
        place: "cluster", "driver" or "synchronous".

    Raises:
        ConfigError: a variant's configuration is refused, or the comparison has no variants.
    """
    values = dict(values)
    source = str(path) if path else ""
    section = settings.read(Section, values.pop("compare", {}), "compare.", sources={"": source})
    if not section.variants and not over:
        raise ConfigError(
            f"{path or 'compare'}: has no variants; give --over section.key=a,b, or add [compare.variants] "
            "to the file"
        )
    if place == "synchronous":
        overrides = [*overrides, "cluster.profile=synchronous"]
    variants: list[Variant] = []
    for name, changes in (section.variants or {"": {}}).items():
        if not isinstance(changes, dict):
            raise ConfigError(
                f"{path}: compare.variants.{name}: expected a table of keys that differ, got {changes!r}"
            )
        for chosen in itertools.product(*over):
            full = ", ".join([*([name] if name else []), *chosen])
            variants.append(_variant(full, _merge(values, changes), [*overrides, *chosen], path, variants))
    return Comparison(variants[0].config.run.name, seeds or section.seeds, variants)


def _variant(
    name: str, values: dict[str, Any], overrides: Iterable[str], path: Path | None, others: Sequence[Variant]
) -> Variant:
    try:
        config = files.build(values, overrides, path)
    except ConfigError as error:
        raise ConfigError(f'variant "{name}": {error}') from None
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "variant"
    if any(other.slug == slug for other in others):
        raise ConfigError(
            f'variant "{name}": another variant has the folder name {slug}; rename one of the two'
        )
    return Variant(name, slug, config)


def _values(text: str) -> list[str]:
    """Split `section.key=a,b` into an override for every value."""
    name, equals, listed = text.partition("=")
    pieces = [piece.strip() for piece in _PIECE.findall(listed)]
    if not equals or not pieces:
        raise ConfigError(f"--over {text}: expected section.key=a,b,...")
    return [f"{name.strip()}={piece}" for piece in pieces]


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge a variant's keys into a copy of the file's values."""
    merged = copy.deepcopy(values)
    for keys, value in _leaves(changes):
        table = merged
        for each in keys[:-1]:
            table = table.setdefault(each, {})
        table[keys[-1]] = value
    return merged


def _leaves(table: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value of nested tables with the keys; a table of options counts as a single value."""
    for name, value in table.items():
        if isinstance(value, dict) and not name.endswith("options"):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value
