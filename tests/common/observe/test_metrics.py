"""The metrics' names by Prometheus' rules, and histograms that count as one would by hand."""

from __future__ import annotations

import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from common.observe import metrics
from common.observe.metrics import DECLARED, MASTER, SLAVE, STORE, Histogram, Metric, Scrape


def test_every_name_is_declared_once() -> None:
    names = [metric.name for metric in DECLARED]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("metric", DECLARED, ids=lambda metric: metric.name)
def test_names_units_and_labels_are_by_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"layerwise_[a-z]+(_[a-z]+)*", metric.full_name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert set(metric.labels) <= {"layer", "replica", "shard", "metric", "reason", "store"}
    assert not re.search(r"milli|micro|percent|kilo|mega|minutes|_ms|_mb", metric.name)
    assert metric.help.endswith(".")
    assert (metric.kind == "histogram") == bool(metric.bounds)


def test_staleness_and_delay_have_the_designs_buckets() -> None:
    powers = [0, *(2**n for n in range(11))]
    assert [*metrics.PUSH_STALENESS.bounds] == [*metrics.GRADIENT_DELAY.bounds] == powers


@given(st.lists(st.integers(0, 3000)))
def test_a_histogram_counts_what_is_at_most_each_bound(values: list[int]) -> None:
    observed = Histogram(metrics.PUSH_STALENESS)
    for value in values:
        observed.observe(value)
    counted = Histogram.of(metrics.PUSH_STALENESS, {v: values.count(v) for v in values})
    by_hand = [sum(v <= bound for v in values) for bound in metrics.COUNT_BOUNDS] + [len(values)]
    assert observed.read() == counted.read() == (by_hand, sum(values))


def test_no_observation_of_several_threads_is_lost() -> None:
    histogram = Histogram(metrics.JOURNAL_SECONDS)

    def observe() -> None:
        for _ in range(5000):
            histogram.observe(0.25)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts, total = histogram.read()
    assert (counts[-1], total) == (20_000, 5000.0)


@pytest.mark.parametrize("where", [MASTER, SLAVE, STORE])
def test_what_a_process_shows_is_read_back_by_prometheus_own_parser(where: str) -> None:
    scrape = Scrape(where, "light")
    shown = [metric for metric in DECLARED if metric.is_of(where)]
    for metric in shown:
        value: float | Histogram = 3.0
        if metric.kind == "histogram":
            value = Histogram(metric)
            value.observe(1)
        scrape.add(metric, value, *("1" for _ in metric.labels))
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(scrape.text().decode())
        for sample in family.samples
    }
    for metric in shown:
        for name in metrics.sample_names(metric):
            assert set(samples[name].labels) - {"le"} == {*metric.labels, "profile"}


def test_a_metric_of_another_process_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Scrape(SLAVE, "light").add(metrics.SEATS, 1)
