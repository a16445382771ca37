"""common.config.tasks: metrics of units stand behind those of the task, under known and bounded names."""

from __future__ import annotations

from common.config.sections import Config
from common.config.tasks import MOST_UNIT_METRICS, name_unit_metric, sort_unit_metrics, unit_of
from common.observe import measures


def test_metrics_of_units_stand_behind_those_of_the_task() -> None:
    found = {"unit_10_loss": 4.0, "stray": 3.0, "unit_2_loss": 2.0, "error_percent": 1.0, "unit_2_error": 5.0}
    ordered = Config().order_metrics(found)
    assert list(ordered) == ["error_percent", "unit_2_error", "unit_2_loss", "unit_10_loss"]
    shown = measures.of({"metrics": ordered, "test_loss": 9.0})
    assert list(shown) == ["error_percent", "test_loss", "unit_2_error", "unit_2_loss", "unit_10_loss"]
    assert measures.axis("unit_2_error_percent") == "test unit 2 error, %"


def test_names_of_units_metrics_are_known_and_bounded() -> None:
    assert unit_of(name_unit_metric(12, "error_percent")) == 12
    assert [unit_of(name) for name in ("unit_0_loss", "unit_loss", "unit_1_", "units_1_loss", "loss")] == [
        0
    ] * 5
    many = [name_unit_metric(unit, "loss") for unit in range(1, MOST_UNIT_METRICS + 9)]
    assert sort_unit_metrics(many) == many[:MOST_UNIT_METRICS]
