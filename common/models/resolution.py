"""Cuts of a configuration's network, decided once by the first reader of the configuration.

Counting costs takes torch and runs the user's code. A master leaves both to a child process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from common import strict_json
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
    # A file of its own takes the result: a user's file may print anything on the child's standard output.
    with tempfile.TemporaryFile() as result:
        command = [sys.executable, "-P", "-m", __name__, str(result.fileno())]
        child = subprocess.run(
            command, input=config.to_toml(), stdout=2, text=True, pass_fds=[result.fileno()], check=False
        )
        result.seek(0)
        return _read(result.read(), child.returncode)


def _read(result: bytes, code: int) -> Config:
    try:
        answer = json.loads(result)
    except ValueError:
        raise ConfigError(
            f"network.model: the process that builds the network ended with {code} and without a result; the "
            "lines above may say why"
        ) from None
    if "error" in answer:
        raise ConfigError(answer["error"])
    return files.parse(answer["config"], "the resolved configuration")


def resolve_with_torch(config: Config, dataset: Dataset) -> Config:
    """Return the configuration with cuts, from a network built in the calling process.

    Raises:
        ConfigError: the network cannot be built.
    """
    from common.models import network

    blueprint = network.build(config, dataset.inputs, dataset.targets)
    return network.cut(config, blueprint)


def main() -> None:
    """Read TOML from standard input, and write the result to the file descriptor that the argument names."""
    config = files.parse(sys.stdin.read(), "the configuration")
    try:
        dataset = datasets.of(config)
        dataset.check_fit(config)
        resolved = resolve_with_torch(config, dataset)
        answer = {"config": resolved.to_toml()}
    except LayerwiseError as error:
        answer = {"error": str(error)}
    with open(int(sys.argv[1]), "w", encoding="utf-8") as result:
        result.write(strict_json.encode(answer))


if __name__ == "__main__":
    main()
