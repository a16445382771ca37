"""Where a configuration's network is cut, decided once by whoever reads the configuration first.

Counting costs needs torch and runs the user's code: a master does neither, and asks another process for it.
"""

from __future__ import annotations

import subprocess
import sys

from common import config as configuration
from common.config import Config
from common.errors import ConfigError, LayerwiseError
from common.settings import is_user_function


def resolved(config: Config) -> Config:
    """The configuration with its cuts known.

    Raises:
        ConfigError: the network or the data it is for cannot be had.
    """
    network = config.network
    if network.cuts is not None and not is_user_function(network.model):
        return config.with_cuts(network.cuts)
    if not is_user_function(network.model):
        units = network.model_options().units
        if network.layers in (None, units):
            return config.with_cuts(list(range(1, units)))
    child = subprocess.run(
        [sys.executable, "-m", "common.resolution"], input=config.to_toml(), capture_output=True, text=True
    )
    if child.returncode:
        raise ConfigError(
            child.stderr.strip().rpartition("\n")[2] or "the network's cuts could not be resolved"
        )
    return configuration.parse(child.stdout, "the resolved configuration")


def counted(config: Config) -> Config:
    """The same, by building the network in this process."""
    from common import datasets
    from common import network as networks

    dataset = datasets.load(config.data)
    blueprint = networks.build(config, dataset.input_shape, dataset.classes)
    return networks.resolve(config, blueprint, dataset.input_shape, dataset.classes)


def main() -> int:
    """Read TOML from standard input, write it resolved to standard output; the exit code."""
    try:
        print(counted(configuration.parse(sys.stdin.read(), "the configuration")).to_toml())
    except LayerwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
