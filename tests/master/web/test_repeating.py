"""The command that trains the same again."""

from __future__ import annotations

import shlex

import pytest

from common.config import files
from master.web.repeating import describe_commands


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["data.dataset=mnist", "decoupling.unlock=local"],
        ["data.dataset=text", "data.path=/text", "network.layers=2"],
        ["data.dataset=text", "data.path=/text", "network.layers=2", "decoupling.unlock=update"],
        ["data.dataset=text", "data.path=/text", "network.layers=2", "decoupling.unlock=delayed"],
        ["data.dataset=text", "data.path=/text", "network.layers=2", "cluster.synthesis=master"],
    ],
)
def test_the_command_gives_the_same_configuration(given: list[str]) -> None:
    config = files.load(None, given)
    words = shlex.split(describe_commands(config, "")["train"])
    assert words[:2] == ["layerwise", "train"]
    assert files.load(None, [word for word in words[2:] if word != "--set"]) == config
