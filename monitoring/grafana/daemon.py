"""The daemon itself: whether its processes run and keep up, whether its state is safe, and which limits it hits."""

from monitoring.grafana.layout import Line, Row, assembled
from monitoring.grafana.parts import (
    BLUE,
    DAEMON,
    DAEMON_ITSELF,
    GREEN,
    KAFKA,
    NEUTRAL,
    OVERVIEW,
    RED,
    YELLOW,
    I,
    Json,
    Limit,
    Look,
    Query,
    dashed,
    override,
    stat,
    state_timeline,
    time_series,
    to_dashboard,
    to_readiness,
    words,
)

CHILD = "{{child}} {{instance}} {{cluster}}"
BY_CHILD = f"{DAEMON}, child"
TO_OVERVIEW, TO_KAFKA = to_dashboard("Overview", OVERVIEW), to_dashboard("Kafka view", KAFKA)


def dashboard() -> Json:
    """The dashboard in the form of Grafana's JSON."""
    return assembled(
        DAEMON_ITSELF,
        "The processes of the daemon, its queues, checkpoints and limits.",
        [
            Row("Condition", [Line(8, [(10, condition()), (10, processes()), (4, build())])]),
            Row("Processes", [Line(8, [(6, restarts()), (6, heartbeats()), (6, loops()), (6, log_lines())])]),
            Row("Queues", [Line(8, [(8, queues()), (8, paused()), (8, pauses())])]),
            Row("Checkpoints", [Line(8, [(6, ages()), (6, sizes()), (6, times()), (6, failures())])]),
            Row("Limits and configuration", [Line(8, [(6, limits()), (6, cuts()), (6, kept()), (6, reloads())])]),
            Row("Host and clients", [Line(8, [(12, clock_steps()), (12, refused())])]),
        ],
    )


# --- Condition --------------------------------------------------------------------------------------------------------


def condition() -> Json:
    warming = override("byRegexp", "/^warming up/", mappings=[words(("no", GREEN), ("yes", YELLOW))])
    return state_timeline(
        "Condition",
        "ready: nothing is missing. config: the latest reload was applied. counters: their exposed values are on disk, "
        "so no counter falls at a restart. warming up: the records since the last checkpoint are read again.",
        [
            Query(f"txninsight_ready{{{I}}}", "ready {{instance}} {{cluster}}"),
            Query(f"txninsight_config_last_reload_successful{{{I}}}", "config {{instance}} {{cluster}}"),
            Query(f"txninsight_counters_kept{{{I}}}", "counters {{instance}} {{cluster}}"),
            Query(f"txninsight_warming_up{{{I}}}", "warming up {{instance}} {{cluster}}"),
        ],
        [TO_OVERVIEW],
        Look(
            base=RED,
            limits=[Limit(1, GREEN)],
            mappings=[words(("no", RED), ("yes", GREEN))],
            overrides=[warming],
            data_links=[to_readiness()],
        ),
    )


def processes() -> Json:
    return state_timeline(
        "Up",
        "The daemon: whether it answered the scrape. Its children: whether the process runs. A dead child is restarted "
        "after a delay that doubles each time.",
        [
            Query(f'up{{job="txninsightd",{I}}}', "daemon {{instance}} {{cluster}}"),
            Query(f"txninsight_child_up{{{I}}}", CHILD),
        ],
        [TO_OVERVIEW],
        Look(base=RED, limits=[Limit(1, GREEN)], mappings=[words(("down", RED), ("up", GREEN))]),
    )


def build() -> Json:
    return stat(
        "Version",
        "The version of each daemon.",
        "none",
        [Query(f"txninsight_build_info{{{I}}}", "{{version}} {{instance}} {{cluster}}", instant=True)],
        [TO_OVERVIEW],
        Look(base=NEUTRAL),
        text="name",
    )


# --- Processes --------------------------------------------------------------------------------------------------------


def restarts() -> Json:
    return time_series(
        "Restarts",
        "How often a child was restarted. More than three restarts within 10 minutes cause the page "
        "TxninsightChildCrashLooping; after supervise.give_up_after deaths the daemon exits.",
        "short",
        [Query(f"sum by ({BY_CHILD}) (increase(txninsight_child_restarts_total{{{I}}}[$__rate_interval]))", CHILD)],
        [TO_OVERVIEW],
        Look(bars=True, limits=[Limit(1, YELLOW), Limit(4, RED)]),
    )


def heartbeats() -> Json:
    return time_series(
        "Heartbeats",
        "The time since a child's last heartbeat, which its work loop sends. At supervise.heartbeat_timeout_s, 10 s by "
        "default, the child is killed and restarted.",
        "s",
        [Query(f"max by ({BY_CHILD}) (txninsight_child_heartbeat_age_seconds{{{I}}})", CHILD)],
        [TO_OVERVIEW],
        Look(limits=[Limit(5, YELLOW), Limit(10, RED)]),
    )


def loops() -> Json:
    return time_series(
        "Readers: since the last turn",
        "The time since a reader's work loop last completed a turn, written by the loop itself. It differs from the "
        "heartbeat while a reader is down or its clock is wrong.",
        "s",
        [Query(f"time() - max by ({BY_CHILD}) (txninsight_child_last_loop_timestamp_seconds{{{I}}})", CHILD)],
        [TO_KAFKA],
        Look(limits=[Limit(5, YELLOW), Limit(30, RED)], minimum=None),
    )


def log_lines() -> Json:
    return _losses(
        "Log lines dropped",
        "Lines that this process could not write: the disk is full, or the log's reader has gone or does not read. The "
        "daemon works on. /readyz has the reason.",
        "txninsight_log_lines_dropped_total",
        "process",
    )


# --- Queues -----------------------------------------------------------------------------------------------------------


def queues() -> Json:
    return time_series(
        "Queues",
        "Batches in a reader's queue that the aggregator has not taken. At limits.queue_batches, 64 by default, the "
        "reader pauses (back-pressure).",
        "short",
        [Query(f"max by ({BY_CHILD}) (txninsight_queue_depth{{{I}}})", CHILD)],
        [TO_KAFKA],
        Look(limits=[Limit(32, YELLOW), Limit(64, RED)]),
    )


def paused() -> Json:
    return time_series(
        "Readers: share of the time paused",
        "The share of the time in which a reader's consumer was paused because its queue was full: the aggregator does "
        "not keep up. Above 0.8 for ten minutes it causes the ticket TxninsightQueueBackedUp.",
        "percentunit",
        [Query(f"max by ({BY_CHILD}) (avg_over_time(txninsight_consumer_paused{{{I}}}[$__rate_interval]))", CHILD)],
        [TO_KAFKA],
        Look(limits=[Limit(0.8, RED)], maximum=1),
    )


def pauses() -> Json:
    return time_series(
        "Readers: pauses",
        "How often a reader paused its consumer, per second. Short pauses while a backlog is read are normal.",
        "ops",
        [Query(f"sum by ({BY_CHILD}) (rate(txninsight_consumer_pauses_total{{{I}}}[$__rate_interval]))", CHILD)],
        [TO_KAFKA],
    )


# --- Checkpoints ------------------------------------------------------------------------------------------------------


def ages() -> Json:
    return time_series(
        "Age of the last checkpoint",
        "Records after it are read from Kafka again after a crash. Dashed: the interval. Above 60 s and six intervals "
        "it causes the ticket TxninsightCheckpointStale.",
        "s",
        [
            Query(f"max by ({DAEMON}) (txninsight_checkpoint_age_seconds{{{I}}})", "{{instance}} {{cluster}}"),
            Query(f"min by ({DAEMON}) (txninsight_checkpoint_interval_seconds{{{I}}})", "{{instance}} {{cluster}} due"),
        ],
        [TO_OVERVIEW],
        Look(limits=[Limit(60, RED)], overrides=[dashed("/ due$/")]),
    )


def sizes() -> Json:
    return time_series(
        "Size of the last checkpoint",
        "The directory needs space for three of them. The size grows with open, shown and remembered transactions.",
        "bytes",
        [Query(f"max by ({DAEMON}) (txninsight_checkpoint_bytes{{{I}}})", "{{instance}} {{cluster}}")],
        [TO_OVERVIEW],
    )


def times() -> Json:
    return time_series(
        "Writing a checkpoint",
        "How long the last good checkpoint took until it was safe on disk.",
        "s",
        [Query(f"max by ({DAEMON}) (txninsight_checkpoint_duration_seconds{{{I}}})", "{{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(limits=[Limit(10, YELLOW)]),
    )


def failures() -> Json:
    failed, skipped = "txninsight_checkpoint_failures_total", "txninsight_checkpoint_fallbacks_total"
    return time_series(
        "Failed checkpoints",
        "not written: the log says why, mostly a full disk. skipped: damaged or of a newer version when the daemon "
        "started; it used the one before.",
        "short",
        [
            Query(_increase(failed, DAEMON), "not written {{instance}} {{cluster}}"),
            Query(_increase(skipped, DAEMON), "skipped {{instance}} {{cluster}}"),
        ],
        [TO_OVERVIEW],
        Look(bars=True, limits=[Limit(1, RED)]),
    )


# --- Limits and configuration -----------------------------------------------------------------------------------------


def limits() -> Json:
    return _losses(
        "Limit hits",
        "What was dropped to stay within a limit, by its name under limits in the configuration. open_transactions and "
        "kept_events cost transactions, lingering and remembered_ids only later lookups.",
        "txninsight_limit_hits_total",
        "limit",
    )


def cuts() -> Json:
    return _losses(
        "Label values cut",
        "How often a label became __overflow__, because limits.label_values others were known before. Any such event "
        "causes the ticket TxninsightLabelValuesCut.",
        "txninsight_label_values_cut_total",
        "label",
    )


def kept() -> Json:
    shown, remembered = "txninsight_lingering_transactions", "txninsight_remembered_transactions"
    return time_series(
        "Settled transactions in memory",
        "shown: the API still shows them (state.linger_s). remembered: only their ids are kept, so late events do not "
        "reopen them (state.remember_s).",
        "short",
        [
            Query(f"sum by ({DAEMON}) ({shown}{{{I}}})", "shown {{instance}} {{cluster}}"),
            Query(f"sum by ({DAEMON}) ({remembered}{{{I}}})", "remembered {{instance}} {{cluster}}"),
        ],
        [TO_OVERVIEW],
        Look(base=BLUE),
    )


def clock_steps() -> Json:
    return time_series(
        "Steps of the host's clock",
        "How often the wall clock was set to another time while the daemon ran. Moments are corrected at once, and "
        "nothing is called stuck by it; look for what sets the clock.",
        "short",
        [Query(_increase("txninsight_clock_steps_total", DAEMON), "{{instance}} {{cluster}}")],
        [TO_OVERVIEW],
        Look(bars=True, limits=[Limit(1, YELLOW)], no_value="none"),
    )


def refused() -> Json:
    return time_series(
        "HTTP requests refused",
        "Requests that were refused, and connections that were ended early, by the reason. The log has one line for "
        "each reason in ten seconds, with the client's address.",
        "short",
        [
            Query(
                _increase("txninsight_http_requests_refused_total", f"{DAEMON}, reason"),
                "{{reason}} {{instance}} {{cluster}}",
            )
        ],
        [TO_OVERVIEW],
        Look(bars=True, no_value="none"),
    )


def reloads() -> Json:
    return time_series(
        "Configuration reloads",
        "By SIGHUP. refused: the file has an error, the log names it, and the former configuration stays in force.",
        "short",
        [
            Query(
                _increase("txninsight_config_reloads_total", f"{DAEMON}, result"), "{{result}} {{instance}} {{cluster}}"
            )
        ],
        [TO_OVERVIEW],
        Look(bars=True),
    )


def _losses(title: str, description: str, counter: str, label: str) -> Json:
    """What was dropped, by a label; only where something was."""
    expr = _increase(counter, f"{DAEMON}, {label}")
    return time_series(
        title,
        description,
        "short",
        [Query(f"{expr} > 0", f"{{{{{label}}}}} {{{{instance}}}} {{{{cluster}}}}")],
        [TO_OVERVIEW],
        Look(bars=True, limits=[Limit(1, YELLOW)], no_value="none"),
    )


def _increase(counter: str, by: str) -> str:
    return f"sum by ({by}) (increase({counter}{{{I}}}[$__rate_interval]))"
