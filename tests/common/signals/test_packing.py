"""common.signals.packing: the float tensors of a signal as one."""

from __future__ import annotations

import pytest
import torch

from common.errors import ConfigError
from common.signals.forms import SignalForm, TensorForm
from common.signals.packing import InputPacking, Packing
from common.signals.values import Signal, floats, split

B = 3


def signal(form: SignalForm) -> Signal:
    draw = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(B, *each.shape, generator=draw) if each.floating else each.blank(B)
        for name, each in form.tensors.items()
    }


@pytest.mark.parametrize(
    ("shapes", "packed"),
    [
        ([(4,), (2,)], (6,)),
        ([(5, 4), (5, 2), (5, 4)], (5, 10)),
        ([(3, 8, 8), (1, 8, 8)], (4, 8, 8)),
        ([(3, 8, 8), (3, 4, 4)], (240,)),
        ([(5, 4), (3, 4)], (32,)),
        ([(4,), (2, 2)], (8,)),
        ([(), ()], (2,)),
        ([()], (1,)),
        ([(7, 2)], (7, 2)),
    ],
)
def test_floats_are_packed_side_by_side_where_shapes_allow(
    shapes: list[tuple[int, ...]], packed: tuple[int, ...]
) -> None:
    form = SignalForm(
        {"mask": TensorForm((2,), "bool")} | {f"h{i}": TensorForm(shape) for i, shape in enumerate(shapes)}
    )
    packing, given = Packing(form), signal(form)
    assert packing.shape == packed
    assert packing.pack(given).shape == (B, *packed)
    back = split(packing.unpack(packing.pack(given)))
    assert back.keys() == split(floats(given)).keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in split(floats(given)).items())


def test_a_single_float_tensor_is_not_copied() -> None:
    tensor = torch.randn(B, 4)
    plain, named = Packing(SignalForm.plain((4,))), Packing(SignalForm({"h": TensorForm((4,))}))
    assert plain.pack(tensor) is tensor
    assert plain.unpack(tensor) is tensor
    assert named.pack({"h": tensor}) is tensor
    assert split(named.unpack(tensor))["h"] is tensor


def test_i_takes_floats_else_tokens() -> None:
    tokens, mask = TensorForm((5,), "int64", 65), TensorForm((5,), "bool")
    both = InputPacking(SignalForm({"tokens": tokens, "x": TensorForm((4,))}))
    assert both.taken == TensorForm((4,))
    text = InputPacking(SignalForm({"mask": mask, "tokens": tokens}))
    assert text.taken == tokens
    x = {"mask": mask.blank(B), "tokens": tokens.blank(B)}
    assert text.pack(x) is x["tokens"]
    with pytest.raises(ConfigError, match=r"its examples are \{mask: bool \(B, 5\)\}; choose"):
        InputPacking(SignalForm({"mask": mask}))
