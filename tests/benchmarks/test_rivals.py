"""The plain loop that clusters are compared with takes the steps of a run in step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.rivals import Plain, PreparedRun
from deploy.evaluation.evaluator import pull_network
from deploy.simulation.synchronous import InStep

SETTINGS = (
    "data.dataset=text", "data.tokens=characters", "data.context=16", "network.model=gpt",
    "network.options={width=16,heads=2,blocks=2}", "network.layers=2", "run.batch_size=8", "run.batches=20",
    "cluster.profile=synchronous", "decoupling.unlock=none",
)  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("clip", [(), ("optimizer.clip_norm=0.1",)], ids=["unclipped", "clipped"])
def test_the_plain_loop_steps_as_a_run_in_step(tmp_path: Path, optimizer: str, clip: tuple[str, ...]) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog lay on the floor\n" * 40)
    decay = ("optimizer.weight_decay=0.1",)
    prepared = PreparedRun.prepare(
        [*SETTINGS, f"data.path={tmp_path}/text.txt", f"optimizer.name={optimizer}", *decay, *clip]
    )
    run = InStep(prepared.config, prepared.dataset)
    for _ in run.run():
        pass
    plain = Plain(prepared)
    for batch in range(prepared.config.run.batches):
        plain.step(batch)
    pulled = pull_network(prepared.config, run.pull)
    state = plain.state()
    torch.testing.assert_close(
        {name: state[name] for name in pulled.state}, pulled.state, rtol=1e-3, atol=1e-5
    )
    measure = prepared.evaluator()
    assert measure(state, 20) == pytest.approx(measure(pulled.state, 20), rel=1e-4)
