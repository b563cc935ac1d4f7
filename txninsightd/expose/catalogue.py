"""The closed catalogue of metrics: the name, type, labels, unit and help of each.

The collector and the readers build their metrics only from these definitions. A test compares `/metrics` and the table
in docs/metrics.md with the catalogue. `python -m txninsightd.expose.catalogue` prints that table.

Metrics have base units, counters end in `_total`, and no metric has a `txn_id` label: exemplars carry the id. The
values of the labels txn_type, step, status and topic come from outside and are capped: after `limits.label_values`
distinct values, all further ones become `__overflow__`. A field that an event leaves out becomes `unspecified`.
"""

from enum import StrEnum
from typing import NamedTuple

from prometheus_client.core import Metric


class MetricType(StrEnum):
    """Metric types, with OpenMetrics' names."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    GAUGE_HISTOGRAM = "gaugehistogram"


class Counted(StrEnum):
    """Where a counter is counted. It tells when the counter resets; monotonic_counters.py hides the reset."""

    STATE = "state"
    """In the aggregator's state: a checkpoint holds it, and later records are read and counted again."""
    PARENT = "parent"
    """By the parent, or by the readers in their files: 0 when the parent starts."""
    AGGREGATOR = "aggregator"
    """By the aggregator outside its state: 0 when the aggregator starts."""


class Definition(NamedTuple):
    """One metric. `name` is as queried, with a counter's `_total`; `counted` is for counters and histograms."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str
    unit: str = ""
    counted: Counted | None = None

    def family(self) -> Metric:
        """This metric without samples, as a prometheus_client family."""
        # OpenMetrics: a counter's samples end in `_total`, its family does not.
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
    "Live business transactions without a seen beginning: they have no duration and never become stuck.",
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
    "Ages of the transactions that are not closed yet, to the second.",
    unit="seconds",
)
OLDEST_OPEN_AGE = Definition(
    "txninsight_oldest_open_age_seconds",
    MetricType.GAUGE,
    ("txn_type",),
    "Age of the oldest transaction that is not closed yet, to the second; 0 without one.",
    unit="seconds",
)
LINGERING_TRANSACTIONS = Definition(
    "txninsight_lingering_transactions",
    MetricType.GAUGE,
    (),
    "Settled business transactions that the API still shows.",
)
REMEMBERED_TRANSACTIONS = Definition(
    "txninsight_remembered_transactions",
    MetricType.GAUGE,
    (),
    "Remembered ids of ended business transactions: late events do not reopen them.",
)

# --- Business transactions, counted -----------------------------------------------------------------------------------

TRANSACTIONS_OPENED = Definition(
    "txninsight_transactions_opened_total",
    MetricType.COUNTER,
    ("txn_type",),
    "Business transactions with a first open that was seen, committed or not.",
    counted=Counted.STATE,
)
TRANSACTIONS_FINISHED = Definition(
    "txninsight_transactions_finished_total",
    MetricType.COUNTER,
    ("txn_type", "outcome", "status"),
    "Settled business transactions, by outcome and by the status of the committed close.",
    counted=Counted.STATE,
)
STUCK = Definition(
    "txninsight_stuck_total",
    MetricType.COUNTER,
    ("txn_type", "cause"),
    "How often a business transaction became stuck or changed its cause, after the first complete catch-up. A cause "
    "that only an outage or a step of the clock took back for a while counts once, if no event came in between.",
    counted=Counted.STATE,
)
REPLAYED_TRANSACTIONS_FINISHED = Definition(
    "txninsight_replayed_transactions_finished_total",
    MetricType.COUNTER,
    ("txn_type", "outcome"),
    "Settled business transactions that were replayed with their original time (txninsight-replay --keep-time): "
    "history, which raises no alert.",
    counted=Counted.STATE,
)
OBJECTIVE = Definition(
    "txninsight_objective_seconds",
    MetricType.GAUGE,
    ("txn_type",),
    "objective.duration_s: how long a closed transaction may take, for types with this objective.",
    unit="seconds",
)
OBJECTIVE_RATIO = Definition(
    "txninsight_objective_ratio",
    MetricType.GAUGE,
    ("txn_type",),
    "objective.ratio: the share of closed transactions that should take at most txninsight_objective_seconds.",
)
OBJECTIVE_MISSED = Definition(
    "txninsight_objective_missed_total",
    MetricType.COUNTER,
    ("txn_type",),
    "Closed transactions that took longer than txninsight_objective_seconds, without those replayed with their "
    "original time.",
    counted=Counted.STATE,
)
OPEN_AGE_OBJECTIVE = Definition(
    "txninsight_open_age_objective_seconds",
    MetricType.GAUGE,
    ("txn_type",),
    "objective.open_age_s: how old an open transaction may become, for types with this objective.",
    unit="seconds",
)
ANOMALIES = Definition(
    "txninsight_anomalies_total",
    MetricType.COUNTER,
    ("kind",),
    "Anomalies of business transactions: each kind at most once per transaction, counted at its settlement; late_event "
    "counts each event.",
    counted=Counted.STATE,
)
SETTLED_BY_TIMEOUT = Definition(
    "txninsight_settled_by_timeout_total",
    MetricType.COUNTER,
    (),
    "Business transactions settled only because state.settle_max_s had passed: their figures may lack unread events.",
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
    "From the time the close was read uncommitted to the time its commit was seen.",
    unit="seconds",
    counted=Counted.STATE,
)

# --- Reading the topics -----------------------------------------------------------------------------------------------

RECORDS = Definition(
    "txninsight_records_total",
    MetricType.COUNTER,
    ("view", "topic", "result"),
    "Records read: events (ok), unreadable ones (malformed, oversized), other records (foreign), and records that "
    "could not be read at all (gap).",
    counted=Counted.STATE,
)
CONSUMER_LAG = Definition(
    "txninsight_consumer_lag_records",
    MetricType.GAUGE,
    ("view", "topic"),
    "Offsets between the aggregator's applied position and the last known end: the log end for the monitor, the last "
    "stable offset for the validator.",
)
VIEW_AGE = Definition(
    "txninsight_view_age_seconds",
    MetricType.GAUGE,
    ("view",),
    "How far a view is behind: the time since the moment up to which it has read all records of every partition.",
    unit="seconds",
)
UNDECIDED_RECORDS = Definition(
    "txninsight_undecided_records",
    MetricType.GAUGE,
    ("topic",),
    "Events that were read and are neither committed nor aborted yet.",
)
LSO_AGE = Definition(
    "txninsight_lso_age_seconds",
    MetricType.GAUGE,
    ("topic",),
    "How long the last stable offset, as the validator sees it, has not moved although the monitor has read records "
    "behind it. The longest of the topic's partitions; 0 when nothing waits.",
    unit="seconds",
)
LABEL_VALUES_CUT = Definition(
    "txninsight_label_values_cut_total",
    MetricType.COUNTER,
    ("label",),
    "How often __overflow__ replaced a label value, because limits.label_values others were known before; for topics: "
    "how many topics.",
    counted=Counted.STATE,
)
LIMIT_HITS = Definition(
    "txninsight_limit_hits_total",
    MetricType.COUNTER,
    ("limit",),
    "What was dropped to stay within a limit of the configuration: transactions evicted (open_transactions, "
    "kept_events, events_per_transaction), steps not kept (events_per_transaction, undecided_records), settled ones no "
    "longer shown (lingering, kept_events), ids forgotten (remembered_ids), labels cut (label_values), records skipped "
    "(value_bytes).",
    counted=Counted.STATE,
)

# --- The daemon itself ------------------------------------------------------------------------------------------------

BUILD_INFO = Definition(
    "txninsight_build_info", MetricType.GAUGE, ("version",), "Always 1; the label names the running version."
)
READY = Definition("txninsight_ready", MetricType.GAUGE, (), "1 when the daemon is ready; else /readyz says why not.")
CONFIG_RELOADS = Definition(
    "txninsight_config_reloads_total",
    MetricType.COUNTER,
    ("result",),
    "Reloads of the configuration (SIGHUP): applied, or refused as a whole because of an error in it.",
    counted=Counted.PARENT,
)
CONFIG_LAST_RELOAD_SUCCESSFUL = Definition(
    "txninsight_config_last_reload_successful",
    MetricType.GAUGE,
    (),
    "1 unless the latest reload was refused: then the log says why, and the former configuration stays in force.",
)
CLOCK_STEPS = Definition(
    "txninsight_clock_steps_total",
    MetricType.COUNTER,
    (),
    "How often the host's wall clock was set to another time while the daemon ran. All moments are corrected at once.",
    counted=Counted.AGGREGATOR,
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
    "Time since this child process's last heartbeat, which its work loop sends; it grows while the process is down. "
    "After supervise.heartbeat_timeout_s the process is killed and started again.",
    unit="seconds",
)
CHILD_LAST_LOOP = Definition(
    "txninsight_child_last_loop_timestamp_seconds",
    MetricType.GAUGE,
    ("child",),
    "When this reader's work loop last completed a turn, in seconds since the epoch. Written by the loop itself.",
    unit="seconds",
)
QUEUE_DEPTH = Definition(
    "txninsight_queue_depth",
    MetricType.GAUGE,
    ("child",),
    "Batches in this reader's queue that the aggregator has not taken yet, as the reader last reported.",
)
CONSUMER_PAUSED = Definition(
    "txninsight_consumer_paused",
    MetricType.GAUGE,
    ("child",),
    "1 while this reader's consumer is paused because its queue is full, as the reader last reported.",
)
CONSUMER_PAUSES = Definition(
    "txninsight_consumer_pauses_total",
    MetricType.COUNTER,
    ("child",),
    "How often this reader has paused its consumer because its queue was full (limits.queue_batches).",
    counted=Counted.PARENT,
)
LOG_LINES_DROPPED = Definition(
    "txninsight_log_lines_dropped_total",
    MetricType.COUNTER,
    ("process",),
    "Lines of the log that this process could not write: the disk is full, or the log's reader has gone or does not "
    "read. /readyz has a note for a minute.",
    counted=Counted.PARENT,
)
WARMING_UP = Definition(
    "txninsight_warming_up",
    MetricType.GAUGE,
    (),
    "1 from the aggregator's start until both views have caught up on every partition: until then the records since "
    "the last checkpoint are read again, and no further transaction becomes stuck.",
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
    "Checkpoints that were skipped at a start because they were damaged or of a newer version.",
    counted=Counted.AGGREGATOR,
)
HTTP_REQUESTS_REFUSED = Definition(
    "txninsight_http_requests_refused_total",
    MetricType.COUNTER,
    ("reason",),
    "HTTP requests that were refused, or whose connection was ended: bad_request (no valid HTTP), host (a Host that is "
    "not in http.allowed_hosts), slow_request, slow_reader, too_many_connections, busy (too many "
    "scrapes, listings or timelines at a time).",
    counted=Counted.AGGREGATOR,
)
COUNTERS_KEPT = Definition(
    "txninsight_counters_kept",
    MetricType.GAUGE,
    (),
    "1 while the exposed values of counters are on disk, in state.directory; 0 when they could not be written: "
    "counters may fall at the aggregator's next start.",
)

CATALOGUE = tuple(value for value in tuple(globals().values()) if isinstance(value, Definition))
"""All definitions, in the order above."""


def markdown_table() -> str:
    """The table of docs/metrics.md."""
    rows = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for d in CATALOGUE:
        labels = ", ".join(d.labels)
        rows.append(f"| `{d.name}` | {d.type.value} | {labels} | {d.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")
