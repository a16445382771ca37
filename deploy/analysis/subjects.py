"""Networks to analyze: those that runs have kept, each with its M or heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from common import synthesizers
from common.config.data import DataConfig
from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network
from common.models.network import Blueprint
from common.models.threads import use_allowed_cores
from common.signals.packing import Packing
from common.synthesizers import GradientSynthesizer
from common.tasks import Task
from common.wire.messages import Evaluation
from deploy.evaluation.finished import build_network
from deploy.runs.directory import saved_config
from deploy.runs.kept import find_kept
from deploy.runs.model import MODEL, load_model, load_tensors, read_evaluation
from deploy.runs.summary import SUMMARY


@dataclass(frozen=True)
class Point:
    """Place of a network in its run: batches learned from, its file, and that of M or heads, if any."""

    batch: int
    model: str
    gradients: str | None


@dataclass(frozen=True, eq=False)
class Run:
    """Run directory with networks to analyze.

    Attributes:
        path: the run directory.
        name: short name, unique among the runs.
        config: of the run.
        dataset: of the run.
        blueprint: form of the network; its units have the weights of no point.
        points: the networks, in the order of batches.
        code: folder of the user's files.
    """

    path: Path
    name: str
    config: Config
    dataset: Dataset
    blueprint: Blueprint
    points: list[Point]
    code: Path | None

    @property
    def cuts(self) -> list[int]:
        """Units after which layers 1 to K - 1 end."""
        return self.config.network.cuts or []

    def open(self, point: Point) -> Subject:
        """Build the network of a point with its weights, and M or heads with theirs.

        Raises:
            ConfigError: a file is damaged, or not the run's.
        """
        plain = build_network(load_model(self.path, Path(point.model)), self.config, self.code)
        modules = {} if point.gradients is None else self._open_gradients(point.gradients)
        known = read_evaluation(self.path / point.model)
        return Subject(self, point, list(plain), modules, known)

    def _open_gradients(self, name: str) -> dict[int, GradientSynthesizer]:
        path = self.path / name
        state = load_tensors(path, "copy the file again, or train the run again").state
        modules = {}
        for k in range(1, self.config.layers):
            own = {
                each.removeprefix(f"{k}."): tensor
                for each, tensor in state.items()
                if each.startswith(f"{k}.")
            }
            if not own:
                continue
            shape = Packing(network.boundary(self.blueprint, self.cuts, k)).shape
            modules[k] = synthesizers.initial(self.config, k, shape, self.blueprint.task, self.blueprint.v)
            try:
                modules[k].load_state_dict(own)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ConfigError(
                    f"{path}: does not fit the run's config.toml ({reason}); copy both files again"
                ) from None
        return modules


@dataclass(frozen=True, eq=False)
class Subject:
    """Network of a run at a batch, in evaluation mode.

    Attributes:
        run: of the network.
        point: place in the run.
        units: with weights.
        synthesizers: M or head of each layer that has one, by the layer's number.
        evaluation: of the network; None: unknown.
    """

    run: Run
    point: Point
    units: list[nn.Module]
    synthesizers: dict[int, GradientSynthesizer] = field(default_factory=dict)
    evaluation: Evaluation | None = None

    @property
    def task(self) -> Task:
        """Task of the run."""
        return self.run.blueprint.task

    @property
    def by_class(self) -> bool:
        """Whether each example has a class."""
        return self.task.targets.labels

    @property
    def streams(self) -> bool:
        """Whether examples are windows of streams, through which units carry a state."""
        return self.run.config.time.window is not None


def read_runs(paths: Sequence[Path], data: Path | None, code: Path | None) -> list[Run]:
    """Read the run directories, each with its data.

    Args:
        paths: run directories.
        data: folder that replaces `data.path`.
        code: folder of the user's files.

    Raises:
        ConfigError: a directory holds no run, no network, or files that are damaged, or the data is missing.
    """
    use_allowed_cores()
    loaded: list[tuple[DataConfig, int | None, Dataset]] = []
    runs = []
    for path, name in zip(paths, name_runs(paths), strict=True):
        config = saved_config(path)
        points = _find_points(path, config)
        key = (config.data, config.time.window)
        dataset = next((known for *same, known in loaded if tuple(same) == key), None)
        if dataset is None:
            dataset = datasets.of(config, path=data, code=code)
            loaded.append((*key, dataset))
        blueprint = network.build(config, dataset.inputs, dataset.targets, code)
        runs.append(Run(path, name, config, dataset, blueprint, points, code))
    return runs


def _find_points(path: Path, config: Config) -> list[Point]:
    """Find the networks of a run; that of its end too, unless one is kept at the last batch."""
    points = []
    for kept in find_kept(path):
        known = read_evaluation(path / kept.model)
        gradients = kept.gradients if (path / kept.gradients).exists() else None
        points.append(Point(known.batches if known else kept.batch, kept.model, gradients))
    if (path / MODEL).exists() and (not points or points[-1].batch < config.run.batches):
        points.append(Point(config.run.batches, MODEL, None))
    if not points:
        what = "finished" if (path / SUMMARY).exists() else "trained to a batch of run.keep, or to its end"
        raise ConfigError(
            f"analyze {path}: holds no network: the run is not {what}; train it with run.keep = [BATCH, "
            "...], or resume it"
        )
    return points


def name_runs(paths: Sequence[Path]) -> list[str]:
    """Name runs by the parts of their paths that differ: a/one/seed-0 and a/other/seed-0 by one and other."""
    parts = [path.resolve().parts for path in paths]
    if len(parts) == 1:
        return [parts[0][-1]]
    first = _count_common(parts)
    last = _count_common([each[::-1] for each in parts])
    return ["/".join(each[first : len(each) - last]) or each[-1] for each in parts]


def _count_common(rows: Sequence[Sequence[str]]) -> int:
    """Return the number of first parts that all rows have in common."""
    places = enumerate(zip(*rows, strict=False))
    return next((place for place, each in places if len(set(each)) > 1), min(map(len, rows)))
