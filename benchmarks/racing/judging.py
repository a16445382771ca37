"""Loss of the looks at the weights, measured after a row, so that no evaluation runs beside the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmarks.racing.cases import Size
from benchmarks.racing.course import Course
from benchmarks.rivals import PreparedRun
from common.data import batches
from common.signals.values import plain
from deploy.evaluation.evaluator import STATISTICS_BATCHES, estimate_statistics

# Examples of a test batch.
TEST_BATCH = 64
# Points (examples, seconds, loss).
Curve = list[tuple[int, float, float]]


class Judge:
    """Measures the mean loss over the first test examples of a network's size."""

    def __init__(self, size: Size) -> None:
        settings = (*size.settings, f"run.batch_size={size.batch_size}", "network.layers=2")
        self._prepared = PreparedRun.prepare(list(settings))
        self._network = nn.Sequential(*self._prepared.units).eval()
        count = -(-size.examples // TEST_BATCH)
        self._test = list(islice(batches.test_batches(self._prepared.dataset, TEST_BATCH), count))
        self._initial = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}

    def initial(self) -> float:
        """Return the loss of the initial weights, the same for every way."""
        return self.loss(self._initial)

    @torch.no_grad()
    def loss(self, state: dict[str, Tensor], *, estimate: bool = False) -> float:
        """Return the loss of a plain state.

        Args:
            state: the network's.
            estimate: estimate BN's statistics on the real chain, as evaluations of `full` do.
        """
        self._network.load_state_dict(state, strict=False)
        if estimate:
            inputs = map(self._prepared.batches.inputs, range(STATISTICS_BATCHES))
            estimate_statistics(self._network, inputs)
        sums: dict[str, float] = {}
        for x, y in self._test:
            for name, value in self._prepared.task.tally(plain(self._network(x)), y).items():
                sums[name] = sums.get(name, 0.0) + value
        return sums["loss"] / sums["count"]

    def curve(
        self, course: Course, ranks: int, over: Callable[[Curve], bool], *, estimate: bool = False
    ) -> Curve:
        """Measure the looks of a row in the order of their time, until `over` of the curve so far.

        Args:
            course: the row's.
            ranks: parts of a look.
            over: whether the rest of the looks is of no interest.
            estimate: as of `loss`.
        """
        began = course.began()
        if began is None:
            return []
        looks = [(examples, *_read(files)) for examples, files in course.looks(ranks).items()]
        curve: Curve = [(0, 0.0, self.initial())]
        for examples, at, files in sorted(looks, key=lambda look: look[1]):
            state = {name: tensor for file in files for name, tensor in _tensors(file).items()}
            curve.append((examples, round(at - began, 3), round(self.loss(state, estimate=estimate), 5)))
            if over(curve):
                break
        return curve


def parts(way_processes: int, method: str) -> int:
    """Return the number of a look's parts: each stage writes a part, equal ranks write one together."""
    return way_processes if method in ("1f1b", "zero-bubble", "asyncpp") else 1


def _read(files: Sequence[Path]) -> tuple[float, Sequence[Path]]:
    """Return the time of the last part of a look, and the files."""
    return max(float(_metadata(file)["at"]) for file in files), files


def _metadata(file: Path) -> dict[str, Any]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


def _tensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
