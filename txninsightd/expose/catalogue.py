"""The closed catalogue of metrics: name, type, labels, unit and help of each, in this one place.

The collector and the readers build their metrics from these definitions and from nothing else; a test holds what
`/metrics` shows, and the table in docs/metrics.md, equal to the catalogue. `python -m txninsightd.expose.catalogue`
prints that table.

Base units only, counters end in `_total`, and no metric has a `txn_id` label: exemplars carry it. The values of the
labels txn_type, step, status and topic come from outside and are capped: past `limits.label_values` distinct ones, all
further ones become `__overflow__`; what events leave out is `unspecified`.
"""

from enum import StrEnum
from typing import NamedTuple

from prometheus_client.core import Metric


class MetricType(StrEnum):
    """The types, by OpenMetrics' names."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    GAUGE_HISTOGRAM = "gaugehistogram"


class Counted(StrEnum):
    """Where a counter is counted, which tells when it begins again (monotonic_counters.py makes up for that)."""

    STATE = "state"
    """In the aggregator's state: a checkpoint holds it, and what came after is read and counted again."""
    PARENT = "parent"
    """By the parent, or by the readers in their files: at 0 when the parent begins."""
    AGGREGATOR = "aggregator"
    """By the aggregator outside of its state: at 0 when the aggregator begins."""


class Definition(NamedTuple):
    """One metric. `name` as it is queried, a counter's `_total` included; `counted` is for counters and histograms."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str
    unit: str = ""
    counted: Counted | None = None

    def family(self) -> Metric:
        """This metric without samples, as prometheus_client wants it."""
        # OpenMetrics: the samples of a counter end in `_total`, their family does not.
        return Metric(self.name.removesuffix("_total"), self.help, self.type.value, self.unit)


# --- Business transactions, now ---------------------------------------------------------------------------------------

TRANSACTIONS = Definition(
    "txninsight_transactions",
    MetricType.GAUGE,
    ("txn_type", "state"),
    "Live business transactions by state: open, tentatively_closed (the close is written but not yet committed), "
    "aborted (waiting for a retry), or stuck, which counts instead of the others.",
)
PARTIAL_TRANSACTIONS = Definition(
    "txninsight_partial_transactions",
    MetricType.GAUGE,
    ("txn_type",),
    "Live business transactions whose beginning was not seen: they have no duration and never become stuck.",
)
STUCK_TRANSACTIONS = Definition(
    "txninsight_stuck_transactions",
    MetricType.GAUGE,
    ("txn_type", "cause"),
    "Business transactions that are stuck now, by cause.",
)
OPEN_AGE = Definition(
    "txninsight_open_age_seconds",
    MetricType.GAUGE_HISTOGRAM,
    ("txn_type",),
    "How long ago the transactions that are not closed yet were opened, to the second.",
    unit="seconds",
)
OLDEST_OPEN_AGE = Definition(
    "txninsight_oldest_open_age_seconds",
    MetricType.GAUGE,
    ("txn_type",),
    "How long ago the oldest transaction that is not closed yet was opened, to the second; 0 without one.",
    unit="seconds",
)
LINGERING_TRANSACTIONS = Definition(
    "txninsight_lingering_transactions",
    MetricType.GAUGE,
    (),
    "Settled business transactions that the API can still show.",
)
REMEMBERED_TRANSACTIONS = Definition(
    "txninsight_remembered_transactions",
    MetricType.GAUGE,
    (),
    "Ended business transactions whose ids are remembered, so that late events do not raise them from the dead.",
)

# --- Business transactions, counted -----------------------------------------------------------------------------------

TRANSACTIONS_OPENED = Definition(
    "txninsight_transactions_opened_total",
    MetricType.COUNTER,
    ("txn_type",),
    "Business transactions of which a first open was seen, committed or not.",
    counted=Counted.STATE,
)
TRANSACTIONS_FINISHED = Definition(
    "txninsight_transactions_finished_total",
    MetricType.COUNTER,
    ("txn_type", "outcome", "status"),
    "Business transactions that were settled, by outcome, and by the status that the committed close names.",
    counted=Counted.STATE,
)
STUCK = Definition(
    "txninsight_stuck_total",
    MetricType.COUNTER,
    ("txn_type", "cause"),
    "How often a business transaction became stuck or changed its cause, after the first complete catch-up.",
    counted=Counted.STATE,
)
REPLAYED_TRANSACTIONS_FINISHED = Definition(
    "txninsight_replayed_transactions_finished_total",
    MetricType.COUNTER,
    ("txn_type", "outcome"),
    "Those of the settled business transactions that were replayed with their original time (txninsight-replay "
    "--keep-time): history, about which nobody is to be alerted.",
    counted=Counted.STATE,
)
OBJECTIVE = Definition(
    "txninsight_objective_seconds",
    MetricType.GAUGE,
    ("txn_type",),
    "objective.duration_s: how long a closed transaction may take, for the types that have such an objective.",
    unit="seconds",
)
OBJECTIVE_RATIO = Definition(
    "txninsight_objective_ratio",
    MetricType.GAUGE,
    ("txn_type",),
    "objective.ratio: the share of closed transactions that are to take no longer than txninsight_objective_seconds.",
)
OBJECTIVE_MISSED = Definition(
    "txninsight_objective_missed_total",
    MetricType.COUNTER,
    ("txn_type",),
    "Closed transactions that took longer than txninsight_objective_seconds, those replayed with their original time "
    "left out.",
    counted=Counted.STATE,
)
OPEN_AGE_OBJECTIVE = Definition(
    "txninsight_open_age_objective_seconds",
    MetricType.GAUGE,
    ("txn_type",),
    "objective.open_age_s: how old an open transaction may become, for the types that have such an objective.",
    unit="seconds",
)
ANOMALIES = Definition(
    "txninsight_anomalies_total",
    MetricType.COUNTER,
    ("kind",),
    "Oddities of business transactions, each kind once a transaction at its settlement; late_event counts each event.",
    counted=Counted.STATE,
)
SETTLED_BY_TIMEOUT = Definition(
    "txninsight_settled_by_timeout_total",
    MetricType.COUNTER,
    (),
    "Business transactions settled only because state.settle_max_s was over: their figures may lack unread events.",
    counted=Counted.STATE,
)
TRANSACTION_DURATION = Definition(
    "txninsight_transaction_duration_seconds",
    MetricType.HISTOGRAM,
    ("txn_type",),
    "From the earliest committed open to the first committed close, by the events' own timestamps.",
    unit="seconds",
    counted=Counted.STATE,
)
STEP_DURATION = Definition(
    "txninsight_step_duration_seconds",
    MetricType.HISTOGRAM,
    ("txn_type", "step"),
    "From a step's open to its done, in transactions that closed.",
    unit="seconds",
    counted=Counted.STATE,
)
STEP_GAP = Definition(
    "txninsight_step_gap_seconds",
    MetricType.HISTOGRAM,
    ("txn_type", "step"),
    "From the event before a step to the step's open, in transactions that closed.",
    unit="seconds",
    counted=Counted.STATE,
)
COMMIT_DELAY = Definition(
    "txninsight_commit_delay_seconds",
    MetricType.HISTOGRAM,
    ("txn_type",),
    "From the moment the close was read uncommitted to the moment its commit was seen.",
    unit="seconds",
    counted=Counted.STATE,
)

# --- Reading the topics -----------------------------------------------------------------------------------------------

RECORDS = Definition(
    "txninsight_records_total",
    MetricType.COUNTER,
    ("view", "topic", "result"),
    "Records read: events (ok), unreadable ones (malformed, oversized), none of ours (foreign), and records "
    "that could not be read at all (gap).",
    counted=Counted.STATE,
)
CONSUMER_LAG = Definition(
    "txninsight_consumer_lag_records",
    MetricType.GAUGE,
    ("view", "topic"),
    "Offsets between what the aggregator has applied and the last known end: of the log for the monitor, of "
    "what is decided (the last stable offset) for the validator.",
)
VIEW_AGE = Definition(
    "txninsight_view_age_seconds",
    MetricType.GAUGE,
    ("view",),
    "How blind we are: the time since the moment up to which everything in every partition is known to have been read.",
    unit="seconds",
)
UNDECIDED_RECORDS = Definition(
    "txninsight_undecided_records",
    MetricType.GAUGE,
    ("topic",),
    "Events that were read but are neither committed nor aborted yet.",
)
LSO_AGE = Definition(
    "txninsight_lso_age_seconds",
    MetricType.GAUGE,
    ("topic",),
    "How long the last stable offset, as the validator sees it, has stood still with records behind it that the "
    "monitor has read; of the partition where that is longest; 0 when nothing waits.",
    unit="seconds",
)
LABEL_VALUES_CUT = Definition(
    "txninsight_label_values_cut_total",
    MetricType.COUNTER,
    ("label",),
    "How often a label value was replaced by __overflow__, since limits.label_values others were known before; "
    "of topics: how many.",
    counted=Counted.STATE,
)
LIMIT_HITS = Definition(
    "txninsight_limit_hits_total",
    MetricType.COUNTER,
    ("limit",),
    "What was given up to stay within a limit of the configuration: transactions evicted (open_transactions, "
    "kept_events, events_per_transaction), steps not kept (events_per_transaction, undecided_records), settled ones no "
    "longer shown (lingering, kept_events), ids forgotten (remembered_ids), labels cut (label_values), records passed "
    "over (value_bytes).",
    counted=Counted.STATE,
)

# --- The daemon itself ------------------------------------------------------------------------------------------------

BUILD_INFO = Definition("txninsight_build_info", MetricType.GAUGE, ("version",), "Always 1; the label says what runs.")
READY = Definition(
    "txninsight_ready", MetricType.GAUGE, (), "1 when nothing is missing; what is missing, /readyz says in words."
)
CONFIG_RELOADS = Definition(
    "txninsight_config_reloads_total",
    MetricType.COUNTER,
    ("result",),
    "How often the configuration was read again (SIGHUP): applied, or refused whole since it has a fault.",
    counted=Counted.PARENT,
)
CONFIG_LAST_RELOAD_SUCCESSFUL = Definition(
    "txninsight_config_last_reload_successful",
    MetricType.GAUGE,
    (),
    "1 unless the latest reload was refused: then the log says why, and the former configuration goes on.",
)
CHILD_UP = Definition("txninsight_child_up", MetricType.GAUGE, ("child",), "1 while this child process runs.")
CHILD_RESTARTS = Definition(
    "txninsight_child_restarts_total",
    MetricType.COUNTER,
    ("child",),
    "How often this child process was started again.",
    counted=Counted.PARENT,
)
CHILD_HEARTBEAT_AGE = Definition(
    "txninsight_child_heartbeat_age_seconds",
    MetricType.GAUGE,
    ("child",),
    "Since this child process last gave a heartbeat, which only its work loop gives; it grows while the process is "
    "down. Past supervise.heartbeat_timeout_s the process is killed and started again.",
    unit="seconds",
)
CHILD_LAST_LOOP = Definition(
    "txninsight_child_last_loop_timestamp_seconds",
    MetricType.GAUGE,
    ("child",),
    "When this reader's work loop last came round, in seconds since the epoch. Written by the loop itself.",
    unit="seconds",
)
QUEUE_DEPTH = Definition(
    "txninsight_queue_depth",
    MetricType.GAUGE,
    ("child",),
    "Batches that this reader has ready and the aggregator has not taken yet, as the reader last said.",
)
CONSUMER_PAUSED = Definition(
    "txninsight_consumer_paused",
    MetricType.GAUGE,
    ("child",),
    "1 while this reader has paused its consumer since its queue is full, as the reader last said.",
)
CONSUMER_PAUSES = Definition(
    "txninsight_consumer_pauses_total",
    MetricType.COUNTER,
    ("child",),
    "How often this reader has paused its consumer since its queue was full (limits.queue_batches).",
    counted=Counted.PARENT,
)
WARMING_UP = Definition(
    "txninsight_warming_up",
    MetricType.GAUGE,
    (),
    "1 from the aggregator's start until both views have caught up on every partition: until then, what has happened "
    "since the last checkpoint is being read again, and nothing new is called stuck.",
)
CHECKPOINT_AGE = Definition(
    "txninsight_checkpoint_age_seconds",
    MetricType.GAUGE,
    (),
    "Time since the last good checkpoint; before the first, since the aggregator's start.",
    unit="seconds",
)
CHECKPOINT_INTERVAL = Definition(
    "txninsight_checkpoint_interval_seconds",
    MetricType.GAUGE,
    (),
    "state.checkpoint_every_s: how often a checkpoint is due.",
    unit="seconds",
)
CHECKPOINT_BYTES = Definition(
    "txninsight_checkpoint_bytes",
    MetricType.GAUGE,
    (),
    "Size of the last good checkpoint; 0 before the first.",
    unit="bytes",
)
CHECKPOINT_DURATION = Definition(
    "txninsight_checkpoint_duration_seconds",
    MetricType.GAUGE,
    (),
    "How long the last good checkpoint took until it was safe on disk; 0 before the first.",
    unit="seconds",
)
CHECKPOINT_FAILURES = Definition(
    "txninsight_checkpoint_failures_total",
    MetricType.COUNTER,
    (),
    "Checkpoints that could not be written.",
    counted=Counted.AGGREGATOR,
)
CHECKPOINT_FALLBACKS = Definition(
    "txninsight_checkpoint_fallbacks_total",
    MetricType.COUNTER,
    (),
    "Checkpoints that were passed over at a start, being damaged or of a newer version.",
    counted=Counted.AGGREGATOR,
)
COUNTERS_KEPT = Definition(
    "txninsight_counters_kept",
    MetricType.GAUGE,
    (),
    "1 while what counters have shown is on disk, in state.directory; at 0 it could not be written, and counters may "
    "fall at the aggregator's next start.",
)

CATALOGUE = tuple(value for value in tuple(globals().values()) if isinstance(value, Definition))
"""All definitions, in the order in which they stand above."""


def markdown_table() -> str:
    """The catalogue as docs/metrics.md shows it."""
    rows = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for d in CATALOGUE:
        labels = ", ".join(d.labels)
        rows.append(f"| `{d.name}` | {d.type.value} | {labels} | {d.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")
