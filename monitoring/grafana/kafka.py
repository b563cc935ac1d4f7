"""The Kafka view: what Kafka holds back, how far both views have read, and what the records were.

The monitor reads uncommitted, the validator committed. A last stable offset that stands still is a Kafka transaction
that is left open; the daemon's list of partitions names the record that waits longest.
"""

from monitoring.grafana.layout import Line, Row, assembled
from monitoring.grafana.parts import (
    DAEMON,
    DAEMON_ITSELF,
    KAFKA,
    OVERVIEW,
    RED,
    YELLOW,
    I,
    Json,
    Limit,
    Look,
    Query,
    host_of_label,
    time_series,
    to_api,
    to_dashboard,
    to_readiness,
    to_transactions,
)

BY_TOPIC = f"{DAEMON}, topic"
TO_OVERVIEW, TO_DAEMON = to_dashboard("Overview", OVERVIEW), to_dashboard("The daemon itself", DAEMON_ITSELF)
PARTITIONS = to_api("Partitions, and what waits in them", host_of_label(), "/api/v1/partitions")


def dashboard() -> Json:
    """The dashboard as Grafana's JSON has it."""
    return assembled(
        KAFKA,
        "How far both views have read, what open Kafka transactions hold back, and what the records were.",
        [
            Row("Open Kafka transactions", [Line(9, [(12, lso_age()), (12, undecided())])]),
            Row("How far the views are", [Line(9, [(12, view_age()), (12, lag())])]),
            Row("Records", [Line(9, [(8, events()), (8, results()), (8, unread())])]),
        ],
    )


def lso_age() -> Json:
    return time_series(
        "Last stable offset stands still",
        "For how long, with records behind it, in the partition of the topic where that is longest. A producer's "
        "transaction.timeout.ms, 60 s by default, ends most; after 10 minutes comes TxninsightStableOffsetStandsStill.",
        "s",
        [Query(f"max by ({BY_TOPIC}) (txninsight_lso_age_seconds{{{I}}})", "{{topic}} {{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(
            limits=[Limit(60, YELLOW), Limit(600, RED)],
            data_links=[PARTITIONS, to_transactions("Tentatively closed ones", state="tentatively_closed")],
        ),
    )


def undecided() -> Json:
    expr = f"sum by ({BY_TOPIC}) (txninsight_undecided_records{{{I}}})"
    return time_series(
        "Undecided records",
        "Events that were read and are neither committed nor aborted yet. A saw that returns to zero is normal; a "
        "climb is one Kafka transaction left open, with all behind it.",
        "short",
        [Query(expr, "{{topic}} {{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(stacked=True, data_links=[PARTITIONS]),
    )


def view_age() -> Json:
    expr = f"max by ({DAEMON}, view) (txninsight_view_age_seconds{{{I}}})"
    return time_series(
        "Age of both views",
        "The time since the moment up to which everything in every partition is known to have been read. Above 120 s "
        "comes the page TxninsightViewBlind.",
        "s",
        [Query(expr, "{{view}} {{instance}} {{cluster}}")],
        [TO_DAEMON],
        Look(limits=[Limit(10, YELLOW), Limit(120, RED)], data_links=[to_readiness()]),
    )


def lag() -> Json:
    expr = f"sum by ({BY_TOPIC}, view) (txninsight_consumer_lag_records{{{I}}})"
    return time_series(
        "Lag of both views",
        "Offsets not yet applied: of the monitor up to the end of the log, of the validator up to the last stable "
        "offset. An open Kafka transaction is no lag.",
        "short",
        [Query(expr, "{{view}} {{topic}} {{instance}} {{cluster}}")],
        [TO_DAEMON],
        Look(data_links=[PARTITIONS]),
    )


def events() -> Json:
    expr = f'sum by (topic) (rate(txninsight_records_total{{view="monitor",result="ok",{I}}}[$__rate_interval]))'
    return time_series(
        "Events, by topic",
        "Events that the monitor read, per second. No event at all for 20 minutes, where there were some within a day, "
        "is the ticket TxninsightNoEvents.",
        "ops",
        [Query(expr, "{{topic}}")],
        [TO_OVERVIEW],
    )


def results() -> Json:
    return time_series(
        "Records, by result",
        "ok: events. foreign: none of ours. malformed, oversized: passed over. gap: could not be read at all. Per "
        "second, of each view; the validator decodes nothing.",
        "ops",
        [
            Query(
                f"sum by (view, result) (rate(txninsight_records_total{{{I}}}[$__rate_interval]))",
                "{{view}} {{result}}",
            )
        ],
        [TO_DAEMON],
        Look(stacked=True),
    )


def unread() -> Json:
    records = f'txninsight_records_total{{result=~"malformed|oversized|gap",{I}}}'
    return time_series(
        "Unreadable or lost, by topic",
        "Any is a ticket: TxninsightRecordsUnreadable, and TxninsightRecordsLost for a gap. What they say of a "
        "business transaction is missing; the daemon's log shows samples.",
        "short",
        [
            Query(
                f"sum by ({BY_TOPIC}, result) (increase({records}[$__rate_interval]))",
                "{{topic}} {{result}} {{instance}} {{cluster}}",
            )
        ],
        [TO_OVERVIEW],
        Look(bars=True, limits=[Limit(1, YELLOW)]),
    )
