"""The Kafka view: open Kafka transactions, how far both views have read, and the results of the records.

The monitor reads uncommitted records, the validator committed ones. A last stable offset that does not move means an
open Kafka transaction. The daemon's list of partitions names the record that has waited longest.
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
PARTITIONS = to_api("Partitions and their waiting records", host_of_label(), "/api/v1/partitions")


def dashboard() -> Json:
    """The dashboard in the form of Grafana's JSON."""
    return assembled(
        KAFKA,
        "How far both views have read, which records wait for open Kafka transactions, and the results of the records.",
        [
            Row("Open Kafka transactions", [Line(9, [(12, lso_age()), (12, undecided())])]),
            Row("Progress of the views", [Line(9, [(12, view_age()), (12, lag())])]),
            Row("Records", [Line(9, [(8, events()), (8, results()), (8, unread())])]),
        ],
    )


def lso_age() -> Json:
    return time_series(
        "Last stable offset without progress",
        "How long it has not moved with records behind it; the longest of the topic's partitions. The producer's "
        "transaction.timeout.ms (60 s by default) ends most cases. After 10 minutes: "
        "TxninsightStableOffsetStandsStill.",
        "s",
        [Query(f"max by ({BY_TOPIC}) (txninsight_lso_age_seconds{{{I}}})", "{{topic}} {{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(
            limits=[Limit(60, YELLOW), Limit(600, RED)],
            data_links=[PARTITIONS, to_transactions("Tentatively closed transactions", state="tentatively_closed")],
        ),
    )


def undecided() -> Json:
    expr = f"sum by ({BY_TOPIC}) (txninsight_undecided_records{{{I}}})"
    return time_series(
        "Undecided records",
        "Events that were read and are neither committed nor aborted yet. A sawtooth that returns to zero is normal; a "
        "steady rise means an open Kafka transaction and all records behind it.",
        "short",
        [Query(expr, "{{topic}} {{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(stacked=True, data_links=[PARTITIONS]),
    )


def view_age() -> Json:
    expr = f"max by ({DAEMON}, view) (txninsight_view_age_seconds{{{I}}})"
    return time_series(
        "Age of both views",
        "The time since the moment up to which the view has read all records of every partition. Above 120 s it causes "
        "the page TxninsightViewBlind.",
        "s",
        [Query(expr, "{{view}} {{instance}} {{cluster}}")],
        [TO_DAEMON],
        Look(limits=[Limit(10, YELLOW), Limit(120, RED)], data_links=[to_readiness()]),
    )


def lag() -> Json:
    expr = f"sum by ({BY_TOPIC}, view) (txninsight_consumer_lag_records{{{I}}})"
    return time_series(
        "Lag of both views",
        "Offsets not yet applied: up to the log end for the monitor, up to the last stable offset for the validator. "
        "An open Kafka transaction is not lag.",
        "short",
        [Query(expr, "{{view}} {{topic}} {{instance}} {{cluster}}")],
        [TO_DAEMON],
        Look(data_links=[PARTITIONS]),
    )


def events() -> Json:
    expr = f'sum by (topic) (rate(txninsight_records_total{{view="monitor",result="ok",{I}}}[$__rate_interval]))'
    return time_series(
        "Events, by topic",
        "Events that the monitor read, per second. No event for 20 minutes, after some within a day, causes the ticket "
        "TxninsightNoEvents.",
        "ops",
        [Query(expr, "{{topic}}")],
        [TO_OVERVIEW],
    )


def results() -> Json:
    return time_series(
        "Records, by result",
        "ok: events. foreign: other records. malformed, oversized: skipped. gap: could not be read at all. Per second "
        "and view; the validator decodes nothing.",
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
        "Any causes a ticket: TxninsightRecordsUnreadable, or TxninsightRecordsLost for a gap. Their business "
        "transactions may lack events; the daemon's log shows samples.",
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
