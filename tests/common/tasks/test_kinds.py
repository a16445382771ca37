"""common.tasks: every task but classification against autograd, torch's own losses, and plain formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from common import tasks
from common.config.task import TaskConfig
from common.config.tasks import IGNORED, TASKS
from common.data.targets import Targets
from common.errors import ConfigError
from common.tasks import Task
from tests.common.tasks.autograd import check_expansion

B, D, T, V = 6, 3, 4, 5
FORMS = {
    "multi-label": Targets(2, (D,)),
    "regression": Targets(0, (D,)),
    "language": Targets(V, (T,), characters=2.0),
}


def built(kind: str, targets: Targets | None = None, **options: Any) -> Task:
    return tasks.build(TaskConfig(kind, options), targets or FORMS[kind])


def example(kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = built(kind).output_shape
    output = 2 * torch.randn(B, *shape, dtype=torch.float64, generator=generator)
    if kind == "multi-label":
        return output, torch.randint(2, (B, D), generator=generator)
    if kind == "regression":
        return output, torch.randn(B, D, dtype=torch.float64, generator=generator)
    target = torch.randint(V, (B, T), generator=generator)
    target[torch.rand(B, T, generator=generator) < 0.4] = IGNORED
    return output, target


CASES: list[tuple[str, dict[str, Any]]] = [
    ("multi-label", {}),
    ("regression", {}),
    ("regression", {"loss": "huber", "bound": 0.7}),
    ("language", {}),
]
every_case = pytest.mark.parametrize(("kind", "options"), CASES, ids=str)


@every_case
@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_gradient_and_hessian_are_those_of_autograd(kind: str, options: dict[str, Any], seed: int) -> None:
    check_expansion(built(kind, **options), *example(kind, seed))


@every_case
def test_an_examples_loss_depends_on_no_other_example(kind: str, options: dict[str, Any]) -> None:
    task, (output, target) = built(kind, **options), example(kind)
    whole = task.losses(output, target)
    assert whole.shape == (B,)
    for i in range(B):
        torch.testing.assert_close(task.losses(output[i : i + 1], target[i : i + 1]), whole[i : i + 1])
    torch.testing.assert_close(task.total(output, target), whole.sum())


@every_case
def test_metrics_of_two_batches_are_those_of_the_whole(kind: str, options: dict[str, Any]) -> None:
    task, (output, target) = built(kind, **options), example(kind)
    parts = [task.tally(output[:2], target[:2]), task.tally(output[2:], target[2:])]
    added = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    assert task.metrics(added) == pytest.approx(task.metrics(task.tally(output, target)))
    assert set(task.metrics(added)) == set(TASKS[kind].metrics)


@every_case
def test_a_blank_target_has_the_form_of_the_targets(kind: str, options: dict[str, Any]) -> None:
    task, (output, target) = built(kind, **options), example(kind)
    blank = task.blank(B)
    assert blank.shape == target.shape
    assert blank.is_floating_point() == target.is_floating_point()
    assert task.losses(output.float(), blank).shape == (B,)


def test_targets_of_one_number_need_no_second_dimension() -> None:
    output, target = torch.randn(B, 1), torch.randn(B)
    task = built("regression", Targets(0))
    torch.testing.assert_close(task.total(output, target), (output[:, 0] - target).square().sum())
    torch.testing.assert_close(task.expand(output, target).delta[:, 0], 2 * (output[:, 0] - target))


def test_regression_measures_squared_and_absolute_residuals_whatever_the_loss() -> None:
    output, target = example("regression")
    for task in (built("regression"), built("regression", loss="huber")):
        values = task.metrics(task.tally(output, target))
        assert values["mse"] == pytest.approx(float(F.mse_loss(output, target)))
        assert values["mae"] == pytest.approx(float(F.l1_loss(output, target)))


def test_label_errors_and_f1_are_counted() -> None:
    output = torch.tensor([[3.0, -1.0, 2.0], [-1.0, -2.0, 4.0]])
    target = torch.tensor([[1, 0, 0], [1, 0, 1]])
    task = built("multi-label")
    # True positives 2, false positives 1, false negatives 1.
    assert task.metrics(task.tally(output, target)) == pytest.approx(
        {"label_error_percent": 100 * 2 / 6, "f1": 4 / 6}
    )


def test_f1_without_any_positive_label_is_1() -> None:
    task = built("multi-label")
    nothing = torch.zeros(2, D)
    assert task.metrics(task.tally(nothing - 1, nothing))["f1"] == 1.0


def test_language_counts_tokens_and_leaves_ignored_ones_out() -> None:
    output, target = example("language")
    task = built("language")
    nats = float(F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=IGNORED))
    sums = task.tally(output, target)
    assert sums["loss"] / sums["count"] == pytest.approx(nats)
    assert task.metrics(sums) == pytest.approx(
        {
            "perplexity": math.exp(nats),
            "bits_per_token": nats / math.log(2),
            "bits_per_character": nats / math.log(2) / 2.0,
        }
    )


def test_an_example_of_ignored_tokens_alone_has_no_loss_and_no_gradient() -> None:
    task, output = built("language"), torch.randn(2, T, V)
    target = torch.tensor([[1, 2, 3, 4], [IGNORED] * T])
    losses, expansion = task.losses(output, target), task.expand(output, target)
    assert losses[1] == 0
    assert not expansion.delta[1].any()
    assert not expansion.hessian(torch.randn(2, T, V))[1].any()


def test_without_characters_there_are_no_bits_a_character_and_a_hopeless_loss_has_no_perplexity() -> None:
    task = built("language", Targets(V, (T,)))
    assert set(task.metrics({"loss": 1.0, "count": 1})) == {"perplexity", "bits_per_token"}
    assert task.metrics({"loss": 1e6, "count": 1})["perplexity"] == math.inf


def test_contexts_are_numbers_for_numbers_and_rows_for_tokens() -> None:
    table = torch.randn(D, 7)
    numbers = torch.randn(B, D)
    torch.testing.assert_close(built("regression").context(numbers, table), numbers @ table)
    labels = torch.randint(2, (B, D))
    torch.testing.assert_close(built("multi-label").context(labels, table), labels.float() @ table)
    language, tokens = built("language"), torch.tensor([[0, 4, IGNORED, 1]])
    rows = torch.randn(language.context_size, 7)
    found = language.context(tokens, rows)
    assert torch.equal(found[0, [0, 1, 3]], rows[[0, 4, 1]])
    assert not found[0, 2].any()


def test_the_bound_is_a_key_of_huber_alone() -> None:
    with pytest.raises(
        ConfigError, match=r'^task\.options\.bound: unknown key for task\.options\.loss = "mse"; leave it out'
    ):
        built("regression", bound=2.0)
    with pytest.raises(ConfigError, match=r'^task\.options\.loss: "l1" is not one of mse, huber'):
        built("regression", loss="l1")


# --- a user's loss ----------------------------------------------------------------------------------------


def written(folder: Path, body: str, **options: Any) -> Task:
    (folder / "loss.py").write_text(f"import torch\n\ndef loss(output, target, power=2):\n    {body}\n")
    config = TaskConfig(f"{folder / 'loss.py'}:loss", options)
    return tasks.build(config, Targets(0, (D,)))


def test_a_users_loss_is_expanded_by_autograd(tmp_path: Path) -> None:
    task = written(tmp_path, "return ((output - target).abs() ** power).mean(1)", power=3)
    check_expansion(task, *example("regression"))
    assert (task.output_shape, task.outputs) == ((D,), D)


def test_a_users_loss_of_linear_pieces_has_no_hessian(tmp_path: Path) -> None:
    check_expansion(written(tmp_path, "return (output - target).abs().sum(1)"), *example("regression"))


def test_a_users_loss_takes_the_networks_output_as_it_is(tmp_path: Path) -> None:
    task = written(tmp_path, "return (output.sum(2) - target).square().sum(1)").fit((D, 2), "unit 1")
    assert task.output_shape == (D, 2)
    output = torch.randn(B, D, 2, dtype=torch.float64)
    check_expansion(task, output, torch.randn(B, D, dtype=torch.float64))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "return (output - target).square().mean()",
            "returned float64 () for 6 examples; return the loss of each",
        ),
        ("return (output - target).square()", "returned float64 (6, 3) for 6 examples; "),
        ("return 3.0", "returned a float for 6 examples; "),
        ("return (output > target).sum(1)", "returned int64 (6,) for 6 examples; "),
        ("return (output - target).square().mean(1).detach()", "returned losses without a gradient; "),
        ("return output @ target", "raised RuntimeError: "),
        ("raise SystemExit(3)", "raised SystemExit: 3 (line 4) for an output (6, 3) and a target (6, 3); "),
    ],
)
def test_a_value_that_is_no_loss_of_each_example_is_refused(tmp_path: Path, body: str, told: str) -> None:
    task, (output, target) = written(tmp_path, body), example("regression")
    with pytest.raises(ConfigError) as caught:
        task.losses(output.requires_grad_(), target)
    assert str(caught.value).startswith(f"task.kind: {tmp_path / 'loss.py'}:loss: {told}")
    assert "\n" not in str(caught.value)
