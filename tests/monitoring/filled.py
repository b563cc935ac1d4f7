"""Which scenario fills which panel, and what may stay empty or at zero, with the reason.

The four scenarios run side by side, each with a daemon of its own. `FILLED` names the scenario in whose daemon a panel
must have shown something other than zero; an entry for one letter of a panel goes before that of the panel. What is in
`AT_ZERO` must exist, but needs something to go wrong that no scenario does; what is in `EMPTY` need not even exist.
"""

from typing import NamedTuple

PAYMENTS, ORDERS, HANGING, MESSY = "payments-with-aborts", "stuck-orders", "hanging-producer", "messy-input"
SCENARIOS = (PAYMENTS, ORDERS, HANGING, MESSY)

OVERVIEW = {
    "Live transactions": ORDERS,
    "Oldest open": ORDERS,
    "Aborted": PAYMENTS,
    "Data is older than": ORDERS,
    "Daemons": ORDERS,
    "Types": PAYMENTS,
    "Types/B": HANGING,  # closes wait behind a dead producer
    "Stuck, by cause": HANGING,
    "Became stuck": ORDERS,
    "Opened": ORDERS,
    "Settled, by outcome": PAYMENTS,
    "Oldest open, by type": ORDERS,
    "Aborted share, by type": PAYMENTS,
    "Objective: burn rate of the error budget": ORDERS,
    "Anomalies": MESSY,
}
TYPE = {
    "Live, by state": HANGING,
    "Stuck now": HANGING,
    "Ages of open transactions": ORDERS,
    "Partial and replayed/A": MESSY,
    "Partial and replayed/B": PAYMENTS,  # history is replayed there beside the scenario
    "Durations": PAYMENTS,
    "Durations: median, 95 %, 99 %": PAYMENTS,
    "Objective: the share that met it": PAYMENTS,
    "Closed, by status": PAYMENTS,
    "Where the time goes": PAYMENTS,
    "Steps: 95 % take at most": PAYMENTS,
    "Gaps: 95 % wait at most": PAYMENTS,
    "Commit delay": PAYMENTS,
}
KAFKA = {
    "Last stable offset without progress": HANGING,
    "Undecided records": HANGING,
    "Age of both views": HANGING,
    "Events, by topic": PAYMENTS,
    "Records, by result": MESSY,
    "Unreadable or lost, by topic": MESSY,
}
DAEMON = {
    "Condition": MESSY,
    "Up": MESSY,
    "Version": MESSY,
    "Restarts": MESSY,  # a child of it is killed
    "Heartbeats": MESSY,
    "Readers: since the last turn": MESSY,
    "Age of the last checkpoint": MESSY,
    "Size of the last checkpoint": MESSY,
    "Writing a checkpoint": MESSY,
    "Limit hits": MESSY,  # limits.label_values is small there
    "Label values cut": MESSY,
    "Settled transactions in memory": MESSY,
    "Configuration reloads": MESSY,  # a faulty file is refused
}
FILLED = {
    f"{uid}: {panel}": scenario
    for uid, panels in {
        "txninsight-overview": OVERVIEW,
        "txninsight-type": TYPE,
        "txninsight-kafka": KAFKA,
        "txninsight-daemon": DAEMON,
    }.items()
    for panel, scenario in panels.items()
}

AT_ZERO = {
    "txninsight-kafka: Lag of both views/A": "the readers may keep up whenever they are asked",
    "txninsight-daemon: Condition/D": "warming up may be over before the first scrape",
    "txninsight-daemon: Queues/A": "no reader is ahead of its aggregator at this pace",
    "txninsight-daemon: Readers: share of the time paused/A": "no queue fills up at this pace",
    "txninsight-daemon: Readers: pauses/A": "no queue fills up at this pace",
    "txninsight-daemon: Failed checkpoints/A": "needs a full disk",
    "txninsight-daemon: Failed checkpoints/B": "needs a damaged file at a start",
    "txninsight-daemon: Steps of the host's clock/A": "needs a clock that is set",
    "txninsight-daemon: HTTP requests refused/A": "needs clients that misbehave",
}

EMPTY = {
    "txninsight-daemon: Log lines dropped/A": "needs a log that cannot be written; only shown above zero",
    "txninsight-overview: Anomalies/B": "needs a partition that stands still for settle_max_s; only shown above zero",
}


class Quiet(NamedTuple):
    """An alert whose condition no scenario fulfils; everything that it selects must be there all the same."""

    alert: str
    reason: str


QUIET = (
    Quiet("TxninsightAbortRatioHigh", "fewer than one payment in five is aborted for good"),
    Quiet("TxninsightStableOffsetStandsStill", "the broker ends a hanging transaction long before 10 minutes"),
    Quiet("TxninsightViewBlind", "the broker answers all the time"),
    Quiet("TxninsightRecordsLost", "nothing is deleted before it is read"),
    Quiet("TxninsightTransactionsEvicted", "limits.open_transactions is far away"),
    Quiet("TxninsightQueueBackedUp", "no queue fills up at this pace"),
    Quiet("TxninsightCheckpointStale", "checkpoints can be written"),
    Quiet("TxninsightChildCrashLooping", "a child is killed once"),
    Quiet("TxninsightDown", "all daemons answer"),
    Quiet("TxninsightAbsent", "all daemons answer"),
    Quiet("TxninsightNoEvents", "events come all the time"),
    Quiet("TxninsightLogLinesDropped", "each log can be written"),
    Quiet("TxninsightNotReady", "all daemons are ready again within seconds"),
)
