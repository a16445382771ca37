"""Choice of an engine for `layerwise train`, and the room of a slave."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.config.sections import Config
from common.errors import ConfigError
from common.registry import Registry, Row, import_implementation
from common.text import advise_install

if TYPE_CHECKING:
    from deploy.engines.engine import Engine
    from deploy.runs.directory import RunDirectory

_SIZE = re.compile(r"(\d+)(?:([KMGT])(i?))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class EngineRow(Row):
    """Engine of `train`.

    Attributes:
        heeds: options of `train`.
        beyond: processes talk with each other beyond this machine.
        package: Python package that the engine needs, and the extra that brings it.
    """

    beyond: bool = False
    package: str | None = None


ENGINES = Registry(
    EngineRow(name="local", help="processes of this machine"),
    EngineRow(
        name="ray",
        help="slaves as actors of a Ray cluster",
        heeds=("address", "cpus", "gpus", "memory"),
        beyond=True,
        package="ray",
    ),
)


@dataclass(frozen=True)
class Placement:
    """Engine of a run, and the options for it; None: not given.

    Attributes:
        on: name of the engine.
        address: of the engine's cluster.
        cpus: cores of each slave, and its threads.
        gpus: of each slave.
        memory: of each slave, as `parse_size` takes it.

    Raises:
        ConfigError: an option has no meaning with the engine, or the memory is no size.
    """

    on: str = "local"
    address: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    memory: str | None = None

    def __post_init__(self) -> None:
        for name in self._given:
            if name not in self.row.heeds:
                on = " or ".join(f"--on {row.name}" for row in ENGINES.values() if name in row.heeds)
                raise ConfigError(f"train --{name}: has no meaning with --on {self.on}; add {on}, or omit it")

        parse_size(self.memory)

    @property
    def row(self) -> EngineRow:
        """Facts of the engine."""
        return ENGINES[self.on]

    @property
    def _given(self) -> dict[str, str | int]:
        names = ("address", "cpus", "gpus", "memory")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def options(self) -> list[str]:
        """Return the options of `train` for this placement."""
        chosen = [] if self == HERE else [f"--on={self.on}"]
        return [*chosen, *(f"--{name}={value}" for name, value in self._given.items())]

    def check(self, config: Config) -> None:
        """Check that the engine is installed, and that the run has processes to place.

        Raises:
            ConfigError: otherwise.
        """
        package = self.row.package
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"train --on {self.on}: the package {package} is not installed; {advise_install(package)}"
            )
        if self != HERE and not config.cluster.distributed:
            raise ConfigError(
                f"train --on {self.on}: cluster.profile = {config.cluster.profile} has no processes to "
                "place; omit --on"
            )

    def open(self, directory: RunDirectory, config: Config) -> Engine:
        """Open the engine.

        Raises:
            LayerwiseError: the engine's cluster cannot be used.
        """
        module = import_implementation(__name__.rpartition(".")[0], self.on)
        opened: Engine = module.open_engine(self, directory, config)
        return opened


def parse_size(text: str | None) -> int:
    """Return a number of bytes: 2Gi is 2 x 1024^3, 2G is 2 x 1000^3; no text is 0.

    Raises:
        ConfigError: the text is no such number.
    """
    found = _SIZE.fullmatch(text or "0")
    if found is None:
        raise ConfigError(f"--memory {text}: is no number of bytes; give for example 2Gi")
    number, unit, binary = found.groups()
    factor: int = (1024 if binary else 1000) ** " KMGT".index(unit or " ")
    return int(number) * factor


HERE = Placement()
