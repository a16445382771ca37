"""What [decoupling] decides for M, I and heads where a key is unset."""

from __future__ import annotations

import pytest

from common.config.decoupling import DecouplingConfig
from common.config.optimizer import OptimizerConfig, SynthesizerOptimizerConfig
from common.config.sections import Config


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (DecouplingConfig("update"), 8),
        (DecouplingConfig("full"), 8),
        (DecouplingConfig("local"), 8),
        (DecouplingConfig("update", gradient_options={"supervised": 0}), 1),
        (DecouplingConfig("local", gradient_options={"trained": False}), 1),
        (DecouplingConfig("update", gradient_options={"v": "v.py:v"}), 1),
        (DecouplingConfig("local", gradient_options={"v": "v.py:v"}, synthesizer_steps=4), 4),
        (DecouplingConfig("update", "cdni"), 1),
        (DecouplingConfig("update", "dni"), 1),
        (DecouplingConfig("update", "cdni", synthesizer_steps=3), 3),
        (DecouplingConfig("update", synthesizer_steps=1), 1),
    ],
    ids=lambda value: None if isinstance(value, int) else f"{value.unlock}-{value.gradient}",
)
def test_a_lesson_has_several_steps_where_the_built_in_v_learns_the_tasks_own_loss(
    config: DecouplingConfig, steps: int
) -> None:
    assert config.wanted_steps == steps
    assert Config(decoupling=config).lesson_steps == steps
    accumulating = OptimizerConfig(synthesizer=SynthesizerOptimizerConfig(accumulate=2))
    assert Config(decoupling=config, optimizer=accumulating).lesson_steps == 1
