"""What is looked at in a run: every panel once, whatever draws it."""

from __future__ import annotations

from dataclasses import dataclass

# Units that every drawer knows.
SECONDS, RATIO, BYTES, BYTES_PER_SECOND, PLAIN = "s", "ratio", "bytes", "bytes/s", ""


@dataclass(frozen=True)
class Query:
    """PromQL, and how its series are called: `{{label}}` is a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: what it shows.
        text: what to read from it.
        unit: of its axis.
        queries: its series.
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page of panels; `name` is its file's."""

    name: str
    title: str
    panels: tuple[Panel, ...]


def _panel(title: str, text: str, unit: str, *queries: tuple[str, str]) -> Panel:
    return Panel(title, text, unit, tuple(Query(*query) for query in queries))


def _quantile(part: float, histogram: str, by: str = "layer", window: str = "1m") -> str:
    return f"histogram_quantile({part:g}, sum by (le, {by}) (rate(layerwise_{histogram}_bucket[{window}])))"


def _rate(counter: str, by: str = "layer") -> str:
    return f"sum by ({by}) (rate(layerwise_{counter}[1m]))"


_SEAT = "layer {{layer}}, replica {{replica}}"
_LAYER = "layer {{layer}}"

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    (
        _panel(
            "Test error", "As the evaluator last measured it.", RATIO, ("layerwise_test_error_ratio", "error")
        ),
        _panel("Test loss", "The same, an example.", PLAIN, ("layerwise_test_loss", "loss")),
        _panel(
            "Progress",
            "Batches that the whole network has gone through, of those it is to.",
            PLAIN,
            ("layerwise_run_batches", "batches"),
            ("layerwise_run_length_batches", "of"),
        ),
        _panel(
            "Samples a second",
            "What goes through the whole network: its slowest layer's.",
            PLAIN,
            ("run:layerwise_samples:rate1m", "network"),
            ("layer:layerwise_samples:rate1m", _LAYER),
        ),
        _panel(
            "Seats without a slave",
            "Above zero: a slave was lost and none has taken over.",
            PLAIN,
            ("layerwise_vacant_seats", "vacant"),
            ("layerwise_seats", "seats in all"),
            ("layerwise_waiting_slaves", "slaves that wait for a seat"),
        ),
        _panel(
            "Age of leases",
            "Since a slave's last heartbeat. What climbs is a slave in trouble.",
            SECONDS,
            ("layerwise_lease_age_seconds", _SEAT),
        ),
        _panel(
            "What was refused",
            "A few after a slave was replaced are in order; a steady rate is not.",
            PLAIN,
            ("increase(layerwise_fenced_pushes_total[5m])", "fenced"),
            ("sum(increase(layerwise_duplicate_pushes_total[5m]))", "duplicate"),
            ("sum(increase(layerwise_refused_pushes_total[5m]))", "too stale"),
            ("increase(layerwise_malformed_messages_total[5m])", "malformed"),
        ),
        _panel(
            "Training loss", "Of the layer that has the loss: the top one.", PLAIN, ("layerwise_loss", _SEAT)
        ),
        _panel(
            "Starts and lost leases",
            "A step: the master was started again, or a slave was silent too long.",
            PLAIN,
            ("layerwise_master_starts_total", "starts of the master"),
            ("layerwise_leases_failed_total", "leases failed"),
            ("sum(layerwise_leases_granted_total)", "leases granted on seats that are taken"),
        ),
    ),
)

STALENESS = Dashboard(
    "staleness",
    "Staleness and delay",
    (
        _panel(
            "Staleness of pushes",
            "What other replicas pushed between a slave's fetch and its push.",
            PLAIN,
            (_quantile(0.5, "push_staleness"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "push_staleness"), f"p99 of {_LAYER}"),
            ("layerwise_push_staleness_bound", "bound"),
        ),
        _panel(
            "Delay of gradients",
            "Batches that a layer started before the gradient of one came back.",
            PLAIN,
            (_quantile(0.5, "gradient_delay_batches"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "gradient_delay_batches"), f"p99 of {_LAYER}"),
        ),
        _panel(
            "Mean delay",
            "Climbing: the layers above do not keep up.",
            PLAIN,
            ("layer:layerwise_gradient_delay_batches:mean5m", _LAYER),
        ),
        _panel(
            "In flight",
            "Batches that are out without their delta.",
            PLAIN,
            ("layerwise_in_flight_batches", _SEAT),
        ),
        _panel(
            "Mailboxes",
            "Messages that wait: at the relay for a slave, and in the slave's own inbox.",
            PLAIN,
            ("layerwise_mailbox_depth", "{{job}}, " + _SEAT),
        ),
        _panel(
            "Lost batches", "Batches that died with a slave.", PLAIN, ("layerwise_lost_batches_total", _SEAT)
        ),
        _panel(
            "Too stale to take",
            "The part of pushes refused by the rule `bound`.",
            RATIO,
            ("layer:layerwise_refused_pushes:ratio5m", _LAYER),
        ),
    ),
)

THROUGHPUT = Dashboard(
    "throughput",
    "Throughput",
    (
        _panel(
            "Samples a second",
            "By layer; the lowest is the bottleneck.",
            PLAIN,
            (_rate("samples_total"), _LAYER),
        ),
        _panel(
            "A step",
            "From taking an input to having pushed.",
            SECONDS,
            (_quantile(0.5, "step_seconds"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "step_seconds"), f"p99 of {_LAYER}"),
        ),
        _panel(
            "Waiting",
            "The part of a step that stands still for serializing, sending, a push or a fetch.",
            RATIO,
            ("layer:layerwise_waiting:ratio1m", _LAYER),
        ),
        _panel("Pushes a second", "Applied by the master.", PLAIN, (_rate("pushes_total"), _LAYER)),
        _panel(
            "A push",
            "From handing it over to the master's answer, beside the computing.",
            SECONDS,
            (_quantile(0.5, "push_seconds"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "push_seconds"), f"p99 of {_LAYER}"),
        ),
        _panel(
            "A pull",
            "From asking for a version to having it, since the slave has its layer.",
            SECONDS,
            (
                "histogram_quantile(0.5, sum by (le, layer) (layerwise_pull_seconds_bucket))",
                f"p50 of {_LAYER}",
            ),
        ),
        _panel(
            "Journal and snapshots",
            "Making a push durable; writing all shards to the disk.",
            SECONDS,
            ("histogram_quantile(0.99, sum by (le) (layerwise_journal_seconds_bucket))", "journal, p99"),
            ("histogram_quantile(0.99, sum by (le) (layerwise_snapshot_seconds_bucket))", "snapshot, p99"),
        ),
        _panel(
            "Bytes",
            "That came in and went out, by process.",
            BYTES_PER_SECOND,
            ("sum by (job, instance) (rate(layerwise_received_bytes_total[1m]))", "{{job}} {{instance}} in"),
            ("sum by (job, instance) (rate(layerwise_sent_bytes_total[1m]))", "{{job}} {{instance}} out"),
        ),
        _panel(
            "Versions", "Pushes that each shard has taken.", PLAIN, ("layerwise_shard_version", "{{shard}}")
        ),
        _panel("Pulls a second", "Versions given to slaves.", PLAIN, (_rate("pulls_total"), _LAYER)),
    ),
)

SYNTHESIZERS = Dashboard(
    "synthesizers",
    "Synthesizers",
    (
        _panel(
            "Cosine of M",
            "Between M's gradient and the one that came from above: 1 is perfect, 0 says nothing.",
            PLAIN,
            ("layerwise_gradient_cosine", _SEAT),
        ),
        _panel("Loss of M", "L_M, an example.", PLAIN, ("layerwise_gradient_loss", _SEAT)),
        _panel(
            "Loss of I", "L_I, an example; with unlock `full` alone.", PLAIN, ("layerwise_input_loss", _SEAT)
        ),
        _panel(
            "Versions of M and I",
            "Pushes that their shards have taken.",
            PLAIN,
            ('layerwise_shard_version{shard=~".*/(gradient|input)"}', "{{shard}}"),
        ),
    ),
)

MACHINES = Dashboard(
    "machines",
    "Machines",
    (
        _panel("CPUs", "Of the machine.", RATIO, ("layerwise_cpu_utilization_ratio", "{{job}} {{instance}}")),
        _panel(
            "CPUs of the process",
            "1 is one core.",
            PLAIN,
            ("rate(layerwise_process_cpu_seconds_total[1m])", "{{job}} {{instance}}"),
            ("layerwise_process_utilization_ratio", "{{job}} {{instance}}, as it says itself"),
        ),
        _panel(
            "Memory", "Of the machine.", RATIO, ("layerwise_memory_utilization_ratio", "{{job}} {{instance}}")
        ),
        _panel(
            "Memory of the process",
            "Resident.",
            BYTES,
            ("layerwise_process_resident_memory_bytes", "{{job}} {{instance}}"),
        ),
        _panel(
            "Disk",
            "In use. A full one stops snapshots and leases.",
            RATIO,
            ("layerwise_disk_utilization_ratio", "{{job}} {{instance}}"),
        ),
        _panel(
            "GPU",
            "Of slaves on one.",
            RATIO,
            ("layerwise_gpu_utilization_ratio", "{{instance}}"),
            ("layerwise_gpu_memory_utilization_ratio", "{{instance}} memory"),
        ),
    ),
)

DASHBOARDS = (OVERVIEW, STALENESS, THROUGHPUT, SYNTHESIZERS, MACHINES)
