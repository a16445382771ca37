"""Copying tasks learned in time: truncated back-propagation, DNI, DNI + aux and BP(lambda), in one process.

`python -m benchmarks copying --task copy --window 2 --batches 20000` trains an LSTM on endless streams, with
the curriculum of Jaderberg et al. (2016, section 3.1) and each method with each seed in turn, and writes
results/copying.json: the longest episode solved. The loop is the plain reference of recurrent layers.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import records
from common import tasks
from common.config.models import RecurrentOptions
from common.config.task import TaskConfig
from common.data.copying import Episodes, Level, pack
from common.data.targets import Targets
from common.models import builtin
from common.models.recurrent import Window, state_size, unroll
from common.synthesizers.time.auxiliary import Auxiliary
from common.synthesizers.time.regression import TimeSynthesizer
from common.synthesizers.time.traces import Traces

RESULTS = Path(__file__).parent / "results" / "copying.json"
# A level is solved when the bits an answer are below, on average over the last windows (Jaderberg et al.).
SOLVED = 0.15
AVERAGED = 100
# Whether bits are due several times.
TASKS = {"copy": False, "repeat-copy": True}


@dataclass(frozen=True)
class Setting:
    """A case.

    Attributes:
        task: key of `TASKS`.
        method: key of `METHODS`.
        window: T.
        seed: of parameters and data.
        streams: B.
        width: D of the LSTM.
        rate: of Adam, for the network.
        synthesizer_rate: of Adam, for M and the auxiliary head.
        hidden: widths of M's hidden layers.
        scale: of M.
        squash: of M.
        decay: lambda.
    """

    task: str = "copy"
    method: str = "dni"
    window: int = 2
    seed: int = 0
    streams: int = 256
    width: int = 32
    rate: float = 1e-3
    synthesizer_rate: float = 1e-3
    hidden: tuple[int, ...] = (64,)
    scale: float = 0.1
    squash: bool = True
    decay: float = 0.9


class Learner:
    """LSTM over endless streams, trained by truncated back-propagation.

    Attributes:
        units: embedding, LSTM, head.
        state: carried from window to window, (B, S).
    """

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(setting.seed)
        self.setting = setting
        vocabulary = Episodes(setting.window, repeats=TASKS[setting.task]).vocabulary
        options = RecurrentOptions(width=setting.width)
        self.units = nn.Sequential(*builtin.build("lstm", options, (setting.window,), vocabulary))
        self.state = torch.zeros(setting.streams, state_size(self.units))
        self._task = tasks.build(TaskConfig(kind="language"), Targets(vocabulary, (setting.window,)))
        self._optimizer = torch.optim.Adam(self.units.parameters(), setting.rate)

    def learn(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Train on a window, x and y (B, T) int64; return the sums of `Task.tally`."""
        window = unroll(self.units, x, self.state)
        self.back(window, self._task.total(window.output, y))
        for parameter in self.units.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(x)
        step(self._optimizer)
        self.state = window.after.detach()
        return self._task.tally(window.output.detach(), y)

    def back(self, window: Window, total: Tensor) -> None:
        """Back-propagate the loss of a window, and nothing that comes later."""
        window.backward([total], [None], None)


class DniLearner(Learner):
    """LSTM whose windows end in M's gradient."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        size = state_size(self.units)
        self.synthesizer = TimeSynthesizer(size, list(setting.hidden), setting.scale, squash=setting.squash)
        self._taught = torch.optim.Adam(self.synthesizer.parameters(), setting.synthesizer_rate)

    def back(self, window: Window, total: Tensor) -> None:
        """Back-propagate the loss and M's gradient; M learns the result at the window's start."""
        target = window.backward([total], [None], self.synthesizer.gradient(window.after))
        self.synthesizer.learn(window.before, target)
        step(self._taught)


class AuxLearner(DniLearner):
    """DNI, and a head that predicts at a window's start M's gradient at the end."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._head = Auxiliary(state_size(self.units))
        self._head_optimizer = torch.optim.Adam(self._head.parameters(), setting.synthesizer_rate)

    def back(self, window: Window, total: Tensor) -> None:
        """Add the head's loss, whose gradient comes to earlier windows through M."""
        super().back(window, total + self._head.total(window.before, self.synthesizer.gradient(window.after)))
        step(self._head_optimizer)


class LambdaLearner(DniLearner):
    """DNI whose M learns by eligibility traces; M should be small."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._traces = Traces(self.synthesizer, setting.decay)

    def back(self, window: Window, total: Tensor) -> None:
        """Back-propagate the loss and M's gradient; M learns from the result at all earlier starts."""
        jacobian = window.jacobian()
        target = window.backward([total], [None], self.synthesizer.gradient(window.after))
        self._traces.learn(window.before, target, jacobian)
        step(self._taught)


METHODS: dict[str, type[Learner]] = {
    "none": Learner,
    "dni": DniLearner,
    "aux": AuxLearner,
    "lambda": LambdaLearner,
}


def step(optimizer: torch.optim.Optimizer) -> None:
    """Step, and clear the gradients."""
    optimizer.step()
    optimizer.zero_grad()


class Curriculum:
    """Levels of a run: the next begins once the present one is solved.

    Attributes:
        number: of the present level, from 0.
        start: first batch of the present level.
        solved: batch after which each level was solved.
    """

    def __init__(self, setting: Setting) -> None:
        self._episodes = Episodes(setting.window, repeats=TASKS[setting.task], seed=setting.seed)
        self._streams = np.arange(setting.streams)
        self.number = self.start = 0
        self.solved: list[int] = []
        self._clear()

    @property
    def level(self) -> Level:
        """The present level."""
        return Level.of(self.number, repeats=self._episodes.repeats)

    def batch(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return tokens x and targets y of a batch of the present level, (B, T)."""
        x, y = self._episodes.read(pack(self.number, batch - self.start, self._streams))
        return torch.from_numpy(x), torch.from_numpy(y)

    def _clear(self) -> None:
        self.bits, self._windows = 0.0, 0

    def add(self, batch: int, sums: Mapping[str, float]) -> None:
        """Take the sums of the loss over a batch."""
        self._windows += 1
        bits = sums["loss"] / max(sums["count"], 1) / math.log(2)
        self.bits += (bits - self.bits) / min(self._windows, AVERAGED)
        if self._windows >= AVERAGED and self.bits < SOLVED:
            self.solved.append(batch)
            self.number, self.start = self.number + 1, batch + 1
            self._clear()


def measure(setting: Setting, batches: int) -> dict[str, Any]:
    """Train a case for a number of windows; `length` is that of the longest episode solved, 0 if none.

    `bits` are the bits an answer of the level that is left, `state_norm` the mean norm of the last states.
    """
    learner, curriculum = METHODS[setting.method](setting), Curriculum(setting)
    began, lengths = time.process_time(), [0]
    for batch in range(batches):
        level = curriculum.level
        curriculum.add(batch, learner.learn(*curriculum.batch(batch)))
        if curriculum.level != level:
            lengths.append(level.length)
    return {
        **dataclasses.asdict(setting),
        "batches": batches,
        "length": lengths[-1],
        "solved": curriculum.solved,
        "bits": curriculum.bits,
        "state_norm": float(learner.state.norm(dim=1).mean()),
        "cpu_seconds": time.process_time() - began,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the longest lengths solved, a line for each task, T and method, a cell for each seed."""
    cells: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        name = (str(row["task"]), str(row["window"]), str(row["method"]), f"{row['batches']:,}")
        cells.setdefault(name, []).append(str(row["length"]))
    lines = [[*name, ", ".join(lengths)] for name, lengths in cells.items()]
    return records.markdown(["task", "T", "method", "windows", "longest episode solved, by seed"], lines)


def main(arguments: Sequence[str]) -> None:
    """Train the chosen cases, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks copying", description=__doc__)
    parser.add_argument("--task", choices=TASKS, default="copy")
    parser.add_argument("--method", choices=METHODS, action="append", help="repeatable; all without")
    parser.add_argument("--window", type=int, action="append", help="T; repeatable; 2 without")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20000, help="windows of a run")
    parser.add_argument("--width", type=int, default=Setting.width, help="of the LSTM")
    parser.add_argument("--streams", type=int, default=Setting.streams, help="B")
    parser.add_argument("--rate", type=float, default=Setting.rate, help="learning rate of the network")
    parser.add_argument(
        "--synthesizer-rate", type=float, default=Setting.synthesizer_rate, help="learning rate of M"
    )
    parser.add_argument(
        "--squash", action=argparse.BooleanOptionalAction, default=True, help="M works on tanh of the state"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for setting in settings(chosen):
        rows.append(measure(setting, chosen.batches))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    records.write(RESULTS, {"machine": records.machine(), "torch": torch.__version__, "rows": rows})
    print(table(rows))


def settings(chosen: argparse.Namespace) -> Iterator[Setting]:
    """Yield the chosen cases."""
    each = itertools.product(chosen.window or [2], range(chosen.seeds), chosen.method or METHODS)
    for window, seed, method in each:
        yield Setting(
            chosen.task,
            method,
            window,
            seed,
            streams=chosen.streams,
            width=chosen.width,
            rate=chosen.rate,
            synthesizer_rate=chosen.synthesizer_rate,
            # A linear M keeps the traces small: B S P numbers.
            hidden=() if method == "lambda" else Setting.hidden,
            squash=chosen.squash,
        )
