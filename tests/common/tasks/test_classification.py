"""common.tasks: classification against autograd and torch's own cross-entropy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from common import tasks
from common.config.task import TaskConfig
from common.data.targets import Targets
from common.errors import ConfigError
from common.tasks import Task
from tests.common.tasks.autograd import check_expansion

CLASSES, B = 5, 7
OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.2},
    {"class_weights": [1.0, 0.5, 0.0, 2, 3.5]},
    {"label_smoothing": 0.1, "class_weights": [1.0, 0.5, 0.25, 2.0, 3.5]},
]

every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def built(options: dict[str, Any]) -> Task:
    return tasks.build(TaskConfig(options=options), Targets(CLASSES))


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(B, CLASSES, dtype=torch.float64, generator=generator)
    return output, torch.randint(CLASSES, (B,), generator=generator)


@every_option
def test_the_loss_of_each_example_is_torchs_cross_entropy(options: dict[str, Any]) -> None:
    output, target = example()
    weights = options.get("class_weights")
    expected = F.cross_entropy(
        output,
        target,
        None if weights is None else torch.tensor(weights, dtype=torch.float64),
        reduction="none",
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    task = built(options)
    torch.testing.assert_close(task.losses(output, target), expected)
    torch.testing.assert_close(task.total(output, target), expected.sum())


@every_option
@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_gradient_and_hessian_are_those_of_autograd(options: dict[str, Any], seed: int) -> None:
    check_expansion(built(options), *example(seed))


def test_error_and_loss_are_those_of_the_whole_test_set() -> None:
    task = built({})
    output = torch.tensor([[2.0, 1, 0, 0, 0], [0, 3, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]])
    sums = task.tally(output, torch.tensor([0, 2, 4, 4]))
    assert task.metrics(sums) == {"error_percent": 25.0}
    loss = F.cross_entropy(output, torch.tensor([0, 2, 4, 4]))
    assert sums["loss"] / sums["count"] == pytest.approx(float(loss))


def test_the_context_of_a_label_is_its_row_of_the_table() -> None:
    task, table = built({}), torch.randn(CLASSES, 3)
    target = torch.tensor([4, 0, 4])
    assert task.context_size == CLASSES
    assert torch.equal(task.context(target, table), table[target])


def test_another_number_of_weights_than_of_classes_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^task\.options\.class_weights: 2 weights for 5 classes; give one each"
    ):
        built({"class_weights": [1.0, 2.0]})


def test_an_output_of_another_shape_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^unit 3 gives \(B, 4\), but the data has 5 classes; it must give"
    ):
        built({}).fit((4,), "unit 3")


def test_blank_targets_have_the_form_of_labels() -> None:
    blank = built({}).blank(B)
    assert (blank.dtype, blank.shape) == (torch.int64, (B,))
