"""common.wire.ranges: no number out of its range gets past the codec."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import replace
from typing import Any

import pytest

from common import strict_json
from common.errors import MalformedError
from common.shards import pushes
from common.shards.pushes import Frame, Header, Operation
from common.wire import messages as m
from common.wire.codec import decoder, encode
from common.wire.payloads import (
    decode_boundary,
    decode_frame,
    decode_synthesis,
    encode_boundary,
    encode_frame,
    encode_synthesis,
)
from common.wire.ranges import RANGES, Mapped, Range, check, numbers, restore
from common.wire.use import Utilization

KINDS = [
    kind
    for kind in {**vars(m), **vars(pushes)}.values()
    if isinstance(kind, type)
    and dataclasses.is_dataclass(kind)
    and kind.__name__ not in ("Table", "TensorSpec")
]
FIELDS = [(kind, name) for kind in KINDS for name in numbers(kind)]
NAMES = [f"{kind.__name__}.{name}" for kind, name in FIELDS]


def build(kind: type, **fields: Any) -> Any:
    """Message with the fewest fields."""
    least: dict[type, dict[str, Any]] = {
        Header: {"shard": "1/weights", "operation": Operation.UPDATE},
        m.BoundaryMessage: {"kind": m.BoundaryKind.END, "layer": 1},
        m.SynthesisMessage: {"kind": m.SynthesisKind.ASK},
    }
    return kind(**{**least.get(kind, {}), **fields})


def shaped(kind: type, name: str, key: Any, value: float) -> Any:
    """Value of a field: a number, a list or a map with it."""
    origin = typing.get_origin(typing.get_type_hints(kind)[name])
    return {key: value} if origin is dict else [value] if origin is list else value


def values_beyond(rule: Range) -> list[float]:
    beyond = [value for value in (rule.low - 1, rule.high + 1) if math.isfinite(value)]
    return beyond + ([] if rule.measured else [math.nan, math.inf, -math.inf])


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=NAMES)
def test_a_number_beyond_its_range_is_refused_by_name_and_value(kind: type, name: str) -> None:
    rule = RANGES[kind][name]
    values, key = (rule.values, 1 if rule.keys else "a") if isinstance(rule, Mapped) else (rule, None)
    for value in (values.low, values.high):
        if math.isfinite(value):
            check(build(kind, **{name: shaped(kind, name, key, value)}))
    for value in values_beyond(values):
        with pytest.raises(MalformedError, match=rf"{kind.__name__}\.{name}.* = {value} is out of range"):
            check(build(kind, **{name: shaped(kind, name, key, value)}))


@pytest.mark.parametrize(
    "message",
    [
        m.HeartbeatRequest(1, 1, m.Telemetry(lost_batches=2**63)),
        m.HeartbeatRequest(1, 1, m.Telemetry(next_batch=2**63)),
        m.HeartbeatRequest(1, 1, m.Telemetry(step_seconds=math.inf)),
        m.HeartbeatRequest(1, 1, m.Telemetry(waiting_seconds=-1.0)),
        m.HeartbeatRequest(1, 1, m.Telemetry(delays={1: 2**63})),
        m.HeartbeatRequest(1, 1, m.Telemetry(utilization=Utilization(disk_percent=math.nan))),
        m.HeartbeatRequest(1, 1, m.Telemetry(utilization=Utilization(gpu_percent=1e30))),
        m.Evaluation(test_error_percent=math.inf),
        m.Evaluation(batches=2**64 - 1),
        m.Evaluation(versions={"1/weights": 2**63}),
        m.RollbackRequest(2**64 - 1),
        pushes.PullRequest("1/weights", 2**64 - 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_codec_refuses_numbers_that_no_honest_peer_sends(message: Any) -> None:
    with pytest.raises(MalformedError, match="is out of range"):
        decoder(type(message))(encode(message))


@pytest.mark.parametrize("field", ["version", "incarnation", "sequence", "next_batch", "fetched_sequence"])
def test_a_pushs_header_is_checked(field: str) -> None:
    header = replace(build(Header), **{field: 2**64 - 1})
    with pytest.raises(MalformedError, match=rf"Header\.{field} = 18446744073709551615 is out of range"):
        decode_frame(encode_frame(Frame(header)))


def test_messages_with_tensors_are_checked() -> None:
    with pytest.raises(MalformedError, match=r"BoundaryMessage\.incarnation"):
        decode_boundary(encode_boundary(m.BoundaryMessage(m.BoundaryKind.PAIR, 1, incarnation=2**64 - 1)))
    for name, value in (("shape", [2**63]), ("classes", 2**32 - 1), ("batch", 2**63)):
        with pytest.raises(MalformedError, match=rf"SynthesisMessage\.{name}"):
            decode_synthesis(encode_synthesis(build(m.SynthesisMessage, **{name: value})))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_measurement(loss: float) -> None:
    sent = m.HeartbeatRequest(1, 1, m.Telemetry(loss=loss, gradient_cosine=math.nan))
    came = decoder(m.HeartbeatRequest)(encode(sent))
    assert came.telemetry.loss == loss or math.isnan(loss)
    assert math.isnan(came.telemetry.gradient_cosine)


def test_a_state_file_gives_back_the_message_with_nan_for_null() -> None:
    sent = m.Telemetry(steps=3, loss=math.inf, delays={2: 5}, utilization=Utilization(rss_bytes=7))
    saved = json.loads(strict_json.encode(dataclasses.asdict(sent)))
    found = restore(m.Telemetry, saved)
    assert math.isnan(found.loss)
    assert replace(found, loss=0.0) == replace(sent, loss=0.0)
    assert found.utilization.gpu_percent is None


def test_a_state_files_numbers_are_checked() -> None:
    with pytest.raises(MalformedError, match=r"Telemetry\.lost_batches = 9223372036854775808"):
        restore(m.Telemetry, {"lost_batches": 2**63})
