"""common.signals.values: signals as tensors and as dicts of tensors."""

from __future__ import annotations

import pytest
import torch

from common.signals import values
from common.signals.forms import PLAIN, SignalForm, TensorForm, is_name
from common.signals.values import Signal

MASK = torch.tensor([[True, False], [True, True]])
NAMED: Signal = {"h": torch.ones(2, 3), "mask": MASK, "positions": torch.arange(2)}
FORM = SignalForm(
    {"h": TensorForm((3,)), "mask": TensorForm((2,), "bool"), "positions": TensorForm((), "int64")}
)


def test_a_plain_signal_is_its_tensor_and_a_named_one_a_dict() -> None:
    tensor = torch.zeros(2, 3)
    assert values.split(tensor) == {PLAIN: tensor}
    assert values.join({PLAIN: tensor}) is tensor
    assert values.plain(tensor) is tensor
    assert values.join(values.split(NAMED)) == NAMED


def test_a_function_reaches_every_tensor_or_the_floats_alone() -> None:
    doubled = values.split(values.map_tensors(lambda tensor: tensor * 2, NAMED))
    assert doubled["positions"].tolist() == [0, 2]
    halved = values.split(values.map_floats(lambda tensor: tensor / 2, NAMED))
    assert halved["mask"] is MASK
    assert halved["h"].flatten().tolist() == [0.5] * 6
    assert list(values.split(values.floats(NAMED))) == ["h"]


def test_the_form_of_a_batch_is_that_of_an_example() -> None:
    assert values.form_of(NAMED) == FORM
    assert values.count(NAMED) == 2
    assert values.form_of(FORM.blank(5)) == FORM
    assert FORM.floats == SignalForm({"h": TensorForm((3,))})
    assert FORM.nbytes == 3 * 4 + 2 + 8
    assert FORM.describe() == "{h: (B, 3), mask: bool (B, 2), positions: int64 (B)}"
    assert SignalForm.plain((3,)).describe() == "(B, 3)"


def test_only_floats_can_be_infinite() -> None:
    assert values.is_finite(NAMED)
    assert not values.is_finite({"mask": MASK, "h": torch.tensor([0.0, torch.inf])})
    assert values.is_finite(torch.full((10,), 3e38))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("h", True), ("_h2", True), ("x" * 64, True), ("", False), ("2h", False), ("a.b", False), ("a/b", False),
     ("x" * 65, False), (3, False), ("h\n", False)],
)  # fmt: skip
def test_names_are_identifiers(name: object, is_one: bool) -> None:
    assert is_name(name) == is_one


def test_arrange_gives_the_tensors_in_the_order_of_the_form() -> None:
    form = SignalForm({"b": TensorForm((2,)), "a": TensorForm((1,), "bool")})
    signal: Signal = {"a": torch.zeros(3, 1, dtype=torch.bool), "b": torch.zeros(3, 2)}
    arranged = values.arrange(signal, form)
    assert list(values.split(arranged)) == ["b", "a"]
    assert values.split(arranged)["b"] is values.split(signal)["b"]
    tensor = torch.zeros(3, 2)
    assert values.arrange(tensor, SignalForm.plain((2,))) is tensor
