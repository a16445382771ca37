"""A run to its end, for `layerwise train` and Python alike: cluster, evaluations, result files."""

from __future__ import annotations

import contextlib
import random
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.config.sections import Config
from common.data import datasets, holdings
from common.data.datasets import Dataset
from common.errors import ConfigError, NotFoundError, RunFailedError, UnreachableError
from common.models import resolution
from common.net.backoff import Backoff
from common.net.tokens import OPERATOR_TOKEN
from common.observe.problems import find_standstill
from common.observe.standstill import stands_still
from common.text import advise_install
from common.wire.messages import Evaluation, StatusReply
from deploy.certificates.folders import EVALUATOR, folder_of, keep_link
from deploy.engines.cluster import Cluster
from deploy.engines.placement import HERE, Placement
from deploy.evaluation.reader import Reader, latest_status
from deploy.runs.directory import RunDirectory, new_directory, next_evaluation
from deploy.runs.summary import summarize
from deploy.screen import Screen

if TYPE_CHECKING:
    from deploy.engines.engine import Engine
    from deploy.evaluation.evaluator import Evaluator, PulledNetwork
    from deploy.simulation.driver import Driver
    from deploy.simulation.synchronous import InStep

STATUS_SECONDS = 0.2
FINAL_PULL_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """Result of a run: the last status, the last evaluation, and the network that it measured."""

    status: StatusReply
    evaluation: Evaluation
    network: PulledNetwork
    restarts: int = 0


@dataclass(frozen=True)
class Trained:
    """Result files of a run.

    Attributes:
        path: the run directory.
        summary: content of summary.json.
        incomplete: error that names the files which could not be written; summary.json is then one of them.
    """

    path: Path
    summary: Mapping[str, Any]
    incomplete: RunFailedError | None


class Training:
    """A run to the end.

    Args:
        requested: the configuration; None: the run directory's, or else the default.
        path: the run directory; None for a new one.
        simulated: simulate the machines; time is then virtual.
        track: names of trackers.
        tls: folder of certificates; None: those of the configuration, if any.
        placement: engine that places the processes.
        log_format: format of the processes' logs.
        screen: shows the progress of a run.
    """

    def __init__(
        self,
        requested: Config | None,
        path: Path | None,
        *,
        simulated: bool = False,
        track: Sequence[str] = (),
        tls: Path | None = None,
        placement: Placement = HERE,
        log_format: str = "plain",
        screen: Callable[[Config], Screen] = Screen,
    ) -> None:
        self._simulated = simulated
        self._requested = requested
        self._path = path
        self._open_screen = screen
        self._track = track
        self._tls = tls
        self._placement = placement
        self._log_format = log_format
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._status = StatusReply()
        # How much of the run stood still at the last look: 0 nothing, 1 a part, 2 the whole.
        self._standstill = 0

    def stop(self) -> None:
        """Have `run` stop the processes and end; a signal handler may call this."""
        self._stop.set()

    def run(self) -> Trained | None:
        """Train to the end of the run; return None if stopped.

        Raises:
            LayerwiseError: the run cannot begin, or cannot end.
        """
        with contextlib.ExitStack() as held:
            config, directory, dataset = self._prepare(held)
            self._config, self._directory = config, directory
            self._screen = self._open_screen(config)
            try:
                outcome = self._train(dataset)
            finally:
                self._screen.close()
            if outcome is None:
                return None
            seconds = time.monotonic() - self._began
            summary = summarize(
                config, outcome.status, outcome.evaluation, seconds, outcome.restarts, directory.best
            )
            incomplete = directory.finish(summary, outcome.network.state, config, dataset)
        return Trained(directory.path, summary, incomplete)

    def _train(self, dataset: Dataset) -> Outcome | None:
        """Train in this process or in a cluster, as configured; return None if interrupted."""
        run = f"{self._config.layers} layers on {self._config.data.dataset}"
        if self._simulated or not self._config.cluster.distributed:
            self._screen.print(f"{self._directory.path}: training {run} in this process")
            return self._train_here(dataset)
        self._screen.print(f"{self._directory.path}: training {run}")
        return self._train_in_cluster(dataset)

    def _train_here(self, dataset: Dataset) -> Outcome | None:
        """Train in this process: in step, or under a virtual clock."""
        self._directory.forget_results()
        evaluator = self._evaluator(dataset)
        run, evaluate_at, shown_at = self._driver(dataset), next_evaluation(0, self._config), 0.0
        for through in run.run():
            if self._stop.is_set():
                self._screen.print(
                    "interrupted; such a run cannot be resumed: the same command starts it anew"
                )
                return None
            if through >= evaluate_at and through < self._config.run.batches:
                evaluate_at = next_evaluation(through, self._config)
                self._measure_here(evaluator, run, dataset, through)
            elif time.monotonic() - shown_at >= STATUS_SECONDS:
                shown_at = time.monotonic()
                self._screen.show(run.status())
        network, evaluation = self._measure_here(evaluator, run, dataset, self._config.run.batches)
        return Outcome(run.status(), evaluation, network)

    def _driver(self, dataset: Dataset) -> InStep | Driver:
        from deploy.simulation.driver import Driver
        from deploy.simulation.paces import alone
        from deploy.simulation.synchronous import InStep

        if not self._config.cluster.distributed:
            return InStep(self._config, dataset, alone(self._config, dataset) if self._simulated else None)
        return Driver(self._config, dataset, trains=True)

    def _measure_here(
        self, evaluator: Evaluator, run: InStep | Driver, dataset: Dataset, through: int
    ) -> tuple[PulledNetwork, Evaluation]:
        """Evaluate; show and write the result, with every layer's telemetry, in the run's own seconds."""
        network = evaluator.pull(run.pull, lambda: run.status().curriculum)
        evaluation = evaluator.measure(network)
        self._directory.keep(network, evaluation, self._config, dataset, through)
        self._screen.show_evaluation(evaluation)
        self._directory.note_evaluation(evaluation, run.seconds)
        self._directory.note_heartbeats(run.seats(), run.seconds)
        return network, evaluation

    def _train_in_cluster(self, dataset: Dataset) -> Outcome | None:
        engine = self._placement.open(self._directory, self._config)
        try:
            return self._train_on(engine, dataset)
        finally:
            engine.close()

    def _train_on(self, engine: Engine, dataset: Dataset) -> Outcome | None:
        tls = self._tls
        seats, stores = sum(self._config.replicas), self._config.cluster.stores
        cluster = Cluster(engine, self._directory, seats, tls, self._log_format, stores)
        try:
            cluster.start_master()
            self._screen.print(f"live page: http://{cluster.web}/")
            token, own = self._directory.state / OPERATOR_TOKEN, folder_of(tls, EVALUATOR) if tls else None
            with Reader(cluster.address, token, own) as reader:
                # Before the slaves: a resumed run with other data or files ends at once.
                self._holdings = holdings.take_stock(self._config, dataset)
                reader.agree(self._holdings)
                cluster.start_stores()
                cluster.start_slaves()
                evaluator = self._evaluator(dataset)
                if self._watch(cluster, reader, evaluator, dataset):
                    batches = self._config.run.batches
                    network, evaluation = self._evaluate(reader, evaluator, dataset, batches)
                    self._report(evaluation, reader)
                    self._status = latest_status(reader, self._status)
                    cluster.finish()
                    return Outcome(self._status, evaluation, network, cluster.restarts)
        finally:
            self._screen.close()
            cluster.stop()
        command = ["layerwise", "train", *self._placement.options(), "--run-dir", str(self._directory.path)]
        self._screen.print(f"interrupted; resume with: {shlex.join(command)}")
        return None

    def _evaluator(self, dataset: Dataset) -> Evaluator:
        """Build the evaluator; torch is imported here, while the slaves import theirs."""
        from common.models import network
        from common.models.threads import use_allowed_cores
        from deploy.evaluation.evaluator import Evaluator

        use_allowed_cores()
        blueprint = network.build(self._config, dataset.inputs, dataset.targets)
        return Evaluator(self._config, dataset, blueprint)

    def _prepare(self, held: contextlib.ExitStack) -> tuple[Config, RunDirectory, Dataset]:
        """Check configuration, data and run directory, before the first process starts.

        The end of `held` unlocks the directory.
        """
        path, directory, saved = self._path, None, None
        if path is not None and path.exists():
            directory = self._open(path, held)
            saved = directory.saved_config()
        requested = self._requested or saved or Config()
        files, config = requested.security.files, requested.shared
        self._placement.check(config)
        if self._tls and not config.cluster.distributed:
            raise ConfigError(
                f"train --tls: cluster.profile = {config.cluster.profile} has no ports; omit --tls"
            )
        dataset = datasets.of(config)
        dataset.check_fit(config)
        config = resolution.resolve_without_torch(config) or resolution.resolve_with_torch(config, dataset)
        if saved is not None and saved != config:
            raise ConfigError(
                f"--run-dir {path}: holds an unfinished run with another configuration; give the same "
                "configuration, or none to resume the run, or another directory"
            )
        self._rehearse(config, dataset)
        directory = directory or self._open(path or new_directory(config.run.name), held)
        directory.begin(config)
        if config.cluster.distributed:
            # Kept with the run: a resumed run must not go on in the clear by an oversight.
            self._tls = keep_link(directory.path / "tls", self._tls, files)
            if self._tls is None and self._placement.row.beyond:
                self._tls = self._certify(directory.path / "tls", config)
        return config, directory, dataset

    def _certify(self, folder: Path, config: Config) -> Path:
        """Make certificates for this run alone; the key that signs them is deleted.

        Raises:
            ConfigError: the package that makes certificates is not installed.
        """
        try:
            from deploy.certificates import making
        except ImportError:
            raise ConfigError(
                f"train --on {self._placement.on}: the package cryptography is not installed, which makes "
                f"certificates; {advise_install('tls')}"
            ) from None
        making.make_for_run(folder, sum(config.replicas), config.cluster.stores, config.run.name)
        return folder

    def _open(self, path: Path, held: contextlib.ExitStack) -> RunDirectory:
        return held.enter_context(contextlib.closing(RunDirectory(path, track=self._track)))

    def _rehearse(self, config: Config, dataset: Dataset) -> None:
        """Check the first steps; in a cluster, slaves check those of built-in networks."""
        own = config.user_functions.keys() - {"data.dataset"}
        if own or self._simulated or not config.cluster.distributed:
            from common.models.rehearsal import rehearse

            rehearse(config, dataset, LARGEST_SIGNAL_MESSAGE_BYTES)

    def _watch(self, cluster: Cluster, reader: Reader, evaluator: Evaluator, dataset: Dataset) -> bool:
        """Follow the run; True at the end, False if interrupted."""
        evaluating: Future[tuple[PulledNetwork, Evaluation]] | None = None
        evaluate_at = next_evaluation(0, self._config)
        with ThreadPoolExecutor(1) as pool:
            while not self._stop.wait(STATUS_SECONDS):
                for event in cluster.check():
                    self._screen.print(event)
                if not self._follow(reader):
                    continue
                if self._status.state == "done":
                    return True
                for event in cluster.relieve(self._status, self._config.cluster.heartbeat_seconds):
                    self._screen.print(event)
                if evaluating is not None and evaluating.done():
                    self._report(evaluating.result()[1], reader)
                    evaluating = None
                if evaluating is None and self._status.batches >= evaluate_at:
                    through = self._status.batches
                    evaluate_at = next_evaluation(through, self._config)
                    evaluating = pool.submit(self._evaluate, reader, evaluator, dataset, through)
        return False

    def _follow(self, reader: Reader) -> bool:
        """Fetch and show the status; False while the master is away."""
        try:
            self._status = reader.status(2.0)
        except UnreachableError:
            return False
        seconds = time.monotonic() - self._began
        self._directory.note_heartbeats(self._status.seats, seconds)
        self._screen.show(self._status)
        self._report_standstill()
        return True

    def _report_standstill(self) -> None:
        """Print the problem of a run that stands still, when a part begins to and when the whole does."""
        found = [*find_standstill(self._status, self._config)]
        level = len(found) and 1 + stands_still(self._status, self._config)
        if level > self._standstill:
            for problem in found:
                self._screen.print(f"{problem.what}; {problem.advice}")
        self._standstill = level

    def _evaluate(
        self, reader: Reader, evaluator: Evaluator, dataset: Dataset, through: int
    ) -> tuple[PulledNetwork, Evaluation]:
        backoff = Backoff(time.monotonic, random.random, patience=FINAL_PULL_SECONDS)
        while True:
            try:
                network = evaluator.pull(reader.pull, reader.curriculum)
                # Until there were shards, a slave with other data could say what the run works with.
                reader.agree(self._holdings)
            except (UnreachableError, NotFoundError) as error:  # the master is restarting
                away = error if isinstance(error, UnreachableError) else UnreachableError(str(error))
                if self._stop.wait(backoff.delay_after(away)):
                    raise
                continue
            evaluation = evaluator.measure(network)
            self._directory.keep(network, evaluation, self._config, dataset, through)
            return network, evaluation

    def _report(self, evaluation: Evaluation, reader: Reader) -> None:
        self._screen.show_evaluation(evaluation)
        self._directory.note_evaluation(evaluation, time.monotonic() - self._began)
        try:
            reader.report(evaluation)
        except UnreachableError:
            return
