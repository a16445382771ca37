"""common.models.flow: signals from unit to unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.models.flow import find_forms
from common.signals.forms import SignalForm, TensorForm


class Unit(nn.Module):
    """Unit that computes a function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Any) -> Any:
        return self.function(h)

    def extra_repr(self) -> str:
        return "of a test"


def forms(*functions: Callable[[Any], Any], inputs: SignalForm | None = None) -> list[SignalForm]:
    return find_forms(
        [Unit(each) for each in functions], inputs or SignalForm.plain((4,)), "network.model: net"
    )


def test_a_unit_that_ends_the_process_is_named() -> None:
    def leave(x: torch.Tensor) -> torch.Tensor:
        raise SystemExit(5)

    with pytest.raises(ConfigError, match=r"unit 1 \(Unit\(.*\)\) cannot take \(B, 4\): SystemExit: 5"):
        forms(leave)


def test_many_tensors_and_many_parts_make_no_long_refusal() -> None:
    def many(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"{'x' * 50}{place}": x for place in range(60)}

    parts = nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)))
    with pytest.raises(ConfigError, match=r"unit 2 \(Sequential\(Linear, Linear,.* \.\.\.\) cannot") as told:
        find_forms([Unit(many), parts], SignalForm.plain((4,)), "network.model: net")
    assert len(str(told.value)) < 1000


def test_a_dict_of_tensors_passes_from_unit_to_unit() -> None:
    def begin(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"h": x.repeat(1, 2), "skip": x, "mask": x > 0}

    def use(h: dict[str, torch.Tensor]) -> torch.Tensor:
        return h["h"][:, :4] * h["mask"] + h["skip"]

    first, second = forms(begin, use)
    assert first.describe() == "{h: (B, 8), skip: (B, 4), mask: bool (B, 4)}"
    assert second == SignalForm.plain((4,))


def test_a_unit_may_put_tensors_into_the_dict_that_it_takes() -> None:
    def extend(h: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        h["more"] = h["h"] + 1
        return h

    inputs = SignalForm({"h": TensorForm((3,)), "tokens": TensorForm((5,), "int64", 9)})
    (found,) = forms(extend, inputs=inputs)
    assert list(found.tensors) == ["h", "tokens", "more"]
    assert list(inputs.tensors) == ["h", "tokens"]


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        (
            [lambda x: {"h": x, "mask": x > 0}, lambda h: {"h": h["h"]}, lambda h: h["h"] * h["mask"]],
            r'unit 3 \(Unit\(of a test\)\) needs the tensor "mask", which unit 2 \(Unit\(of a test\)\) drops',
        ),
        (
            [lambda x: {"h": x}, lambda h: h["mask"]],
            r'unit 2 .* needs the tensor "mask", but takes \{h: \(B, 4\)\}; give it from a unit below',
        ),
        ([lambda x: {"a b": x}], r"unit 1 .* names a tensor 'a b'"),
        ([lambda x: {0: x}], r"unit 1 .* names a tensor 0"),
        ([lambda _: {}], r"unit 1 .* without floats that carry a gradient"),
        ([lambda x: {"mask": x > 0}], r"gives \{mask: bool \(2, 4\)\}, without floats"),
        ([lambda x: {"h": x, "n": 3}], r'gives "n" as a int for 2 examples'),
        ([lambda x: {"h": x, "n": x[:1]}], r'gives "n" as float32 \(1, 4\) for 2 examples'),
        ([lambda x: {"h": x, "n": x.double()}], r'"n" as float64 .* of float32, int64, int32, uint8, bool'),
        ([lambda x: {"h": x, "n": x.to(torch.int8)}], r'gives "n" as int8'),
        ([lambda x: x > 0], r"gives bool \(2, 4\) for 2 examples; it must give float32 \(2, ...\), or"),
        ([lambda x: (x, x)], r"gives a tuple for 2 examples"),
        ([lambda x: {f"t{i}": x for i in range(65)}], "gives 65 tensors; join some: at most 64"),
        ([lambda x: {"h": x}, lambda h: {"h": h["h"].mul_(2)}], "unit 2 .* changes its input in place"),
    ],
)  # fmt: skip
def test_what_is_no_signal_is_refused_by_unit(functions: list[Callable[[Any], Any]], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        forms(*functions)
