"""`layerwise evaluate`: measure a run directory, or a live master once or until the run's end."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from pathlib import Path
from typing import Any

from common import strict_json
from common.config.sections import Config
from common.data import datasets, holdings
from common.errors import NotFoundError, RunFailedError, UnreachableError
from common.net.backoff import Backoff
from common.output import divert_output
from common.text import answer, say
from common.wire.messages import Evaluation, Holdings
from deploy.evaluation.evaluator import Evaluator, PulledNetwork
from deploy.evaluation.finished import build_evaluator, load_finished
from deploy.evaluation.reader import Reader, latest_status
from deploy.runs.directory import RunDirectory, new_directory, next_evaluation
from deploy.runs.summary import summarize
from deploy.screen import Screen, format_evaluation, print_result

WATCH_SECONDS = 0.5
# Longest absence of the master; a watch ends then.
PATIENCE_SECONDS = 600.0


def evaluate_directory(
    path: Path, data: Path | None, code: Path | None, as_json: bool, checkpoint: Path | None = None
) -> int:
    """Measure a run's model.safetensors again, or another model file of the run's network.

    Raises:
        ConfigError: the directory has no model, the model is damaged or not the run's, or the data is
            missing.
    """
    with divert_output():
        run = load_finished(path, data, code, checkpoint)
        evaluation = run.evaluator.measure_state(run.state, {}, run.batches, run.stage)
    _print(run.config, evaluation, as_json)
    return 0


def evaluate_master(
    master: str,
    path: Path | None,
    watch: bool,
    data: Path | None,
    code: Path | None,
    as_json: bool,
    token: Path | None = None,
    tls: Path | None = None,
) -> int:
    """Measure a live master's weights, and report the result with the operator's token or a certificate.

    Raises:
        LayerwiseError: the master does not answer, or the data is missing.
    """
    with divert_output(), Reader(master, token, tls) as reader:
        config = reader.config_to_run(code)
        dataset = datasets.of(config, path=data, code=code)
        stock = holdings.take_stock(config, dataset, code)
        if warning := reader.agree(stock):
            say(f"layerwise: warning: {warning}")
        evaluator = build_evaluator(config, dataset, code)
        if watch:
            summary, results, incomplete = _watch(reader, config, dataset, evaluator, stock, path)
        else:
            evaluation = evaluator.measure(_pull(reader, evaluator, stock))
            reader.report(evaluation)
    if not watch:
        _print(config, evaluation, as_json)
        return 0
    print_result(summary, results, as_json)
    if incomplete:
        raise incomplete
    return 0


def _watch(
    reader: Reader,
    config: Config,
    dataset: datasets.Dataset,
    evaluator: Evaluator,
    stock: Holdings,
    path: Path | None,
) -> tuple[dict[str, Any], Path, RunFailedError | None]:
    """Evaluate until the run's end, and write the result files.

    Returns:
        Summary, directory, and the error of a directory that lacks result files.
    """
    began = time.monotonic()
    directory = RunDirectory(path or new_directory(config.run.name))
    directory.begin(config)
    screen = Screen(config)
    evaluate_at = next_evaluation(0, config)
    backoff = Backoff(time.monotonic, random.random, patience=PATIENCE_SECONDS)
    try:
        while True:
            try:
                status = reader.status()
                network = (
                    _pull(reader, evaluator, stock)
                    if status.batches >= evaluate_at or status.state == "done"
                    else None
                )
            except NotFoundError:  # the layers have not begun
                time.sleep(WATCH_SECONDS)
                continue
            except UnreachableError as error:
                time.sleep(backoff.delay_after(error))
                continue
            backoff.reset()
            screen.show(status)
            directory.note_heartbeats(status.seats, time.monotonic() - began)
            if network is not None:
                evaluation = _measure(evaluator, network, reader, directory, screen, began)
                directory.keep(network, evaluation, config, dataset, status.batches)
                evaluate_at = next_evaluation(status.batches, config)
                if status.state == "done":
                    break
            time.sleep(WATCH_SECONDS)
    finally:
        screen.close()
    seconds, last = time.monotonic() - began, latest_status(reader, status)
    summary = summarize(config, last, evaluation, seconds, last.counters.restarts, directory.best)
    incomplete = directory.finish(summary, network.state, config, dataset)
    return summary, directory.path, incomplete


def _pull(reader: Reader, evaluator: Evaluator, stock: Holdings) -> PulledNetwork:
    """Pull the network, and compare again: until there were shards, a slave with other data could come first.

    Raises:
        RefusedError: the run works with other data, user's files or versions.
    """
    network = evaluator.pull(reader.pull, reader.curriculum)
    reader.agree(stock)
    return network


def _measure(
    evaluator: Evaluator,
    network: PulledNetwork,
    reader: Reader,
    directory: RunDirectory,
    screen: Screen,
    began: float,
) -> Evaluation:
    evaluation = evaluator.measure(network)
    screen.show_evaluation(evaluation)
    directory.note_evaluation(evaluation, time.monotonic() - began)
    # The files are the result; a master that is away receives the next report.
    with contextlib.suppress(UnreachableError):
        reader.report(evaluation)
    return evaluation


def _print(config: Config, evaluation: Evaluation, as_json: bool) -> None:
    if as_json:
        answer(strict_json.encode(dataclasses.asdict(evaluation)))
    else:
        answer(", ".join(format_evaluation(config, evaluation)))
