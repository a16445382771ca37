"""Cuts of a configuration's network, decided once by the first reader of the configuration.

Counting costs takes torch and runs the user's code. A master leaves both to a child process.
"""

from __future__ import annotations

import subprocess
import sys

from common.config import files
from common.config.sections import Config
from common.config.values import is_user_function
from common.data import datasets
from common.data.datasets import Dataset
from common.errors import ConfigError, LayerwiseError


def resolve_without_torch(config: Config) -> Config | None:
    """Return the configuration with cuts, or None where finding cuts takes the built network."""
    network = config.network
    if is_user_function(network.model):
        return None
    if network.cuts is not None:
        return config.with_cuts(network.cuts)
    units = network.model_options().units
    return config.with_cuts(list(range(1, units))) if network.layers in (None, units) else None


def resolve(config: Config) -> Config:
    """Return the configuration with cuts, found in a child process where torch is needed.

    Raises:
        ConfigError: the network cannot be built, or the data cannot be loaded.
    """
    known = resolve_without_torch(config)
    if known is not None:
        return known
    child = subprocess.run(
        [sys.executable, "-m", "common.models.resolution"],
        input=config.to_toml(),
        capture_output=True,
        text=True,
    )
    if child.returncode:
        raise ConfigError(
            child.stderr.strip().rpartition("\n")[2] or "the network's cuts could not be resolved"
        )
    return files.parse(child.stdout, "the resolved configuration")


def resolve_with_torch(config: Config, dataset: Dataset) -> Config:
    """Return the configuration with cuts, from a network built in the calling process.

    Raises:
        ConfigError: the network cannot be built.
    """
    from common.models import network

    blueprint = network.build(config, dataset.input_shape, dataset.classes)
    return network.cut(config, blueprint, dataset.input_shape, dataset.classes)


def main() -> int:
    """Read TOML from standard input, write the resolved TOML to standard output; return the exit code."""
    try:
        config = files.parse(sys.stdin.read(), "the configuration")
        print(resolve_with_torch(config, datasets.load(config.data)).to_toml())
    except LayerwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
