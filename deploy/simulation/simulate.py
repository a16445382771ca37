"""Command `layerwise simulate`: predictions for numbers of slaves, without a cluster and without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from common import strict_json
from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.config.downpour import MOST_REPLICAS
from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network
from common.models.rehearsal import rehearse
from common.models.resolution import resolve_with_torch
from common.models.threads import use_allowed_cores
from common.observe.percentiles import percentiles
from common.output import divert_output
from common.text import answer, say
from deploy.console import PlainConsole
from deploy.simulation.driver import Driver
from deploy.simulation.paces import measure_rate, paces


def show(config: Config, slaves: Sequence[int], measure: bool, as_json: bool) -> int:
    """Print a prediction for every number of slaves, and return the exit code.

    Args:
        config: as `predict_all` takes it, with the next two.
        slaves: numbers of slaves.
        measure: whether to measure the speed of a slave.
        as_json: print JSON, and nothing else, on standard output.

    Raises:
        ConfigError: the run is impossible, at all or with a number of slaves.
    """
    with divert_output():
        config, predictions = predict_all(config, slaves, measure)
    result = {"rate": config.simulation.rate, "predictions": predictions}
    answer(strict_json.encode(result)) if as_json else _print(config, predictions)
    return 0


def predict_all(config: Config, slaves: Sequence[int], measure: bool) -> tuple[Config, list[dict[str, Any]]]:
    """Return the configuration, with the measured rate if asked, and a prediction a number of slaves.

    Args:
        config: the run.
        slaves: numbers of slaves; empty: the configured number.
        measure: whether to measure the speed of a slave on this machine.

    Raises:
        ConfigError: the run is impossible, at all or with a number of slaves.
    """
    dataset = datasets.of(config)
    dataset.check_fit(config)
    if measure:
        use_allowed_cores()
        blueprint = network.build(config, dataset.inputs, dataset.targets)
        config = _rated(config, measure_rate(config, blueprint))
    placed = [with_slaves(config, dataset, count) for count in slaves] or [
        resolve_with_torch(config, dataset)
    ]
    predictions = []
    for each in placed:
        rehearse(each, dataset, LARGEST_SIGNAL_MESSAGE_BYTES)
        predictions.append(predict(each, dataset))
        say(f"{predictions[-1]['slaves']} slaves done")
    return config, predictions


def with_slaves(config: Config, dataset: Dataset, slaves: int) -> Config:
    """Return the run on a number of slaves: one a layer as far as layers go, then replicas of the slowest.

    Raises:
        ConfigError: fewer than one slave, or too many replicas of a layer.
    """
    blueprint = network.build(config, dataset.inputs, dataset.targets)
    cut_config = network.cut(config, blueprint)
    layers = min(slaves, cut_config.layers)
    if layers < cut_config.layers:
        cut = dataclasses.replace(config.network, cuts=None, layers=layers)
        config = _replicated(dataclasses.replace(config, network=cut), 1)
        cut_config = network.cut(config, blueprint)
    seconds = [pace.step + pace.answer for pace in paces(_replicated(cut_config, 1), blueprint)]
    replicas = [1] * layers
    for _ in range(slaves - layers):
        slowest = max(range(layers), key=lambda k: seconds[k] / replicas[k])
        replicas[slowest] += 1
    if max(replicas) > MOST_REPLICAS:
        raise ConfigError(
            f"--slaves {slaves}: takes {max(replicas)} replicas of one layer; at most {MOST_REPLICAS}"
        )
    return _replicated(cut_config, replicas)


def predict(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Simulate a run of a resolved configuration, and return its figures."""
    driver = Driver(config, dataset, trains=False)
    for _ in driver.run():
        pass
    status = driver.status()
    samples = config.run.batches * config.run.batch_size
    layers = range(1, config.layers + 1)
    busy = [round(server.busy_seconds / driver.seconds, 4) for server in driver.master.servers]
    return {
        "slaves": len(driver.machines),
        "layers": config.layers,
        "replicas": config.replicas,
        "profile": config.cluster.profile,
        "unlock": config.decoupling.unlock,
        "seconds": round(driver.seconds, 6),
        "samples_per_second": round(samples / driver.seconds, 1),
        "staleness": percentiles(status.counters.staleness),
        "delay": percentiles(status.delays),
        "utilization": {str(k): round(driver.utilization(k), 4) for k in layers},
        "master_utilization": busy[0],
        "store_utilization": max(busy[1:], default=0.0),
        "pushes": status.counters.pushes,
        "lost_batches": status.lost_batches,
    }


def _rated(config: Config, rate: float) -> Config:
    return dataclasses.replace(config, simulation=dataclasses.replace(config.simulation, rate=rate))


def _replicated(config: Config, replicas: int | list[int]) -> Config:
    downpour = dataclasses.replace(config.downpour, replicas=replicas, replicas_max=None)
    return dataclasses.replace(config, downpour=downpour)


def _print(config: Config, predictions: Sequence[dict[str, Any]]) -> None:
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "slaves", "layers", "samples/s", "staleness p50/p99/max", "delay p50/p99/max", "busy, by layer",
        "master busy", "busiest store",
    ):  # fmt: skip
        table.add_column(title, justify="right")
    for each in predictions:
        table.add_row(
            f"{each['slaves']:,}",
            f"{each['layers']}",
            f"{each['samples_per_second']:,.0f}",
            "/".join(map(str, each["staleness"].values())),
            "/".join(map(str, each["delay"].values())),
            " ".join(f"{100 * part:.0f}%" for part in each["utilization"].values()),
            f"{100 * each['master_utilization']:.0f}%",
            f"{100 * each['store_utilization']:.0f}%" if config.cluster.stores else "-",
        )
    console.print(table)
    console.print(
        f"{config.run.batches:,} batches of {config.run.batch_size}, unlock {config.decoupling.unlock}, "
        f"profile {config.cluster.profile}; a slave does {config.simulation.rate:.2e} multiply-adds a second",
        soft_wrap=True,
    )
