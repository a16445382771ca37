"""slave.training.admission: which messages of a neighbour a layer can use."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config.files import load
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.signals.forms import SignalForm
from common.signals.values import is_finite
from common.wire.boundary import Down, End, Ended, Lost, Message, OutputGradient, Ready, Taken, Up
from slave.training.admission import Admission

BATCH, BELOW, ABOVE = 4, (3,), (2, 5)
SETTINGS = ["network.cuts=[1, 2]", "run.batches=50", f"run.batch_size={BATCH}"]


def admission(*settings: str) -> Admission:
    """Layer 2 of three."""
    config = load(None, [*SETTINGS, *settings])
    return Admission(
        config, 2, BatchRoutes.of(config, 2, 0), SignalForm.plain(BELOW), SignalForm.plain(ABOVE)
    )


def up(batch: int = 7, shape: tuple[int, ...] = (BATCH, *BELOW), sender: int = 0) -> Up:
    return Up(batch, torch.zeros(shape), layer=2, sender=sender)


def down(batch: int = 7, shape: tuple[int, ...] = (BATCH, *ABOVE)) -> Down:
    return Down(batch, torch.zeros(shape), layer=2)


@pytest.mark.parametrize(
    "message", [up(), up(0), up(49), down(), End(50), End(9), Ended(50), Lost(3), Taken(3), Ready()]
)
def test_what_a_neighbour_may_send_is_admitted(message: Message) -> None:
    admission().check(message)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (up(shape=(BATCH, 4)), r'tensor "tensor" of ACTIVATION of batch 7 came as \(4, 4\), not \(4, 3\)'),
        (up(shape=(BATCH - 1, *BELOW)), r"came as \(3, 3\)"),
        (up(shape=()), r"came as \(\)"),
        (down(shape=(BATCH, 2)), r'"tensor" of GRADIENT of batch 7 came as \(4, 2\), not \(4, 2, 5\)'),
        (up(50), "beyond the end of the run"),
        (down(2**40), "beyond the end of the run"),
        (End(51), "END of batch 51 came in a run of 50 batches"),
        (up(sender=1), "does not go from replica 1"),
    ],
)
def test_what_the_layer_cannot_use_is_refused_with_the_reason(message: Message, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        admission().check(message)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("message", [up(), down()], ids=["up", "down"])
def test_a_single_number_that_is_not_finite_is_refused(message: Message, value: float) -> None:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        spoilt = tensor.clone()
        spoilt.view(-1)[-1] = value
        return spoilt

    with pytest.raises(MalformedError, match=r'tensor "tensor" of .* has NaN or Inf'):
        admission().check(message.map_tensors(spoil))


def test_with_full_a_gradient_needs_the_input_at_which_it_was_taken() -> None:
    full = admission("decoupling.unlock=full")
    with pytest.raises(MalformedError, match="without the tensor input"):
        full.check(down())
    full.check(Down(10**6, torch.zeros(BATCH, *ABOVE), torch.zeros(BATCH, *ABOVE), layer=2))
    with pytest.raises(MalformedError, match='tensor "input"'):
        full.check(Down(7, torch.zeros(BATCH, *ABOVE), torch.zeros(BATCH, 1), layer=2))


def test_batches_of_another_replica_are_refused() -> None:
    settings = ["downpour.replicas=[2, 2, 1]"]
    with pytest.raises(MalformedError, match="does not go"):
        admission(*settings).check(up(7, sender=1))
    admission(*settings).check(up(8))


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_a_tensor_is_finite_if_every_number_is(numbers: list[float]) -> None:
    assert is_finite(torch.tensor(numbers)) == all(map(math.isfinite, numbers))


def test_finite_numbers_whose_sum_overflows_are_finite() -> None:
    assert is_finite(torch.full((10,), 3e38))
    assert is_finite(torch.ones(2, dtype=torch.int64))


def test_names_of_tensors_are_told_and_cut_short() -> None:
    named = Up(7, {f"{'x' * 60}{place}": torch.zeros(BATCH, *BELOW) for place in range(60)}, layer=2)
    with pytest.raises(
        MalformedError, match=r"came as the tensors x.*\[\.\.\.\], not one tensor without a name"
    ) as told:
        admission().check(named)
    assert len(str(told.value)) < 1000


def test_dl_dp_is_admitted_where_layer_k_broadcasts_alone() -> None:
    heard = OutputGradient(7, torch.zeros(BATCH, *ABOVE), layer=2)
    direct = ["decoupling.unlock=alignment", "decoupling.alignment=direct"]
    admission(*direct).check(heard)
    with pytest.raises(MalformedError, match="hear nothing from layer K"):
        admission().check(heard)
    with pytest.raises(MalformedError, match=r"OUTPUT_GRADIENT of batch 7 came as \(4, 2\)"):
        admission(*direct).check(OutputGradient(7, torch.zeros(BATCH, 2), layer=2))
    with pytest.raises(MalformedError, match="beyond the end"):
        admission(*direct).check(OutputGradient(50, torch.zeros(BATCH, *ABOVE), layer=2))
