"""The overview: whether something is wrong, with which transaction type, and since when.

A type's values link to that type's dashboard. Stuck, aborted and old transactions link to the daemon's list of exactly
these.
"""

from monitoring.grafana.layout import Line, Row, assembled
from monitoring.grafana.parts import (
    BLUE,
    DAEMON,
    DAEMON_ITSELF,
    GREEN,
    KAFKA,
    NEUTRAL,
    ORANGE,
    OVERVIEW,
    RED,
    TRANSACTIONS,
    TYPE,
    YELLOW,
    I,
    Json,
    Limit,
    Look,
    Query,
    T,
    cell_of,
    column,
    dashed,
    label_of,
    override,
    stat,
    table,
    time_series,
    to_api,
    to_dashboard,
    to_transactions,
    to_type,
    words,
)

BY_TYPE = f"{DAEMON}, txn_type"
TO_TYPE, TO_KAFKA = to_dashboard("One type", TYPE), to_dashboard("Kafka view", KAFKA)
TO_DAEMON = to_dashboard("The daemon itself", DAEMON_ITSELF)


def dashboard() -> Json:
    """The dashboard in the form of Grafana's JSON."""
    return assembled(
        OVERVIEW,
        "Business transactions of all types: what is open, stuck and why, aborted, and within its objective.",
        [
            Row("Now", [Line(4, [(9, live()), (4, oldest()), (4, aborted_share()), (4, blindness()), (3, ready())])]),
            Row("By type", [Line(8, [(24, types())])]),
            Row("Stuck", [Line(8, [(12, stuck()), (12, became_stuck())])]),
            Row("Flow", [Line(8, [(12, opened()), (12, settled())])]),
            Row("Ages and aborts", [Line(8, [(12, ages()), (12, aborts())])]),
            Row("Objective and anomalies", [Line(8, [(12, burn()), (12, anomalies())])]),
        ],
    )


# --- Now --------------------------------------------------------------------------------------------------------------


def live() -> Json:
    return stat(
        "Live transactions",
        "Live business transactions by state. Tentatively closed: the close is written, but not committed yet. "
        "Aborted: waiting for a retry. A stuck transaction counts as stuck instead of its state.",
        "short",
        [Query(f"sum by (state) (txninsight_transactions{{{T}}})", "{{state}}", instant=True)],
        [TO_TYPE],
        Look(
            base=NEUTRAL,
            overrides=[
                override(
                    "byName",
                    "stuck",
                    thresholds={
                        "mode": "absolute",
                        "steps": [{"color": GREEN, "value": None}, {"color": RED, "value": 1}],
                    },
                )
            ],
        ),
    )


def oldest() -> Json:
    return stat(
        "Oldest open",
        "The age of the oldest transaction that is not closed yet. The colours change at the defaults of idle_after_s "
        "and overdue_after_s.",
        "s",
        [Query(f"max(txninsight_oldest_open_age_seconds{{{T}}})", "oldest", instant=True)],
        [TO_TYPE],
        Look(limits=[Limit(300, YELLOW), Limit(3600, RED)]),
    )


def aborted_share() -> Json:
    finished = "txninsight_transactions_finished_total"
    return stat(
        "Aborted",
        "The share of aborted transactions among those settled in the time shown: all their events, or the last "
        "attempt, were rolled back in Kafka, and no retry came.",
        "percentunit",
        [
            Query(
                f'sum(increase({finished}{{outcome="aborted",{T}}}[$__range])) '
                f"/ (sum(increase({finished}{{{T}}}[$__range])) > 0)",
                "aborted",
                instant=True,
            )
        ],
        [TO_TYPE],
        Look(limits=[Limit(0.05, YELLOW), Limit(0.2, RED)], no_value="nothing settled"),
    )


def blindness() -> Json:
    return stat(
        "Data is older than",
        "The lag of the slowest view: later events are not in these figures yet.",
        "s",
        [Query(f"max(txninsight_view_age_seconds{{{I}}})", "age", instant=True)],
        [TO_KAFKA],
        Look(limits=[Limit(10, YELLOW), Limit(120, RED)]),
    )


def ready() -> Json:
    return stat(
        "Daemons",
        "Ready when every selected daemon is ready. /readyz of each daemon says what is missing.",
        "none",
        [Query(f"min(txninsight_ready{{{I}}})", "ready", instant=True)],
        [TO_DAEMON],
        Look(base=RED, limits=[Limit(1, GREEN)], mappings=[words(("not ready", RED), ("ready", GREEN))]),
    )


# --- By type ----------------------------------------------------------------------------------------------------------


def types() -> Json:
    duration, missed = "txninsight_transaction_duration_seconds", "txninsight_objective_missed_total"
    finished = "txninsight_transactions_finished_total"
    kept = (
        f"1 - sum by ({BY_TYPE}) (increase({missed}{{{T}}}[$__range])) "
        f"/ (sum by ({BY_TYPE}) (increase({duration}_count{{{T}}}[$__range])) > 0) "
        f"and sum by ({BY_TYPE}) (txninsight_objective_seconds{{{T}}})"
    )
    aborted = (
        f'sum by ({BY_TYPE}) (increase({finished}{{outcome="aborted",{T}}}[$__range])) '
        f"/ (sum by ({BY_TYPE}) (increase({finished}{{{T}}}[$__range])) > 0)"
    )
    p95 = f"histogram_quantile(0.95, sum by ({BY_TYPE}, le) (increase({duration}_bucket{{{T}}}[$__range])))"
    columns = [
        (_now("open"), column("A", "Open", "short")),
        (_now("tentatively_closed"), column("B", "Tentatively closed", "short")),
        (
            _now("stuck"),
            column(
                "C", "Stuck", "short", Look(limits=[Limit(1, RED)], data_links=[_listed("Stuck transactions", "stuck")])
            ),
        ),
        (
            f"sum by ({BY_TYPE}) (increase(txninsight_transaction_duration_seconds_count{{{T}}}[$__range]))",
            column("D", "Closed", "short", Look(data_links=[_listed("Closed transactions", "closed")])),
        ),
        (
            aborted,
            column(
                "E",
                "Aborted",
                "percentunit",
                Look(
                    limits=[Limit(0.05, YELLOW), Limit(0.2, RED)],
                    data_links=[_listed("Aborted transactions", "aborted")],
                ),
            ),
        ),
        (p95, column("F", "95 % took at most", "s")),
        (kept, column("G", "Met the objective", "percentunit", Look(base=BLUE, no_value="none set"))),
    ]
    return table(
        "Types",
        "Each transaction type of each daemon: its transactions now, and the results of those that ended in the time "
        "shown. The type links to its dashboard, the figures to the daemon's lists.",
        "short",
        [Query(expr, "{{txn_type}}", instant=True, format="table") for expr, _ in columns],
        [TO_TYPE],
        Look(overrides=[_type_column(), *(shown for _, shown in columns)]),
        sort_by="Stuck",
    )


def _now(state: str) -> str:
    return f'sum by ({BY_TYPE}) (txninsight_transactions{{state="{state}",{T}}})'


def _listed(title: str, state: str) -> Json:
    """A link of a cell to the daemon's list of that type and state."""
    host = "${__data.fields.instance}"
    return to_api(title, host, TRANSACTIONS, state=state, txn_type=cell_of("txn_type"), limit="1000")


def _type_column() -> Json:
    return override("byName", "txn_type", displayName="Type", links=[to_type(cell_of("txn_type"))])


# --- Stuck ------------------------------------------------------------------------------------------------------------


def stuck() -> Json:
    return time_series(
        "Stuck, by cause",
        "idle: open, without an event for long. overdue: open for long. undecided, commit_pending: the close "
        "is written and not committed. never_committed: the close was aborted, and other events are committed.",
        "short",
        [
            Query(
                f"sum by ({DAEMON}, cause) (txninsight_stuck_transactions{{{T}}})", "{{cause}} {{instance}} {{cluster}}"
            )
        ],
        [TO_KAFKA],
        Look(stacked=True, data_links=[to_transactions("Stuck for this cause", cause=label_of("cause"))]),
    )


def became_stuck() -> Json:
    expr = f"sum by ({BY_TYPE}) (increase(txninsight_stuck_total{{{T}}}[$__rate_interval]))"
    return time_series(
        "Became stuck",
        "How many became stuck or changed their cause. One is enough for the page TxninsightTransactionsStuck.",
        "short",
        [Query(expr, "{{txn_type}} {{instance}} {{cluster}}")],
        [TO_TYPE],
        Look(
            bars=True,
            limits=[Limit(1, RED)],
            data_links=[
                to_transactions("Stuck now, newest first", state="stuck", txn_type=label_of("txn_type")),
                to_type(label_of("txn_type")),
            ],
        ),
    )


# --- Flow -------------------------------------------------------------------------------------------------------------


def opened() -> Json:
    expr = f"sum by (txn_type) (rate(txninsight_transactions_opened_total{{{T}}}[$__rate_interval]))"
    return time_series(
        "Opened",
        "Transactions with a first open, committed or not, per second. A fall to zero means a problem upstream.",
        "ops",
        [Query(expr, "{{txn_type}}")],
        [TO_TYPE],
        Look(data_links=[to_type(label_of("txn_type"))]),
    )


def settled() -> Json:
    expr = f"sum by (outcome) (rate(txninsight_transactions_finished_total{{{T}}}[$__rate_interval]))"
    colors = {"closed": GREEN, "aborted": RED, "unknown": YELLOW, "evicted": ORANGE, "forgotten": NEUTRAL}
    return time_series(
        "Settled, by outcome",
        "Transactions with a final outcome, per second. unknown: the deciding records could not be read. evicted: "
        "dropped to stay within a limit. forgotten: ended by an operator. Settlement comes some seconds after the "
        "close.",
        "ops",
        [Query(expr, "{{outcome}}")],
        [TO_TYPE, TO_KAFKA],
        Look(
            stacked=True,
            overrides=[
                override("byName", outcome, color={"mode": "fixed", "fixedColor": color})
                for outcome, color in colors.items()
            ],
        ),
    )


# --- Ages and aborts --------------------------------------------------------------------------------------------------


def ages() -> Json:
    age, objective = "txninsight_oldest_open_age_seconds", "txninsight_open_age_objective_seconds"
    return time_series(
        "Oldest open, by type",
        "The age of the oldest transaction that is not closed. Dashed: the objective (objective.open_age_s), if "
        "configured.",
        "s",
        [
            Query(f"max by ({BY_TYPE}) ({age}{{{T}}})", "{{txn_type}} {{instance}} {{cluster}}"),
            Query(f"min by (txn_type) ({objective}{{{T}}})", "{{txn_type}} at most"),
        ],
        [TO_TYPE],
        Look(
            overrides=[dashed("/ at most$/")],
            data_links=[to_transactions("Open transactions of this type", state="open", txn_type=label_of("txn_type"))],
        ),
    )


def aborts() -> Json:
    return time_series(
        "Aborted share, by type",
        "Of those finished within the last 15 minutes, without those replayed with their original time. Above 0.2, "
        "with at least ten finished, it causes the page TxninsightAbortRatioHigh.",
        "percentunit",
        [Query(f"txn_type:txninsight_abort_ratio:increase15m{{{T}}}", "{{txn_type}} {{instance}} {{cluster}}")],
        [TO_TYPE],
        Look(
            limits=[Limit(0.2, RED)],
            maximum=1,
            data_links=[
                to_transactions("Aborted transactions of this type", state="aborted", txn_type=label_of("txn_type"))
            ],
        ),
    )


# --- Objective and anomalies ------------------------------------------------------------------------------------------


def burn() -> Json:
    return time_series(
        "Objective: burn rate of the error budget",
        "1: exactly as many are too slow as objective.ratio allows. 14.4 over an hour pages "
        "(TxninsightObjectiveBurnFast), 6 over six hours is a ticket (TxninsightObjectiveBurnSlow), each only if it "
        "continues. Only types with objective.duration_s.",
        "none",
        [Query(_burned(window), f"{{{{txn_type}}}} over {window}") for window in ("1h", "6h")],
        [TO_TYPE],
        Look(limits=[Limit(6, YELLOW), Limit(14.4, RED)], data_links=[to_type(label_of("txn_type"))]),
    )


def _burned(window: str) -> str:
    missed = f"txn_type:txninsight_objective_missed_ratio:increase{window}"
    return f"max by (txn_type) ({missed}{{{T}}} / (1 - txninsight_objective_ratio{{{T}}}))"


def anomalies() -> Json:
    found = f"sum by (kind) (increase(txninsight_anomalies_total{{{I}}}[$__rate_interval])) > 0"
    late = f"sum(increase(txninsight_settled_by_timeout_total{{{I}}}[$__rate_interval])) > 0"
    return time_series(
        "Anomalies",
        "Anomalies of transactions, by name, counted at settlement: duplicates, missing opens, events after the close, "
        "wrong clocks. settled by time-out: settled because state.settle_max_s had passed; events may be missing.",
        "short",
        [Query(found, "{{kind}}"), Query(late, "settled by time-out")],
        [TO_KAFKA],
        Look(bars=True, no_value="none"),
    )
