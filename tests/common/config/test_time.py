"""Section [time]: refusals that name the key, before anything is loaded."""

from __future__ import annotations

import re

import pytest

from common.config import files
from common.errors import ConfigError

RIGHT = ["data.dataset=text", "data.path=x", "network.model=gru", "time.window=3"]


def test_windows_of_streams_are_a_key_and_the_groups_follow_from_the_replicas() -> None:
    config = files.load(None, [*RIGHT, "network.layers=3", "downpour.replicas=[2, 3, 1]"])
    assert (config.time.window, config.time.gradient, config.groups) == (3, "none", 6)
    assert files.load(None, [*RIGHT, "downpour.replicas=4"]).groups == 4
    assert files.load(None, ["downpour.replicas=4"]).groups is None
    assert files.parse(config.to_toml(), "again") == config


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        (["time.window=0"], "time.window: 0 is too small"),
        (["data.context=128"], "time.window: takes the place of data.context = 128; give one of the two"),
        (["network.model=gpt"], 'network.model = "gpt" has no recurrent unit; choose "lstm" or "gru", or '),
        (
            ["data.dataset=mnist"],
            'data.dataset = "mnist" has no streams; choose data.dataset = "text" or "tokens" or "copy" or '
            '"repeat-copy" or a function of',
        ),
        (["time.gradient=dno"], 'time.gradient: "dno" is not one of none'),
        (["time.options={hidden=[3]}"], 'time.options: unknown key for time.gradient = "none"'),
        (["time.scale=1"], 'time.scale: unknown key for time.gradient = "none"'),
        (["time.gradient=dni", "time.options={hiden=[3]}"], "time.options.hiden: unknown key; did you mean"),
        (["time.aux=true"], 'time.aux: unknown key for time.gradient = "none"'),
        (["time.gradient=dni", "time.aux_horizon=2"], "time.aux_horizon: 2 has no meaning without time.aux"),
        (
            ["time.gradient=dni", "time.aux=true", "time.aux_horizon=4"],
            "time.aux_horizon: 4 steps are longer than a window, time.window = 3; give at most 3",
        ),
        (
            ["time.gradient=dni", "time.aux=true", "time.aux_horizon=2", "network.model=own.py:units"],
            "time.aux_horizon: 2 cuts windows in two, and a unit of own.py:units may need its window whole",
        ),
        (["time.gradient=dni", "time.options={decay=0.5}"], "time.options.decay: unknown key"),
        (["time.gradient=lambda", "time.options={decay=2.0}"], "time.options.decay: 2.0 is too large"),
        (["time.gradient=dni", "time.scale=0"], "time.scale: 0.0 is too small"),
    ],
)
def test_windows_without_streams_or_without_a_state_are_refused(changes: list[str], refusal: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(refusal)):
        files.load(None, [*RIGHT, *changes])


def test_a_gradient_of_later_loss_without_windows_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r'^--set: time.gradient: "dni" ends windows .*; give time.window = T'
    ):
        files.load(None, [*RIGHT[:-1], "time.gradient=dni"])
    assert files.load(None, [*RIGHT, "time.gradient=dni"]).time.scale == 0.1
