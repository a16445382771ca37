"""common.strict_json: every text is JSON by the standard, and no module writes JSON by itself."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.wire.messages import Evaluation, Seat, StatusReply, Telemetry
from common.wire.use import Utilization

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "master", "slave", "deploy", "benchmarks")
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list) else value


@given(VALUES)
def test_every_value_is_valid_json_with_null_for_what_is_not_finite(value: Any) -> None:
    assert json.loads(strict_json.encode(value), parse_constant=refuse) == finite(value)


def test_order_indent_and_further_types_are_as_asked() -> None:
    assert (
        strict_json.encode({"b": math.nan, "a": (1, math.inf)}, sort_keys=True)
        == '{"a": [1, null], "b": null}'
    )
    assert strict_json.encode({"a": Path("x")}, indent=1, default=str) == '{\n "a": "x"\n}'


def writers(path: Path) -> list[str]:
    """Calls of json.dump and json.dumps in a module."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = [ast.unparse(call) for call in calls if isinstance(call, ast.Attribute)]
    return [f"{path.relative_to(ROOT)}: {name}" for name in names if name in ("json.dump", "json.dumps")]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_module_writes_json(package: str) -> None:
    found = [line for path in sorted((ROOT / package).rglob("*.py")) for line in writers(path)]
    assert [line for line in found if not line.startswith("common/strict_json.py")] == []


def test_a_message_becomes_what_dataclasses_make_of_it() -> None:
    telemetry = Telemetry(steps=3, delays={1: 2}, loss=math.inf, utilization=Utilization(cpu_percent=7.5))
    seats = [Seat(1, 0, "training", telemetry=telemetry), Seat(2, 0)]
    status = StatusReply(name="a", seats=seats, versions={"1/weights": 3}, evaluation=Evaluation(2))
    assert strict_json.to_plain(status) == dataclasses.asdict(status)
    plain = strict_json.to_plain((1, [telemetry], {"a": None}))
    assert plain == [1, [dataclasses.asdict(telemetry)], {"a": None}]
