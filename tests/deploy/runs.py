"""Runs for the driver's tests, on the digits unless keys say otherwise, and what is kept of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from common.config import files
from common.config.data import DataConfig
from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.models import network, resolution
from common.wire.messages import StatusReply
from deploy.evaluation.evaluator import Evaluator, PulledNetwork
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep

# A run of a second or two for `layerwise.train`.
STEP: dict[str, Any] = {
    "cluster.profile": "synchronous",
    "run.batches": 20,
    "run.evaluate_every": 10,
    "network.options": {"widths": [8]},
}
SMALL = ["network.options.widths=[16, 16]", "run.batches=40", "run.batch_size=16", "downpour.n_push=4"]


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """The digits, loaded once."""
    return datasets.load(DataConfig())


def resolved(*overrides: str) -> Config:
    """A small run with these keys, of three layers where the keys name no network."""
    synchronous = "cluster.profile=synchronous" in overrides
    config = files.load(None, [*(SMALL[:-1] if synchronous else SMALL), *overrides])
    dataset = data_of(config)
    return network.cut(config, network.build(config, dataset.inputs, dataset.targets))


def loaded(settings: Sequence[str]) -> tuple[Config, Dataset]:
    """Return the resolved configuration of these keys alone, and the data, as `train` prepares both."""
    config = files.load(None, settings)
    dataset = datasets.of(config)
    dataset.check_fit(config)
    return resolution.resolve_with_torch(config, dataset), dataset


def data_of(config: Config) -> Dataset:
    """Load the data of a run."""
    digital = config.data == DataConfig()
    return digits() if digital else datasets.of(config)


@dataclass(frozen=True)
class Run:
    """What a run has come to; `error` is the task's first metric."""

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
            **({"levels": self.status.curriculum.starts} if self.status.curriculum.starts else {}),
        }


def trained(*overrides: str) -> Run:
    """A run to its end, measured on the way and at the end."""
    config = resolved(*overrides)
    synchronous, dataset = config.cluster.profile == "synchronous", data_of(config)
    run: InStep | Driver = InStep(config, dataset) if synchronous else Driver(config, dataset, trains=True)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))

    def pull() -> PulledNetwork:
        return evaluator.pull(run.pull, lambda: run.status().curriculum)

    every = config.run.batches // 4 if config.curriculum else 10
    losses, due = [], every
    for through in run.run():
        if through >= due:
            losses.append(evaluator.measure(pull()).test_loss)
            due += every
    snapshot = pull()
    evaluation = evaluator.measure(snapshot)
    digest = hashlib.sha256(
        b"".join(snapshot.state[name].numpy().tobytes() for name in sorted(snapshot.state))
    )
    return Run(
        run.seconds,
        run.status(),
        evaluation.metrics[config.metrics[0]],
        [*losses, evaluation.test_loss],
        digest.hexdigest(),
    )


def hollow(*overrides: str) -> Driver:
    """The same without training."""
    driver = Driver(resolved(*overrides), digits(), trains=False)
    for _ in driver.run():
        pass
    return driver
