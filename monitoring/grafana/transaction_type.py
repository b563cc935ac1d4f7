"""One transaction type: how long its transactions take, where the time goes, and which of them have problems.

Exemplars on the durations are single transactions. The data source's provisioning makes each one a link to the daemon's
answer about it.
"""

from monitoring.grafana.layout import Line, Row, assembled
from monitoring.grafana.parts import (
    DAEMON,
    KAFKA,
    OVERVIEW,
    RED,
    TRANSACTIONS,
    TYPE,
    YELLOW,
    Json,
    Limit,
    Look,
    Query,
    T,
    bar_gauge,
    cell_of,
    column,
    dashed,
    heatmap,
    label_of,
    override,
    table,
    time_series,
    to_api,
    to_dashboard,
    to_transactions,
)

BY_TYPE = f"{DAEMON}, txn_type"
TO_OVERVIEW, TO_KAFKA = to_dashboard("Overview", OVERVIEW), to_dashboard("Kafka view", KAFKA)
DURATION, COMMIT_DELAY = "txninsight_transaction_duration_seconds", "txninsight_commit_delay_seconds"
STEP, GAP = "txninsight_step_duration_seconds", "txninsight_step_gap_seconds"


def dashboard() -> Json:
    """The dashboard in the form of Grafana's JSON."""
    return assembled(
        TYPE,
        "One transaction type: its live transactions, durations with examples, steps, and commits.",
        [
            Row("Now", [Line(8, [(10, live()), (14, stuck())]), Line(8, [(12, open_ages()), (12, untimed())])]),
            Row(
                "Durations",
                [Line(9, [(12, durations()), (12, quantiles())]), Line(8, [(12, kept()), (12, statuses())])],
            ),
            Row("Steps", [Line(9, [(8, steps()), (8, step_quantiles()), (8, gap_quantiles())])]),
            Row("Commits", [Line(8, [(24, commit_delay())])]),
        ],
    )


# --- Now --------------------------------------------------------------------------------------------------------------


def live() -> Json:
    expr = f"sum by ({BY_TYPE}, state) (txninsight_transactions{{{T}}})"
    filters = {"state": label_of("state"), "txn_type": label_of("txn_type")}
    return time_series(
        "Live, by state",
        "Transactions that are not settled yet. A growing number of tentatively closed ones waits for Kafka; a growing "
        "number of open ones waits for the business.",
        "short",
        [Query(expr, "{{txn_type}} {{state}} {{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(stacked=True, data_links=[to_transactions("Transactions in this state", **filters)]),
    )


def stuck() -> Json:
    host = "${__data.fields.instance}"
    filters = {"cause": cell_of("cause"), "txn_type": cell_of("txn_type")}
    link = to_api("These transactions", host, TRANSACTIONS, **filters, limit="1000")
    expr = f"sum by ({BY_TYPE}, cause) (txninsight_stuck_transactions{{{T}}}) > 0"
    return table(
        "Stuck now",
        "The transactions that are stuck now, by cause. The figure links to the daemon's list of exactly these, newest "
        "first. The answer about one transaction explains in a sentence what it waits for.",
        "short",
        [Query(expr, "{{txn_type}} {{cause}}", instant=True, format="table")],
        [TO_KAFKA],
        Look(
            no_value="nothing is stuck",
            overrides=[column("", "Stuck", "short", Look(limits=[Limit(1, RED)], data_links=[link]))],
        ),
        sort_by="Stuck",
    )


def open_ages() -> Json:
    return heatmap(
        "Ages of open transactions",
        "The ages of transactions that are not closed yet. A rising band is a group that hangs together.",
        "s",
        Query(f"sum by (le) (txninsight_open_age_seconds_bucket{{{T}}})", "{{le}}", format="heatmap"),
        [TO_OVERVIEW],
    )


def untimed() -> Json:
    replayed = f"txninsight_replayed_transactions_finished_total{{{T}}}"
    settled = f"sum by (txn_type, outcome) (rate({replayed}[$__rate_interval])) > 0"
    partial = f"sum by (txn_type) (txninsight_partial_transactions{{{T}}})"
    return time_series(
        "Partial and replayed",
        "Partial: live ones without a seen beginning; they have no duration and never become stuck. Replayed: history "
        "published with its original time, settled per second (right axis); it raises no alert.",
        "short",
        [Query(partial, "{{txn_type}} partial"), Query(settled, "{{txn_type}} replayed, {{outcome}}")],
        [TO_OVERVIEW],
        Look(overrides=[override("byRegexp", "/ replayed, /", unit="ops", custom__axisPlacement="right")]),
    )


# --- Durations --------------------------------------------------------------------------------------------------------


def durations() -> Json:
    return heatmap(
        "Durations",
        "From the earliest committed open to the first committed close, by the events' own timestamps. A dot is one "
        "transaction and links to the daemon's answer about it.",
        "s",
        Query(
            f"sum by (le) (increase({DURATION}_bucket{{{T}}}[$__rate_interval]))",
            "{{le}}",
            format="heatmap",
            exemplars=True,
        ),
        [TO_OVERVIEW],
    )


def quantiles() -> Json:
    objective = f"min by (txn_type) (txninsight_objective_seconds{{{T}}})"
    return time_series(
        "Durations: median, 95 %, 99 %",
        "Quantiles of the durations of closed transactions. Dashed: the objective (objective.duration_s), if "
        "configured. A dot is one transaction.",
        "s",
        [
            *(
                Query(_quantile(q, DURATION, "txn_type"), f"{{{{txn_type}}}} {q * 100:g} %", exemplars=q == 0.99)
                for q in (0.5, 0.95, 0.99)
            ),
            Query(objective, "{{txn_type}} at most"),
        ],
        [TO_OVERVIEW],
        Look(overrides=[dashed("/ at most$/")], no_value="nothing closed"),
    )


def kept() -> Json:
    missed = f"txn_type:txninsight_objective_missed_ratio:increase5m{{{T}}}"
    objective = f"max by (txn_type) (txninsight_objective_ratio{{{T}}})"
    return time_series(
        "Objective: the share that met it",
        "The share of transactions closed within the last 5 minutes that took at most objective.duration_s. Dashed: "
        "the target share (objective.ratio). Empty for types without an objective.",
        "percentunit",
        [
            Query(f"1 - {missed} and txninsight_objective_seconds{{{T}}}", "{{txn_type}} {{instance}} {{cluster}}"),
            Query(objective, "{{txn_type}} at least"),
        ],
        [TO_OVERVIEW],
        Look(
            overrides=[dashed("/ at least$/")],
            maximum=1,
            minimum=None,
            no_value="no objective, or nothing closed",
            data_links=[
                to_transactions("Closed transactions of this type", state="closed", txn_type=label_of("txn_type"))
            ],
        ),
    )


def statuses() -> Json:
    finished = f'txninsight_transactions_finished_total{{outcome="closed",{T}}}'
    return time_series(
        "Closed, by status",
        "The status in the close event, per second: the business decision.",
        "ops",
        [Query(f"sum by (txn_type, status) (rate({finished}[$__rate_interval]))", "{{txn_type}} {{status}}")],
        [TO_OVERVIEW],
        Look(stacked=True),
    )


def _quantile(q: float, histogram: str, by: str) -> str:
    return f"histogram_quantile({q:g}, sum by ({by}, le) (rate({histogram}_bucket{{{T}}}[$__rate_interval])))"


# --- Steps ------------------------------------------------------------------------------------------------------------


def steps() -> Json:
    return bar_gauge(
        "Where the time goes",
        "Means over the time shown: of each step, from its open to its done, and of the gap before it, from the "
        "previous event to the step's open. Only closed transactions.",
        "s",
        [
            Query(_mean(STEP), "{{txn_type}} {{step}}", instant=True),
            Query(_mean(GAP), "{{txn_type}} before {{step}}", instant=True),
        ],
        [TO_OVERVIEW],
        Look(no_value="no steps", minimum=None),
    )


def _mean(histogram: str) -> str:
    total, count = (f"sum by (txn_type, step) (increase({histogram}_{s}{{{T}}}[$__range]))" for s in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def step_quantiles() -> Json:
    return time_series(
        "Steps: 95 % take at most",
        "From a step's open to its done, in closed transactions. If a single step rises, look at that step first.",
        "s",
        [Query(_quantile(0.95, STEP, "txn_type, step"), "{{txn_type}} {{step}}")],
        [TO_OVERVIEW],
        Look(no_value="no steps"),
    )


def gap_quantiles() -> Json:
    return time_series(
        "Gaps: 95 % wait at most",
        "From the event before a step to the step's open: time in queues and between services. A negative gap (clocks "
        "differ) is an anomaly and counts in the lowest bucket.",
        "s",
        [Query(_quantile(0.95, GAP, "txn_type, step"), "{{txn_type}} before {{step}}")],
        [TO_OVERVIEW],
        Look(no_value="no steps"),
    )


# --- Commits ----------------------------------------------------------------------------------------------------------


def commit_delay() -> Json:
    return time_series(
        "Commit delay",
        "From the time the close was read uncommitted to the time its commit was seen: the wait of read_committed "
        "consumers. At commit_pending_after_s, 60 s by default, a transaction becomes stuck.",
        "s",
        [
            Query(_quantile(0.5, COMMIT_DELAY, "txn_type"), "{{txn_type}} 50 %"),
            Query(_quantile(0.99, COMMIT_DELAY, "txn_type"), "{{txn_type}} 99 %"),
        ],
        [TO_KAFKA],
        Look(limits=[Limit(60, YELLOW)], no_value="nothing closed"),
    )
