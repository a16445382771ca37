"""`layerwise train`: a whole cluster on this machine, watched, evaluated and written down, to the end."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.errors import ConfigError, NotFoundError, UnreachableError
from common.lifecycle import INTERRUPTED, Interrupt, end_with_parent
from common.models import resolution
from common.wire.messages import Evaluation, StatusReply
from deploy.engines.local import Cluster
from deploy.evaluation.reader import Reader, latest
from deploy.runs.directory import RunDirectory, new_directory, next_evaluation, summarized
from deploy.screen import Screen, print_summary

if TYPE_CHECKING:
    from deploy.evaluation.evaluator import Evaluator, PulledNetwork
    from deploy.simulation.driver import Driver
    from deploy.simulation.synchronous import InStep

STATUS_SECONDS = 0.2
FINAL_PULL_SECONDS = 60.0


@dataclass(frozen=True)
class Finished:
    """What a run has come to."""

    status: StatusReply
    evaluation: Evaluation
    network: PulledNetwork
    restarts: int = 0


class Training:
    """One call of `train`, or of `simulate --train`.

    Args:
        given: the configuration from the command line; None to take the run directory's, or the default.
        path: the run directory; None for a new one.
        as_json: whether the summary is to be the only thing on standard output.
        simulated: whether the machines are made up, and time is virtual.
        tensorboard: whether to write events for TensorBoard too.
        log_format: of the processes' logs.
    """

    def __init__(
        self,
        given: Config | None,
        path: Path | None,
        as_json: bool,
        *,
        simulated: bool = False,
        tensorboard: bool = False,
        log_format: str = "plain",
    ) -> None:
        self._simulated = simulated
        self._given = given
        self._path = path
        self._as_json = as_json
        self._tensorboard = tensorboard
        self._log_format = log_format
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._status = StatusReply()

    def run(self) -> int:
        """Train to the end; the exit code.

        Raises:
            LayerwiseError: the run cannot begin, or not end.
        """
        end_with_parent()
        with Interrupt(self._stop.set):
            config, directory, dataset = self._prepared()
            self._config, self._directory = config, directory
            self._screen = Screen(config)
            try:
                finished = self._trained(dataset)
            finally:
                self._screen.close()
            if finished is None:
                return INTERRUPTED
            seconds = time.monotonic() - self._began
            summary = summarized(config, finished.status, finished.evaluation, seconds, finished.restarts)
            directory.finish(summary, finished.network.state, config, dataset)
        if self._as_json:
            click.echo(json.dumps(summary))
        else:
            print_summary(summary, str(directory.path))
        return 0

    def _trained(self, dataset: Dataset) -> Finished | None:
        """Train where the configuration says; None when interrupted, which is told."""
        where = f"{self._config.layers} layers on {self._config.data.dataset}"
        if self._simulated or not self._config.cluster.distributed:
            self._screen.say(f"{self._directory.path}: training {where} in this process")
            return self._here(dataset)
        self._screen.say(f"{self._directory.path}: training {where}")
        return self._in_cluster(dataset)

    def _here(self, dataset: Dataset) -> Finished | None:
        """In this process: step by step, or under a virtual clock."""
        self._directory.forget_metrics()
        evaluator, every = self._evaluator(dataset), self._config.run.evaluate_every
        run, due, told = self._made(dataset), every, 0.0
        for through in run.run():
            if self._stop.is_set():
                self._screen.say("interrupted; it cannot be resumed: the same command begins it anew")
                return None
            if through >= due and through < self._config.run.batches:
                due = next_evaluation(through, every)
                self._noted(evaluator.measure(evaluator.pull(run.pull)), run)
            elif time.monotonic() - told >= STATUS_SECONDS:
                told = time.monotonic()
                self._screen.show(run.status())
        network = evaluator.pull(run.pull)
        evaluation = evaluator.measure(network)
        self._noted(evaluation, run)
        return Finished(run.status(), evaluation, network)

    def _made(self, dataset: Dataset) -> InStep | Driver:
        from deploy.simulation.driver import Driver
        from deploy.simulation.paces import alone
        from deploy.simulation.synchronous import InStep

        if not self._config.cluster.distributed:
            return InStep(self._config, dataset, alone(self._config, dataset) if self._simulated else None)
        return Driver(self._config, dataset, trains=True)

    def _noted(self, evaluation: Evaluation, run: InStep | Driver) -> None:
        """Tell of an evaluation, and of what every layer knows of itself then; in the run's own seconds."""
        self._screen.evaluated(evaluation)
        self._directory.note_evaluation(evaluation, run.seconds)
        self._directory.note_heartbeats(run.seats(), run.seconds)

    def _in_cluster(self, dataset: Dataset) -> Finished | None:
        cluster = Cluster(self._directory, sum(self._config.replicas), log_format=self._log_format)
        try:
            cluster.start()
            self._screen.say(f"live page: http://{cluster.web}/")
            evaluator = self._evaluator(dataset)
            with Reader(cluster.address) as reader:
                if self._watch(cluster, reader, evaluator):
                    network, evaluation = self._evaluated(reader, evaluator)
                    self._note(evaluation, reader)
                    self._status = latest(reader, self._status)
                    cluster.finish()
                    return Finished(self._status, evaluation, network, cluster.restarts)
        finally:
            self._screen.close()
            cluster.stop()
        self._screen.say(f"interrupted; go on with: layerwise train --run-dir {self._directory.path}")
        return None

    def _evaluator(self, dataset: Dataset) -> Evaluator:
        """Torch is imported here, while the slaves import theirs."""
        from common.models import network
        from deploy.evaluation.evaluator import Evaluator

        blueprint = network.build(self._config, dataset.input_shape, dataset.classes)
        return Evaluator(self._config, dataset, blueprint)

    def _prepared(self) -> tuple[Config, RunDirectory, Dataset]:
        """What can be wrong is found here, before any process is started."""
        path = self._path
        kept = RunDirectory(path).kept_config() if path is not None and path.exists() else None
        config = self._given or kept or Config()
        dataset = datasets.load(config.data)
        dataset.check_batch_size(config.run.batch_size)
        config = resolution.resolve_without_torch(config) or resolution.resolve_with_torch(config, dataset)
        if kept is not None and kept != config:
            raise ConfigError(
                f"--run-dir {path}: holds an unfinished run of another configuration; give the same, or none "
                "to go on with it, or another directory"
            )
        directory = RunDirectory(
            path if path is not None else new_directory(config.run.name), tensorboard=self._tensorboard
        )
        directory.begin(config)
        return config, directory, dataset

    def _watch(self, cluster: Cluster, reader: Reader, evaluator: Evaluator) -> bool:
        """Follow the run; True at its end, False when interrupted."""
        evaluating: Future[tuple[PulledNetwork, Evaluation]] | None = None
        due = self._config.run.evaluate_every
        with ThreadPoolExecutor(1) as pool:
            while not self._stop.wait(STATUS_SECONDS):
                for event in cluster.check():
                    self._screen.say(event)
                if not self._follow(reader):
                    continue
                if self._status.state == "done":
                    return True
                for event in cluster.relieve(self._status, self._config.cluster.heartbeat_seconds):
                    self._screen.say(event)
                if evaluating is not None and evaluating.done():
                    self._note(evaluating.result()[1], reader)
                    evaluating = None
                if evaluating is None and self._status.batches >= due:
                    due = next_evaluation(self._status.batches, self._config.run.evaluate_every)
                    evaluating = pool.submit(self._evaluated, reader, evaluator)
        return False

    def _follow(self, reader: Reader) -> bool:
        """Ask the master how the run goes; False while it is away."""
        try:
            self._status = reader.status(2.0)
        except UnreachableError:
            return False
        seconds = time.monotonic() - self._began
        self._directory.note_heartbeats(self._status.seats, seconds)
        self._screen.show(self._status)
        return True

    def _evaluated(self, reader: Reader, evaluator: Evaluator) -> tuple[PulledNetwork, Evaluation]:
        deadline = time.monotonic() + FINAL_PULL_SECONDS
        while True:
            try:
                network = evaluator.pull(reader.pull)
            except (UnreachableError, NotFoundError):  # the master is being started again
                if time.monotonic() > deadline or self._stop.wait(STATUS_SECONDS):
                    raise
                continue
            return network, evaluator.measure(network)

    def _note(self, evaluation: Evaluation, reader: Reader) -> None:
        self._screen.evaluated(evaluation)
        self._directory.note_evaluation(evaluation, time.monotonic() - self._began)
        try:
            reader.report(evaluation)
        except UnreachableError:
            return
