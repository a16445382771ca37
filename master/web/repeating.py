"""Commands for a run: one that trains the same again, and one that starts another slave."""

from __future__ import annotations

import dataclasses
import shlex
from functools import reduce
from typing import Any

from common.config import files, settings
from common.config.sections import Config
from common.config.values import is_user_function


def describe_commands(config: Config, slave: str) -> dict[str, Any]:
    """Describe how to train the same again and how to join the run.

    Args:
        config: resolved configuration of the run.
        slave: command of another slave.

    Returns:
        `changed`: keys that differ from their defaults, each "section.key=value". `train`, `slave`: commands.
    """
    changed = [files.write_override(name, value) for name, value in _changes(config.shared)]
    options = [word for override in changed for word in ("--set", override)]
    return {
        "changed": changed,
        "train": shlex.join(["layerwise", "train", *options]),
        "slave": slave,
    }


def _changes(config: Config) -> list[tuple[str, Any]]:
    """Return keys and values that differ from the defaults, without cuts that follow from the rest."""
    if _cuts_follow(config):
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, cuts=None))
    plain = files.build({}, [], None)
    found = _differences(config, plain)
    # Some defaults follow from other keys, such as the unlock from the task.
    again = files.build({}, [files.write_override(*each) for each in found], None)
    return found + [each for each in _differences(config, again) if each not in found]


def _differences(config: Config, other: Config) -> list[tuple[str, Any]]:
    found = ((name, _value(config, name), _value(other, name)) for name in settings.keys(Config))
    return [(name, value) for name, value, default in found if value != default and value is not None]


def _cuts_follow(config: Config) -> bool:
    """Whether a built-in network has a layer for each unit, as without cuts."""
    network = config.network
    if is_user_function(network.model):
        return False
    units = network.model_options().units
    return network.layers in (None, units) and network.cuts == list(range(1, units))


def _value(config: Config, name: str) -> Any:
    return reduce(getattr, name.split("."), config)
