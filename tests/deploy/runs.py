"""Runs on the digits for the driver's tests, and what is kept of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from common.config import files
from common.config.data import DataConfig
from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.models import network
from common.wire.messages import StatusReply
from deploy.evaluation.evaluator import Evaluator
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep

SMALL = ["network.options.widths=[16, 16]", "run.batches=40", "run.batch_size=16", "downpour.n_push=4"]


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """The digits, loaded once."""
    return datasets.load(DataConfig())


def resolved(*overrides: str) -> Config:
    """A small run of three layers with these keys."""
    synchronous = "cluster.profile=synchronous" in overrides
    config = files.load(None, [*(SMALL[:-1] if synchronous else SMALL), *overrides])
    blueprint = network.build(config, digits().inputs, digits().targets)
    return network.cut(config, blueprint)


@dataclass(frozen=True)
class Run:
    """What a run has come to."""

    seconds: float
    status: StatusReply
    error: float
    losses: list[float]
    digest: str

    def told(self) -> dict[str, Any]:
        """What a golden file keeps."""
        counters = self.status.counters
        return {
            "error": self.error,
            "losses": self.losses,
            "versions": self.status.versions,
            "staleness": {str(key): count for key, count in sorted(counters.staleness.items())},
            "delays": {str(key): count for key, count in sorted(self.status.delays.items())},
        }


def trained(*overrides: str) -> Run:
    """A run to its end, measured twice on the way and at the end."""
    config = resolved(*overrides)
    synchronous = config.cluster.profile == "synchronous"
    run: InStep | Driver = InStep(config, digits()) if synchronous else Driver(config, digits(), trains=True)
    evaluator = Evaluator(config, digits(), network.build(config, digits().inputs, digits().targets))
    losses, due = [], 10
    for through in run.run():
        if through >= due:
            losses.append(evaluator.measure(evaluator.pull(run.pull)).test_loss)
            due += 10
    snapshot = evaluator.pull(run.pull)
    evaluation = evaluator.measure(snapshot)
    digest = hashlib.sha256(
        b"".join(snapshot.state[name].numpy().tobytes() for name in sorted(snapshot.state))
    )
    return Run(
        run.seconds,
        run.status(),
        evaluation.metrics["error_percent"],
        [*losses, evaluation.test_loss],
        digest.hexdigest(),
    )


def hollow(*overrides: str) -> Driver:
    """The same without training."""
    driver = Driver(resolved(*overrides), digits(), trains=False)
    for _ in driver.run():
        pass
    return driver
