"""Panels and queries of every dashboard."""

from __future__ import annotations

from dataclasses import dataclass

# Units of an axis.
SECONDS, RATIO, BYTES, BYTES_PER_SECOND, PLAIN = "s", "ratio", "bytes", "bytes/s", ""


@dataclass(frozen=True)
class Query:
    """PromQL and the legend of its series; `{{label}}` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A chart.

    Attributes:
        title: quantity on the chart.
        text: help for the reader.
        unit: unit of the axis.
        queries: queries that give the series.
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page of panels; `name` is also the file's name."""

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
            "Test error",
            "Latest measurement of the evaluator.",
            RATIO,
            ("layerwise_test_error_ratio", "error"),
        ),
        _panel(
            "Test loss",
            "Loss per test example, latest measurement of the evaluator.",
            PLAIN,
            ("layerwise_test_loss", "loss"),
        ),
        _panel(
            "Test metrics",
            "Metrics of the task, latest measurement of the evaluator.",
            PLAIN,
            ("layerwise_test_metric", "{{metric}}"),
        ),
        _panel(
            "Progress",
            "Batches that every layer has trained, and the length of the run.",
            PLAIN,
            ("layerwise_run_batches", "batches"),
            ("layerwise_run_length_batches", "length of the run"),
        ),
        _panel(
            "Samples a second",
            "Throughput of the whole network, that is, of the slowest layer.",
            PLAIN,
            ("run:layerwise_samples:rate1m", "network"),
            ("layer:layerwise_samples:rate1m", _LAYER),
        ),
        _panel(
            "Seats without a slave",
            "Above zero, a slave was lost and no successor has taken the seat over.",
            PLAIN,
            ("layerwise_vacant_seats", "vacant"),
            ("layerwise_seats", "seats"),
            ("layerwise_waiting_slaves", "waiting slaves"),
            ("layerwise_missing_slaves", "missing for more replicas"),
        ),
        _panel(
            "Seats that stand still",
            "Above zero, slaves do no batch for long although every seat is taken; the live page names them.",
            PLAIN,
            ("layerwise_standing_seats", "standing still"),
        ),
        _panel(
            "Age of leases",
            "Time since the slave's last heartbeat. A rising line shows a slave in trouble.",
            SECONDS,
            ("layerwise_lease_age_seconds", _SEAT),
        ),
        _panel(
            "Refused messages",
            "A few after the replacement of a slave are normal; a steady rate is not.",
            PLAIN,
            ("increase(layerwise_fenced_pushes_total[5m])", "fenced"),
            ("sum(increase(layerwise_duplicate_pushes_total[5m]))", "duplicate"),
            ("sum(increase(layerwise_refused_pushes_total[5m]))", "too stale"),
            ("increase(layerwise_malformed_messages_total[5m])", "malformed"),
            ("sum by (reason) (increase(layerwise_refused_total[5m]))", "{{reason}}"),
            ("sum(increase(layerwise_refused_boundary_messages_total[5m]))", "refused between layers"),
        ),
        _panel(
            "Training loss",
            "Loss of the top layer; with unlock `local`, of every layer; and losses of a layer's own units.",
            PLAIN,
            ("layerwise_loss", _SEAT),
            ("layerwise_own_loss", f"{_SEAT} own"),
        ),
        _panel(
            "Level",
            "Of copy and repeat-copy: the level of each layer's next batch. At 1, `waiting` means that the "
            "layer stands still until the master has decided the level.",
            PLAIN,
            ("layerwise_level", _SEAT),
            ("layerwise_level_undecided", "waiting, " + _SEAT),
        ),
        _panel(
            "Starts and lost leases",
            "An increase means that the master was restarted or a slave's lease failed.",
            PLAIN,
            ("layerwise_master_starts_total", "starts of the master"),
            ("layerwise_leases_failed_total", "leases failed"),
            ("sum(layerwise_leases_granted_total)", "leases granted"),
        ),
    ),
)

STALENESS = Dashboard(
    "staleness",
    "Staleness and delay",
    (
        _panel(
            "Staleness of pushes",
            "Pushes of other replicas between a slave's fetch and the slave's push.",
            PLAIN,
            (_quantile(0.5, "push_staleness"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "push_staleness"), f"p99 of {_LAYER}"),
            ("layerwise_push_staleness_bound", "bound"),
        ),
        _panel(
            "Delay of gradients",
            "Batches that a layer started between sending an activation and receiving the gradient.",
            PLAIN,
            (_quantile(0.5, "gradient_delay_batches"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "gradient_delay_batches"), f"p99 of {_LAYER}"),
        ),
        _panel(
            "Mean delay",
            "A rising line means that the layers above do not keep up.",
            PLAIN,
            ("layer:layerwise_gradient_delay_batches:mean5m", _LAYER),
        ),
        _panel(
            "In flight",
            "Batches sent upwards whose gradient has not arrived.",
            PLAIN,
            ("layerwise_in_flight_batches", _SEAT),
        ),
        _panel(
            "Mailboxes",
            "Messages waiting at the master's relay and in the slave's inbox.",
            PLAIN,
            ("layerwise_mailbox_depth", "{{job}}, " + _SEAT),
        ),
        _panel(
            "Lost batches",
            "Batches that never arrived, or whose gradient never did.",
            PLAIN,
            ("layerwise_lost_batches_total", _SEAT),
        ),
        _panel(
            "Lost states",
            "Times that a stream of a recurrent layer went on from zeros, or from another window's state.",
            PLAIN,
            ("layerwise_states_lost_total", _SEAT),
        ),
        _panel(
            "Pushes over the staleness bound",
            "Share of the pushes that the rule `bound` refused.",
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
            "Throughput of each layer; the lowest is the bottleneck.",
            PLAIN,
            (_rate("samples_total"), _LAYER),
        ),
        _panel(
            "Duration of a step",
            "Time from taking an input to having handed over the push.",
            SECONDS,
            (_quantile(0.5, "step_seconds"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "step_seconds"), f"p99 of {_LAYER}"),
        ),
        _panel(
            "Waiting",
            "Share of a step spent waiting for serializing, sending, a push or a fetch.",
            RATIO,
            ("layer:layerwise_waiting:ratio1m", _LAYER),
        ),
        _panel("Pushes a second", "Pushes that the master applied.", PLAIN, (_rate("pushes_total"), _LAYER)),
        _panel(
            "Duration of a push",
            "Time from handing a push over to the master's answer; computing goes on meanwhile.",
            SECONDS,
            (_quantile(0.5, "push_seconds"), f"p50 of {_LAYER}"),
            (_quantile(0.99, "push_seconds"), f"p99 of {_LAYER}"),
        ),
        _panel(
            "Steps between pushes",
            "`downpour.n_push`, which follows from the time of pushes where the key is `auto`.",
            PLAIN,
            ("layerwise_push_interval_steps", _SEAT),
        ),
        _panel(
            "Duration of a pull",
            "Time from requesting a version to receiving the whole version, over the slave's life.",
            SECONDS,
            (
                "histogram_quantile(0.5, sum by (le, layer) (layerwise_pull_seconds_bucket))",
                f"p50 of {_LAYER}",
            ),
        ),
        _panel(
            "Journal and snapshots",
            "Time to write a commit record, and to write every shard to a snapshot.",
            SECONDS,
            ("histogram_quantile(0.99, sum by (le) (layerwise_journal_seconds_bucket))", "journal, p99"),
            ("histogram_quantile(0.99, sum by (le) (layerwise_snapshot_seconds_bucket))", "snapshot, p99"),
        ),
        _panel(
            "Bytes",
            "Bytes received and sent by each process.",
            BYTES_PER_SECOND,
            ("sum by (job, instance) (rate(layerwise_received_bytes_total[1m]))", "{{job}} {{instance}} in"),
            ("sum by (job, instance) (rate(layerwise_sent_bytes_total[1m]))", "{{job}} {{instance}} out"),
        ),
        _panel("Versions", "Pushes applied to each shard.", PLAIN, ("layerwise_shard_version", "{{shard}}")),
        _panel("Pulls a second", "Shard versions sent to slaves.", PLAIN, (_rate("pulls_total"), _LAYER)),
    ),
)

SYNTHESIZERS = Dashboard(
    "synthesizers",
    "Synthesizers",
    (
        _panel(
            "Cosine of M",
            "Cosine between M's prediction and the gradient from above: 1 is perfect, 0 is worthless.",
            PLAIN,
            ("layerwise_gradient_cosine", _SEAT),
        ),
        _panel("Loss of M", "L_M per example.", PLAIN, ("layerwise_gradient_loss", _SEAT)),
        _panel(
            "Loss of I", "L_I per example; only with unlock `full`.", PLAIN, ("layerwise_input_loss", _SEAT)
        ),
        _panel(
            "Cosine of M in time",
            "Cosine between M in time's prediction and target at a window's start; near 0 where later loss "
            "is chance.",
            PLAIN,
            ("layerwise_time_cosine", _SEAT),
        ),
        _panel("Loss of M in time", "Per stream.", PLAIN, ("layerwise_time_loss", _SEAT)),
        _panel(
            "Loss of the head of M in time",
            "Per stream; only with time.aux.",
            PLAIN,
            ("layerwise_time_aux_loss", _SEAT),
        ),
        _panel(
            "Versions of M and I",
            "Pushes applied to the shards of M, I and M in time.",
            PLAIN,
            ('layerwise_shard_version{shard=~".*/(gradient|input|time)"}', "{{shard}}"),
        ),
    ),
)

MACHINES = Dashboard(
    "machines",
    "Machines",
    (
        _panel(
            "CPUs",
            "Utilization of the machine's cores.",
            RATIO,
            ("layerwise_cpu_utilization_ratio", "{{job}} {{instance}}"),
        ),
        _panel(
            "CPUs of the process",
            "CPU use of the process; 1 is a whole core.",
            PLAIN,
            ("rate(layerwise_process_cpu_seconds_total[1m])", "{{job}} {{instance}}"),
            ("layerwise_process_utilization_ratio", "{{job}} {{instance}}, self-reported"),
        ),
        _panel(
            "Memory",
            "Used share of the machine's memory.",
            RATIO,
            ("layerwise_memory_utilization_ratio", "{{job}} {{instance}}"),
        ),
        _panel(
            "Memory of the process",
            "Resident memory of the process.",
            BYTES,
            ("layerwise_process_resident_memory_bytes", "{{job}} {{instance}}"),
        ),
        _panel(
            "Disk",
            "Used share of the process' disk. A full disk stops snapshots and leases.",
            RATIO,
            ("layerwise_disk_utilization_ratio", "{{job}} {{instance}}"),
        ),
        _panel(
            "Load of stores",
            "CPU use of each store's process, and the pushes that it applies in a second.",
            PLAIN,
            ("rate(layerwise_store_cpu_seconds_total[1m])", "store {{store}}: cores"),
            ("rate(layerwise_store_pushes_total[1m])", "store {{store}}: pushes a second"),
        ),
        _panel(
            "Reports of stores",
            "Time since a store's last report. A rising line shows a store in trouble.",
            SECONDS,
            ("layerwise_store_report_age_seconds", "store {{store}}"),
        ),
        _panel(
            "Shards of stores",
            "Bytes of the tensors that each store keeps.",
            BYTES,
            ("layerwise_store_bytes", "store {{store}}"),
        ),
        _panel(
            "Disks of stores",
            "Used share of the disk of each store's directory.",
            RATIO,
            ("layerwise_store_disk_utilization_ratio", "store {{store}}"),
        ),
        _panel(
            "GPU",
            "Utilization of a slave's GPU and GPU memory.",
            RATIO,
            ("layerwise_gpu_utilization_ratio", "{{instance}}"),
            ("layerwise_gpu_memory_utilization_ratio", "{{instance}} memory"),
        ),
    ),
)

DASHBOARDS = (OVERVIEW, STALENESS, THROUGHPUT, SYNTHESIZERS, MACHINES)
