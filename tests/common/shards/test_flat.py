"""common.shards.table and common.shards.flat: a module's state as one flat buffer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import ConfigError, MalformedError
from common.shards.flat import Flat, state_dict, table_of
from common.shards.table import FLOATS, ITEMSIZES, Kind, Table, lay_out

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TENSORS = st.lists(
    st.tuples(st.just("float32"), SHAPES, st.just("parameter"))
    | st.tuples(st.sampled_from(sorted(ITEMSIZES)), SHAPES, st.sampled_from(["buffer", "frozen"])),
    max_size=8,
)
OPTIMIZERS: dict[str, Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-2, foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, foreach=False),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 7),
        nn.Linear(7, 3),
    )


def batches(count: int = 3) -> list[torch.Tensor]:
    return list(torch.randn(count, 5, 1, 4, 4, generator=torch.Generator().manual_seed(1)))


def within(view: torch.Tensor, memory: torch.Tensor) -> bool:
    start = memory.data_ptr()
    return start <= view.data_ptr() <= start + memory.nbytes - view.nbytes


@given(TENSORS)
def test_a_table_has_its_regions_in_order_aligned_and_without_overlap(
    tensors: list[tuple[str, tuple[int, ...], Kind]],
) -> None:
    table = lay_out((str(i), *tensor) for i, tensor in enumerate(tensors))
    places = {"parameter": 0, "frozen": 3}
    kinds = [places.get(t.kind, 1 if t.dtype in FLOATS else 2) for t in table.tensors]
    assert kinds == sorted(kinds)
    end = 0
    for tensor in table.tensors:
        assert tensor.offset % ITEMSIZES[tensor.dtype] == 0
        assert tensor.offset == end if tensor.kind == "parameter" else end <= tensor.offset < end + 8
        assert tensor.nbytes == math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        end = tensor.offset + tensor.nbytes
    assert table.nbytes == end
    assert table == lay_out((t.name, t.dtype, t.shape, t.kind) for t in table.tensors)
    moving = [(t.name, t.dtype, t.shape, t.kind) for t in table.tensors if t.kind != "frozen"]
    assert table.pushed == lay_out(moving)
    assert table.pushed.parameters_nbytes == table.parameters_nbytes


def test_a_modules_table_lists_its_state_dict() -> None:
    module = network()
    table = table_of(module)
    assert {t.name: t.shape for t in table.tensors} == {
        n: tuple(v.shape) for n, v in module.state_dict().items()
    }
    parameters = [t.name for t in table.tensors if t.kind == "parameter"]
    assert parameters == [name for name, _ in module.named_parameters()]
    assert table.tensors[-1].name == "1.num_batches_tracked"
    assert table.parameters_nbytes == 4 * sum(p.numel() for p in module.parameters())


def test_flattening_changes_no_value_and_computes_the_same() -> None:
    plain = network()
    flat = Flat(copy.deepcopy(plain))
    for name, value in plain.state_dict().items():
        assert torch.equal(flat.module.state_dict()[name], value)
    assert torch.equal(flat.module(batches()[0]), plain(batches()[0]))


def test_parameters_and_buffers_stay_views_through_training() -> None:
    flat = Flat(network())
    optimizer = torch.optim.Adam(flat.learned)
    for x in batches():
        flat.clear_gradients()
        torch.autograd.backward(flat.module(x).square().sum())
        optimizer.step()
        assert all(within(parameter, flat.parameters) for parameter in flat.module.parameters())
        assert all(within(buffer, flat.buffer) for buffer in flat.module.buffers())


def test_gradients_are_what_backward_left_and_zeros_where_it_left_none() -> None:
    flat = Flat(network())
    assert not any(gradient.any() for gradient in flat.gradients())
    flat.module(batches()[0]).square().sum().backward()
    for gradient, parameter in zip(flat.gradients(), flat.module.parameters(), strict=True):
        assert gradient is parameter.grad
    last = flat.learned[-1]
    last.grad = None
    assert torch.equal(flat.gradients()[-1], torch.zeros_like(last))
    flat.clear_gradients()
    assert all(parameter.grad is None for parameter in flat.module.parameters())


def test_numbers_for_each_parameter_are_split_into_views_of_their_shapes() -> None:
    flat = Flat(network())
    numbers = torch.arange(flat.parameters.numel(), dtype=torch.float32)
    parts = flat.split(numbers)
    assert [part.shape for part in parts] == [parameter.shape for parameter in flat.module.parameters()]
    assert all(within(part, numbers) for part in parts)
    assert torch.equal(torch.cat([part.flatten() for part in parts]), numbers)
    assert Flat(nn.ReLU()).split(torch.zeros(0)) == []


def test_batch_normalization_updates_its_statistics_in_the_flat_buffer() -> None:
    flat = Flat(network())
    for x in batches(3):
        flat.module(x)
    arrays = flat.table.arrays(flat.buffer.numpy())
    assert arrays["1.num_batches_tracked"] == 3
    assert np.abs(arrays["1.running_mean"]).sum() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_on_the_flat_parameter_equal_those_on_the_module_bit_for_bit(name: str) -> None:
    plain = network()
    flat = Flat(copy.deepcopy(plain))
    plain_optimizer = OPTIMIZERS[name](list(plain.parameters()))
    flat_optimizer = OPTIMIZERS[name](flat.learned)
    for x in batches(5):
        plain_optimizer.zero_grad()
        flat.clear_gradients()
        for module in (plain, flat.module):
            torch.autograd.backward(nn.functional.cross_entropy(module(x), torch.tensor([0, 1, 2, 0, 1])))
        plain_optimizer.step()
        flat_optimizer.step()
        for ours, theirs in zip(flat.module.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours, theirs)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_a_loaded_state_is_the_modules_and_comes_out_as_a_state_dict(seed: int) -> None:
    torch.manual_seed(seed)
    source, target = Flat(network()), Flat(network())
    source.module(torch.randn(4, 1, 4, 4))
    raw = source.buffer.numpy().tobytes()
    target.load(raw)
    expected = source.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in target.module.state_dict().items())
    plain = network()
    plain.load_state_dict(state_dict(source.table, raw))
    assert all(torch.equal(value, expected[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("change", [-1, 1])
def test_a_state_of_the_wrong_length_is_refused_and_changes_nothing(change: int) -> None:
    flat = Flat(network())
    before = flat.buffer.clone()
    with pytest.raises(MalformedError):
        flat.load(bytes(flat.table.nbytes + change))
    with pytest.raises(MalformedError):
        state_dict(flat.table, bytes(flat.table.nbytes + change))
    assert torch.equal(flat.buffer, before)


def test_a_module_without_parameters_has_an_empty_state() -> None:
    flat = Flat(nn.Sequential(nn.MaxPool2d(2), nn.ReLU()))
    assert flat.table == Table((), 0)
    assert flat.parameters.shape == (0,)
    assert flat.gradients() == flat.learned == []
    flat.clear_gradients()
    flat.load(b"")


def test_a_frozen_parameter_lies_at_the_end_and_gets_no_gradient() -> None:
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    flat = Flat(module)
    assert [(t.name, t.kind) for t in flat.table.tensors] == [("weight", "parameter"), ("bias", "frozen")]
    assert (flat.table.pushed.nbytes, flat.table.nbytes) == (24, 32)
    torch.autograd.backward(module(torch.ones(1, 3)).sum())
    assert within(module.bias, flat.buffer)
    (gradient,) = flat.gradients()
    assert torch.equal(gradient, torch.ones(2, 3))


class Average(nn.Module):
    """A moving average that replaces its buffer, and a buffer that is not kept."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
        return x


def test_a_non_persistent_buffer_is_left_out() -> None:
    assert [t.name for t in Flat(Average()).table.tensors] == ["mean"]


def test_a_replaced_buffer_is_gathered_into_the_state() -> None:
    flat = Flat(Average())
    flat.module(torch.ones(4, 2))
    flat.gather()
    assert flat.table.arrays(flat.buffer.numpy())["mean"].tolist() == [0.5, 0.5]
    flat.module(torch.ones(4, 2))
    flat.gather()
    assert flat.table.arrays(flat.buffer.numpy())["mean"].tolist() == [0.75, 0.75]


def tied() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def test_a_tied_parameter_is_kept_once_under_its_first_name() -> None:
    flat = Flat(tied())
    assert [t.name for t in flat.table.tensors] == ["0.weight", "0.bias", "2.bias"]
    assert flat.parameters.numel() == 9 + 3 + 3
    assert len(flat.learned) == 3


def test_a_step_on_a_tied_parameter_is_a_step_of_both_uses() -> None:
    module, x = tied(), torch.randn(5, 3)
    plain = tied()
    plain.load_state_dict(module.state_dict())
    flat = Flat(module)
    for each in (module, plain):
        each(x).square().sum().backward()
    assert all(
        torch.equal(mine, parameter.grad)  # type: ignore[arg-type]
        for mine, parameter in zip(flat.gradients(), plain.parameters(), strict=True)
    )
    flat.parameters.zero_()
    first, last = (module.get_parameter(f"{place}.weight") for place in (0, 2))
    assert first is last
    assert not last.any()


def test_a_module_used_twice_is_kept_once() -> None:
    linear = nn.Linear(3, 3)
    flat = Flat(nn.Sequential(linear, linear))
    assert [t.name for t in flat.table.tensors] == ["0.weight", "0.bias"]
    norm = nn.BatchNorm1d(3)
    assert len(Flat(nn.Sequential(norm, norm)).table.tensors) == 5


def test_a_buffer_with_two_owners_is_refused_with_both_names() -> None:
    """A forward that replaces the buffer of one owner would untie both."""
    module = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    module[1].running_mean = module[0].running_mean
    with pytest.raises(ConfigError, match=r"0\.running_mean and 1\.running_mean are one buffer"):
        Flat(module)


def test_a_dtype_that_no_shard_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight is float64"):
        Flat(nn.Linear(2, 2).double())
    half = nn.BatchNorm1d(2)
    half.running_mean = torch.zeros(2, dtype=torch.float16)
    with pytest.raises(ConfigError, match="running_mean is float16"):
        Flat(half)


def test_a_module_with_several_batch_normalizations_goes_backward() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    flat = Flat(module)
    module(torch.randn(5, 4)).square().sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in flat.gradients()[::2])
    numbers = flat.table.arrays(flat.buffer.numpy())
    assert numbers["1.num_batches_tracked"] == numbers["3.num_batches_tracked"] == 1
