"""Facts of a run that the manifest of every scheduler asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config import files
from common.config.sections import Config
from common.errors import ConfigError
from common.models.resolution import resolve


@dataclass(frozen=True)
class Plan:
    """A run for a scheduler to place.

    Attributes:
        config: with its cuts, and without what belongs to one machine.
        code: folder of the user's Python files; None: the configuration names none.
    """

    config: Config
    code: Path | None

    @property
    def slaves(self) -> int:
        """Number of seats, each for a slave."""
        return sum(self.config.replicas)

    @property
    def stores(self) -> int:
        """Number of stores; 0: the master keeps the shards."""
        return self.config.cluster.stores


def make_plan(path: Path, overrides: Sequence[str]) -> Plan:
    """Read a configuration, and find its cuts.

    Raises:
        ConfigError: the configuration is refused, has no cluster, or names files of several folders.
    """
    requested = files.load(path, overrides)
    if not requested.cluster.distributed:
        raise ConfigError(
            f"cluster.profile: {requested.cluster.profile} has no master and no slaves to place; use "
            "`layerwise train`"
        )
    if requested.security.files:
        raise ConfigError(
            "security.ca: names files of this machine; leave section [security] out, and give --tls DIR"
        )
    code = code_folder(requested)
    return Plan(resolve(requested.shared), code)


def code_folder(config: Config) -> Path | None:
    """Return the folder of the user's files, which slaves find there by their bare names.

    Raises:
        ConfigError: the files are in several folders.
    """
    named = {key: Path(spec.rpartition(":")[0]) for key, spec in config.user_functions.items()}
    folders = sorted({file.parent for file in named.values()})
    if len(folders) > 1:
        raise ConfigError(
            f"{', '.join(named)}: name files in {' and '.join(map(str, folders))}; slaves are given one "
            "folder: move the files into it"
        )
    return folders[0] if folders else None
