"""Targets that do not fit the task are refused before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config.data import DataConfig
from common.config.run import RunConfig
from common.config.sections import Config
from common.config.task import TaskConfig
from common.data import datasets
from common.errors import ConfigError

TASKS = {
    "multi-label": "np.array([[0, 1], [1, 1], [0, 0], [1, 0]])",
    "regression": "np.array([0.5, -1.0, 2.0, 3.0])",
    "language": "np.array([[0, 3], [1, -100], [2, 2], [3, 0]])",
}


def load(folder: Path, y: str) -> datasets.Dataset:
    file = folder / "own.py"
    file.write_text(
        f"import numpy as np\ndef own():\n    x, y = np.zeros((4, 3)), {y}\n    return x, y, x, y\n"
    )
    return datasets.load(DataConfig(dataset=f"{file}:own"))


def config(kind: str) -> Config:
    return Config(run=RunConfig(batch_size=2), task=TaskConfig(kind))


@pytest.mark.parametrize(("kind", "y"), TASKS.items())
def test_targets_of_a_tasks_form_are_taken(tmp_path: Path, kind: str, y: str) -> None:
    load(tmp_path, y).check_fit(config(kind))


@pytest.mark.parametrize(
    ("kind", "y", "told"),
    [
        ("classification", TASKS["regression"], "is float32 (4,); it must be whole numbers of the "),
        ("classification", TASKS["multi-label"], "is int64 (4, 2); it must be whole numbers of the "),
        ("multi-label", "np.array([0, 1, 1, 0])", "is int64 (4,); it must be numbers from 0 to 1 "),
        ("multi-label", "np.array([[0, 2]] * 4)", "holds 2; targets go from 0 to 1"),
        ("multi-label", "np.array([[0.5, -0.5]] * 4)", "holds -0.5; targets go from 0 to 1"),
        ("regression", "np.array([0, 1, 1, 0])", "is int64 (4,); it must be floating-point "),
        ("regression", "np.zeros((4, 2, 2))", "is float32 (4, 2, 2); it must be floating-point "),
        ("language", TASKS["regression"], "is float32 (4,); it must be whole numbers of the shape (4, T), "),
        ("language", "np.array([[0, -1]] * 4)", "holds -1; targets go from 0 up"),
        ("language", "np.full((4, 2), -100)", "holds -100 alone, which is left out; give targets that count"),
    ],
)  # fmt: skip
def test_targets_of_another_form_or_range_are_refused(tmp_path: Path, kind: str, y: str, told: str) -> None:
    dataset = load(tmp_path, y)
    with pytest.raises(ConfigError) as caught:
        dataset.check_fit(config(kind))
    assert str(caught.value).startswith(f"data.dataset: {dataset.name}: train_y {told}")
    assert "\n" not in str(caught.value)


def test_a_data_set_of_this_project_is_refused_too() -> None:
    digits = datasets.load(DataConfig())
    with pytest.raises(
        ConfigError, match=r"^data\.dataset: digits: train_y is int64 \(1437,\); it must be f"
    ):
        digits.check_fit(Config(task=TaskConfig("regression")))


def test_facts_tell_whole_targets_from_floats(tmp_path: Path) -> None:
    floats, tokens = load(tmp_path, TASKS["regression"]).targets, load(tmp_path, TASKS["language"]).targets
    assert (floats.classes, floats.shape, floats.labels) == (0, (), False)
    assert (tokens.classes, tokens.shape, tokens.labels) == (4, (2,), False)
