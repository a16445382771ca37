"""Ranges of the numbers in messages: the codec checks a message before anything is done with it.

State files hold the same messages as JSON; `restore` reads and checks them.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

from common.errors import MalformedError
from common.shards import pushes
from common.shards.table import Table, TensorSpec
from common.wire import messages as m
from common.wire import stages, stores
from common.wire.counters import Counters, LayerPushes
from common.wire.curriculum import Curriculum, Score
from common.wire.use import Utilization

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Range:
    """Allowed values of a number.

    Attributes:
        low: the least value.
        high: the greatest value.
        measured: whether NaN and infinities are results worth showing (as null in JSON), such as a loss.
    """

    low: float
    high: float
    measured: bool = False

    def check(self, value: float, name: str) -> None:
        """Check a value.

        Raises:
            MalformedError: the value is out of range; the text has `name` and value.
        """
        if self.low <= value <= self.high or (self.measured and not math.isfinite(value)):
            return
        raise MalformedError(f"{name} = {value} is out of range; {self.low} to {self.high} is allowed")


@dataclass(frozen=True, slots=True)
class Mapped:
    """Allowed keys and values of a map; None for keys that are text."""

    keys: Range | None
    values: Range


# Exact in JSON, in a double and in JavaScript; a counter that grows further stays at the bound.
MOST = 2**53 - 1
COUNT = Range(0, MOST)
# Layers, replicas, slaves.
PLACE = Range(0, 2**20 - 1)
SMALL = Range(0, 2**32 - 1)
SIZE = Range(0, 2**31 - 1)
PORT = Range(0, 2**16 - 1)
SECONDS = Range(0, 1e12)
RATE = Range(0, 1e15)
PERCENT = Range(0, 100)
# Of all cores of a machine, where 100 is a core.
LOAD = Range(0, 1e7)
MEASURED = Range(-math.inf, math.inf, measured=True)
# Rounding may carry a cosine past 1.
COSINE = Range(-1.01, 1.01, measured=True)
FRACTION = Range(0, 1)

Rule = Range | Mapped

RANGES: dict[type, dict[str, Rule]] = {
    pushes.Header: {
        "version": COUNT,
        "incarnation": COUNT,
        "sequence": COUNT,
        "next_batch": COUNT,
        "fetched_sequence": COUNT,
        "replica": PLACE,
        "fragment": PLACE,
        "fragments": PLACE,
    },
    pushes.Frame: {"offset": COUNT},
    pushes.PushReply: {"version": COUNT, "sequence": COUNT, "staleness": COUNT},
    pushes.PullRequest: {"fragment": PLACE, "fragments": PLACE, "incarnation": COUNT},
    m.BoundaryMessage: {
        "layer": PLACE,
        "replica": PLACE,
        "batch": COUNT,
        "incarnation": COUNT,
        "version": COUNT,
        "sender": PLACE,
        "sender_layer": PLACE,
    },
    m.SynthesisMessage: {
        "batch": COUNT,
        "incarnation": COUNT,
        "classes": SIZE,
        "loss": MEASURED,
        "shape": SIZE,
    },
    m.DescribeReply: {"bulk_port": PORT, "time": SECONDS},
    m.JoinRequest: {"pid": SMALL, "speed": RATE, "work": RATE},
    m.JoinReply: {
        "layer": PLACE,
        "replica": PLACE,
        "incarnation": COUNT,
        "next_batch": COUNT,
        "replicas": PLACE,
        "end": COUNT,
    },
    m.Peer: {"layer": PLACE, "replica": PLACE, "incarnation": COUNT},
    Utilization: {
        "cpu_percent": LOAD,
        "rss_bytes": COUNT,
        "host_cpu_percent": LOAD,
        "memory_percent": PERCENT,
        "disk_percent": PERCENT,
        "gpu_percent": PERCENT,
        "gpu_memory_percent": PERCENT,
    },
    m.Telemetry: {
        "steps": COUNT,
        "next_batch": COUNT,
        "lost_batches": COUNT,
        "in_flight": SMALL,
        "step_seconds": SECONDS,
        "waiting_seconds": SECONDS,
        "delays": Mapped(SMALL, COUNT),
        "loss": MEASURED,
        "gradient_loss": MEASURED,
        "gradient_cosine": COSINE,
        "samples_per_second": RATE,
        "cpu_seconds": SECONDS,
        "peak_rss_bytes": COUNT,
        "pulls": COUNT,
        "gradient_norm_ratio": MEASURED,
        "input_loss": MEASURED,
        "refused_from_below": COUNT,
        "refused_from_above": COUNT,
        "lost_states": COUNT,
        "push_steps": COUNT,
        "time_loss": MEASURED,
        "time_cosine": COSINE,
        "time_norm_ratio": MEASURED,
        "own_loss": MEASURED,
        "time_aux_loss": MEASURED,
        "sent_bytes": COUNT,
        "received_bytes": COUNT,
    },
    Curriculum: {"starts": COUNT, "decided": COUNT},
    # The bits of a network that has diverged are NaN or infinite.
    Score: {"block": COUNT, "bits": Range(0, math.inf, measured=True), "answers": COUNT},
    m.HeartbeatRequest: {"incarnation": COUNT, "beat": COUNT, "peers_version": COUNT},
    m.HeartbeatReply: {"peers_version": COUNT, "hold": COUNT, "end": COUNT},
    m.LeaveRequest: {"incarnation": COUNT},
    m.Seat: {
        "layer": PLACE,
        "replica": PLACE,
        "pid": SMALL,
        "incarnation": COUNT,
        "lease_age": SECONDS,
        "beat": COUNT,
        "grants": SMALL,
        "still_seconds": SECONDS,
    },
    # The loss of a network that has diverged is a result; an error in per cent is always finite.
    m.Evaluation: {
        "batches": COUNT,
        "test_error_percent": PERCENT,
        "test_loss": MEASURED,
        "versions": Mapped(None, COUNT),
        "metrics": Mapped(None, MEASURED),
    },
    Counters: {
        "staleness": Mapped(SMALL, COUNT),
        "pushes": COUNT,
        "pulls": COUNT,
        "duplicate_pushes": COUNT,
        "fenced": COUNT,
        "malformed": COUNT,
        "bytes_received": COUNT,
        "bytes_sent": COUNT,
        "cpu_seconds": SECONDS,
        "peak_rss_bytes": COUNT,
        "refused_pushes": COUNT,
        "restarts": COUNT,
    },
    m.Kept: {"number": COUNT, "time": SECONDS, "nbytes": COUNT, "versions": Mapped(None, COUNT)},
    LayerPushes: {"layer": PLACE, "staleness": Mapped(SMALL, COUNT), "refused": COUNT},
    m.StatusReply: {
        "batches": COUNT,
        "of_batches": COUNT,
        "waiting_slaves": SMALL,
        "training_seconds": SECONDS,
        "starts": COUNT,
        "versions": Mapped(None, COUNT),
        "delays": Mapped(SMALL, COUNT),
        "waiting_fraction": Mapped(SMALL, FRACTION),
        "lost_batches": COUNT,
        "still_seconds": SECONDS,
        "successors": COUNT,
        "lost_states": COUNT,
        "stage": PLACE,
    },
    stages.Stage: {"start": COUNT, "replicas": PLACE},
    stages.Promise: {"question": COUNT, "batch": COUNT},
    stages.Resizing: {"replicas": PLACE, "missing": PLACE, "start": COUNT},
    stages.ResizeRequest: {"replicas": PLACE},
    stages.ResizeReply: {"replicas": PLACE},
    m.RollbackRequest: {"number": COUNT},
    m.RollbackReply: {"before": Mapped(None, COUNT), "fenced": SMALL},
    stores.ShardState: {"version": COUNT, "progress": Mapped(PLACE, COUNT), "nbytes": COUNT},
    stores.SeatPushes: {
        "layer": PLACE,
        "replica": PLACE,
        "pushes": COUNT,
        "pulls": COUNT,
        "duplicate_pushes": COUNT,
        "refused_pushes": COUNT,
        "staleness": Mapped(SMALL, COUNT),
    },
    stores.AttendRequest: {"pid": SMALL, "order": COUNT, "snapshots": COUNT},
    stores.StoreTask: {"number": COUNT, "snapshot": COUNT, "kept": COUNT},
    stores.TaskResult: {"number": COUNT, "nbytes": COUNT, "versions": Mapped(None, COUNT)},
    stores.ListedLease: {"incarnation": COUNT, "layer": PLACE, "replica": PLACE},
    stores.StoreOrder: {"number": COUNT, "incarnations": COUNT},
    stores.AttendReply: {"number": PLACE},
    stores.LocateReply: {"store": PLACE},
    stores.PlaceRequest: {"incarnation": COUNT, "nbytes": COUNT},
    stores.StoreState: {"number": PLACE, "pid": SMALL, "report_age": SECONDS, "nbytes": COUNT},
}
# Laid out by rules of their own, which `common.shards.table.check_table` checks.
ELSEWHERE = (Table, TensorSpec)


def check(message: Value) -> Value:
    """Return a message after a check of its numbers.

    Raises:
        MalformedError: a number is out of range; the text has field and value.
    """
    kind: Any = type(message)
    for name, low, high in _plain_rules(kind):
        value = getattr(message, name)
        if not low <= value <= high:
            _rule(kind, name).check(value, _full_name(message, name))
    for name, rule in _other_rules(kind):
        _check_each(rule, getattr(message, name), _full_name(message, name))
    return message


def _full_name(message: object, name: str) -> str:
    return f"{type(message).__name__}.{name}"


def _check_each(rule: Rule, value: Any, name: str) -> None:
    if isinstance(rule, Mapped):
        for key, each in value.items():
            if rule.keys is not None:
                rule.keys.check(key, f"a key of {name}")
            rule.values.check(each, f"{name}[{key!r:.40}]")
    elif isinstance(value, list):
        for each in value:
            rule.check(each, name)
    elif value is not None:
        rule.check(value, name)


def _rule(kind: type, name: str) -> Range:
    rule = RANGES[kind][name]
    assert isinstance(rule, Range)
    return rule


@lru_cache(maxsize=256)
def _plain_rules(kind: type) -> tuple[tuple[str, float, float], ...]:
    """Return field, least and greatest value of plain numbers, which nearly every message has alone."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (name, rule.low, rule.high)
        for name, rule in RANGES.get(kind, {}).items()
        if isinstance(rule, Range) and hints[name] in (int, float)
    )


@lru_cache(maxsize=256)
def _other_rules(kind: type) -> tuple[tuple[str, Rule], ...]:
    plain = {name for name, _, _ in _plain_rules(kind)}
    return tuple((name, rule) for name, rule in RANGES.get(kind, {}).items() if name not in plain)


def numbers(kind: type) -> Iterator[str]:
    """Yield the names of a message's fields that hold numbers."""
    for name, annotation in typing.get_type_hints(kind).items():
        if any(_is_number(each) for each in (annotation, *typing.get_args(annotation))):
            yield name


def _is_number(annotation: Any) -> bool:
    plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    return plain and issubclass(annotation, int | float) and not issubclass(annotation, bool | IntEnum)


def restore(kind: type[Value], saved: dict[str, Any]) -> Value:
    """Build a message from JSON of a state file, whose keys are text and whose NaN is null.

    Raises:
        MalformedError: a number is out of range; the text has field and value.
    """
    hints = typing.get_type_hints(kind)
    return check(kind(**{name: _restored(hints[name], value) for name, value in saved.items()}))


def _restored(annotation: Any, value: Any) -> Any:
    if annotation is float and value is None:
        return math.nan
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return restore(annotation, value)
    if typing.get_origin(annotation) is dict and typing.get_args(annotation)[0] is int:
        return {int(key): each for key, each in value.items()}
    return value


def _check_complete() -> None:
    """Check that every number of every message has a range, and that no range is left over."""
    for kind in {**vars(m), **vars(pushes), **vars(stores), **vars(stages)}.values():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in ELSEWHERE:
            due, declared = set(numbers(kind)), set(RANGES.get(kind, {}))
            if due != declared:
                raise AssertionError(f"{kind.__name__}: {sorted(due ^ declared)} differ from RANGES")


_check_complete()
