"""Where a configuration's network is cut, decided once by whoever reads the configuration first.

Counting costs needs torch and runs the user's code: a master does neither, and asks another process for it.
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


def known(config: Config) -> Config | None:
    """The configuration with its cuts, where neither torch nor the user's code is needed to tell them."""
    network = config.network
    if is_user_function(network.model):
        return None
    if network.cuts is not None:
        return config.with_cuts(network.cuts)
    units = network.model_options().units
    return config.with_cuts(list(range(1, units))) if network.layers in (None, units) else None


def resolved(config: Config) -> Config:
    """The configuration with its cuts known.

    Raises:
        ConfigError: the network or the data it is for cannot be had.
    """
    simple = known(config)
    if simple is not None:
        return simple
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


def counted(config: Config, dataset: Dataset) -> Config:
    """The same, by building the network in this process."""
    from common.models import network as networks

    blueprint = networks.build(config, dataset.input_shape, dataset.classes)
    return networks.resolve(config, blueprint, dataset.input_shape, dataset.classes)


def main() -> int:
    """Read TOML from standard input, write it resolved to standard output; the exit code."""
    try:
        config = files.parse(sys.stdin.read(), "the configuration")
        print(counted(config, datasets.load(config.data)).to_toml())
    except LayerwiseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
