"""What is done to each daemon so that its alerts fire, and how the cause is ended. Each script runs on its own thread.

Troubles that do not disturb each other begin together. A script waits for messages, for what the daemon says of itself,
or for what Prometheus makes of it; only the last of these knows of times, and it has the shipped ones divided.
"""

import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.harness.background import repeated
from tests.harness.business_events import PULSE, closes, event, opens, wholes
from tests.harness.daemon import Daemon
from tests.harness.kafka import TransactionalWriter, delete_before, high_watermark, publish
from tests.harness.waiting import LOOK_EVERY_S, await_that, until
from tests.monitoring.end_to_end.stage import ABSENT, ALERT_GUARD_S, Stage
from txninsightd.vocabulary import PartitionRef

RECORDS = "txninsight_records_total"
CUT = "txninsight_label_values_cut_total"
STOPPED_S = 0.04
RUNNING_S = 0.02
FLOOD = 10_000

Script = Callable[[Stage], None]


def ids(name: str, count: int) -> list[str]:
    """Fresh transaction ids."""
    return [f"{name}-{i}" for i in range(count)]


# --- Business transactions --------------------------------------------------------------------------------------------


def business(stage: Stage) -> None:
    """Stuck, still stuck, aborted, too slow, too old; then the daemon is restarted with all that in its figures."""
    stalled, aborted, late, old = ids("stalled", 3), ids("aborted", 20), ids("late", 20), ids("old", 2)
    stuck = stage.begin("TxninsightTransactionsStuck", "business", "stalled", frozenset(stalled))
    still = stage.begin("TxninsightTransactionsStillStuck", "business", "stalled", frozenset(stalled))
    aborts = stage.begin("TxninsightAbortRatioHigh", "business", "aborting", frozenset(aborted))
    fast = stage.begin("TxninsightObjectiveBurnFast", "business", "late", frozenset(late))
    slow = stage.begin("TxninsightObjectiveBurnSlow", "business", "late", frozenset(late))
    too_old = stage.begin("TxninsightOpenTransactionTooOld", "business", "old", frozenset(old))
    transactional = TransactionalWriter(stage.broker)
    transactional.aborted(stage.topics["business"], *wholes(aborted, "aborting"))
    stage.write("business", *opens(stalled, "stalled"), *wholes(late, "late", took_s=60), *opens(old, "old", 3900))
    stage.end(fast, slow, stuck)  # no more of them become slow or stuck
    stage.await_fired(stuck, aborts, fast, slow, too_old)
    transactional.committed(stage.topics["business"], *wholes(ids("committed", 100), "aborting"))
    stage.write("business", *closes(old, "old"))
    stage.end(aborts, too_old)
    stage.await_fired(still)
    stage.write("business", *closes(stalled, "stalled"))
    stage.end(still)
    stage.await_cleared(stuck, still, aborts, fast, slow, too_old)
    restart_twice(stage, "business")


def restart_twice(stage: Stage, name: str) -> None:
    """Killed, and stopped in order, with some open and much counted: nothing comes, but that it was down."""
    assert stage.is_up_again.wait(ALERT_GUARD_S)
    stage.allow("TxninsightDown", name)
    daemon = stage.daemons[name]
    with stage.restarting:
        stage.write(name, *opens(ids("open-over-the-restart", 5), PULSE))
        daemon.kill()
        daemon.start().await_ready()
        stage.await_scraped(name)
        assert daemon.stop() == 0
        daemon.start().await_ready()
        stage.await_scraped(name)


# --- Records and limits -----------------------------------------------------------------------------------------------


def records(stage: Stage) -> None:
    """Unreadable, lost, under too many names, too many at once; then the daemon is restarted."""
    crowd = ids("crowd", 150)
    unreadable = stage.begin("TxninsightRecordsUnreadable", "records", stage.topics["records"])
    lost = stage.begin("TxninsightRecordsLost", "records", "lost to the monitor")
    cut = stage.begin("TxninsightLabelValuesCut", "records", "[FIRING:2]")
    evicted = stage.begin("TxninsightTransactionsEvicted", "records", PULSE)
    stage.write("records", "{no JSON", *(whole for i in range(2) for whole in with_step_and_status(i)))
    daemon = stage.daemons["records"]
    # Once they are counted: while they still wait for it, the crowd would have them evicted.
    daemon.await_that(lambda: all(daemon.total(CUT, label=label) for label in ("status", "step")), "labels are cut")
    lose_records(stage)
    stage.write("records", *opens(crowd, PULSE))
    stage.await_fired(unreadable, lost, cut, evicted)
    stage.write("records", *closes(crowd, PULSE))
    stage.end(unreadable, lost, cut, evicted)
    stage.await_cleared(unreadable, lost, cut, evicted)
    restart_twice(stage, "records")


def with_step_and_status(number: int) -> list[str]:
    """A transaction with a step's name and a status that no other has."""
    txn_id, step = f"named-{number}", f"step-{number}"
    return [
        event("transaction_open", txn_id, PULSE),
        event("step_open", txn_id, PULSE, step=step),
        event("step_done", txn_id, PULSE, step=step),
        event("transaction_close", txn_id, PULSE, status=f"status-{number}"),
    ]


def lose_records(stage: Stage) -> None:
    """Have records deleted before the monitor reads them; again, if a fetch that was under way has brought them all."""
    daemon, topic = stage.daemons["records"], stage.topics["records"]

    def lost() -> float:
        return daemon.total(RECORDS, view="monitor", topic=topic, result="gap")

    for _ in until(lost, "records are lost to the monitor", ALERT_GUARD_S):
        monitor = daemon.pids()["monitor-0"]
        os.kill(monitor, signal.SIGSTOP)
        try:
            for _ in range(3):
                stage.write("records", *wholes(ids("deleted", 5), PULSE))
            end = high_watermark(stage.broker, PartitionRef(topic, 0))
            delete_before(stage.broker, topic, end)
        finally:
            os.kill(monitor, signal.SIGCONT)
        daemon.await_that(lambda end=end: daemon_is_past(daemon, topic, end), "the monitor reads on")  # type: ignore[misc]


def daemon_is_past(daemon: Daemon, topic: str, offset: int) -> bool:
    """Whether the monitor has come this far."""
    partitions = daemon.get("/api/v1/partitions")
    return any(p["topic"] == topic and p["monitor_offset"] >= offset for p in partitions)


# --- The daemon and Kafka ---------------------------------------------------------------------------------------------


def held(stage: Stage) -> None:
    """A producer leaves its Kafka transaction open; the config has a fault; neither log nor state can be written."""
    daemon = stage.daemons["held"]
    still = stage.begin("TxninsightStableOffsetStandsStill", "held", stage.topics["held"])
    refused = stage.begin("TxninsightConfigReloadRefused", "held")
    dropped = stage.begin("TxninsightLogLinesDropped", "held")
    stale = stage.begin("TxninsightCheckpointStale", "held")
    not_ready = stage.begin("TxninsightNotReady", "held")
    hanging = TransactionalWriter(stage.broker)
    hanging.begin()
    hanging.write(stage.topics["held"], *opens(["hanging"], PULSE))
    good = daemon.config_file.read_text()
    state, away = daemon.directory / "state", daemon.directory / "state-away"
    state.rename(away)
    state.touch()
    with unwritable_log(daemon):
        daemon.reload("stuck: {idle_after_s: soon}\n")
        stage.await_fired(dropped)
    stage.end(dropped)
    stage.await_fired(still, refused, stale, not_ready)
    hanging.abort()
    daemon.reload(good)
    state.unlink()
    away.rename(state)
    stage.end(still, refused, stale, not_ready)
    stage.await_cleared(still, refused, dropped, stale, not_ready)


@contextmanager
def unwritable_log(daemon: Daemon) -> Iterator[None]:
    """No file that the parent writes may grow; its log is the only one."""
    parent = daemon.all_pids()["parent"]
    former = resource.prlimit(parent, resource.RLIMIT_FSIZE)
    resource.prlimit(parent, resource.RLIMIT_FSIZE, (0, former[1]))
    try:
        yield
    finally:
        resource.prlimit(parent, resource.RLIMIT_FSIZE, former)


def crashing(stage: Stage) -> None:
    """The validator dies as soon as it lives, again and again, and sees nothing for as long."""
    assert stage.sees_again.wait(ALERT_GUARD_S)
    stage.allow("TxninsightViewBlind", "crashing")
    stage.allow("TxninsightNotReady", "crashing")
    looping = stage.begin("TxninsightChildCrashLooping", "crashing")
    for _ in until(lambda: "firing" in states(stage, looping.alert, "crashing"), "it is a crash loop", ALERT_GUARD_S):
        kill_child(stage.daemons["crashing"], "validator-0")
    stage.end(looping)
    stage.await_fired(looping)
    stage.await_cleared(looping)
    stage.lives_again.set()


def kill_child(daemon: Daemon, child: str) -> None:
    """kill -9 of one process; the parent has started another then."""
    before = daemon.pids()[child]
    os.kill(before, signal.SIGKILL)
    daemon.await_that(lambda: daemon.pids().get(child, before) != before, f"{child} is started again")


def blind(stage: Stage) -> None:
    """The network between the daemon and Kafka is cut; later nothing is written any more."""
    gone = stage.begin("TxninsightViewBlind", "blind", stage.instance("blind"))
    stage.proxy.refuse()
    stage.await_fired(gone)
    stage.proxy.pass_on()
    stage.end(gone)
    stage.await_cleared(gone)
    stage.sees_again.set()
    silent = stage.begin("TxninsightNoEvents", "blind", stage.instance("blind"))
    stage.pulse.silence(stage.topics["blind"])
    stage.await_fired(silent)
    stage.pulse.resume(stage.topics["blind"])
    stage.end(silent)
    stage.await_cleared(silent)


def busy(stage: Stage) -> None:
    """More comes than an aggregator can take that hardly gets to run: it may fall behind, and answer too late."""
    assert stage.lives_again.wait(ALERT_GUARD_S)
    for alert in ("TxninsightViewBlind", "TxninsightNotReady", "TxninsightCheckpointStale", "TxninsightDown"):
        stage.allow(alert, "busy")
    backed_up = stage.begin("TxninsightQueueBackedUp", "busy", stage.instance("busy"))
    with throttled(stage.daemons["busy"].pids()["aggregator"]), flooded(stage):
        stage.await_fired(backed_up)
    stage.end(backed_up)
    stage.await_cleared(backed_up)


@contextmanager
def throttled(pid: int) -> Iterator[None]:
    """A process that runs a third of the time, in turns shorter than any patience with it."""

    def hold_and_let_go() -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(pid, signal.SIGCONT)

    with repeated(hold_and_let_go, RUNNING_S):
        yield


@contextmanager
def flooded(stage: Stage) -> Iterator[None]:
    """A topic that never has fewer unread records than a daemon can make up for in seconds."""
    daemon, topic = stage.daemons["busy"], stage.topics["busy"]
    serial = itertools.count()

    def top_up() -> None:
        if daemon.total("txninsight_consumer_lag_records", view="monitor") < FLOOD:
            values = wholes([f"flood-{next(serial)}" for _ in range(FLOOD // 2)], PULSE)
            publish(stage.broker.bootstrap, topic, (("flood", value) for value in values))

    with repeated(top_up, LOOK_EVERY_S):
        yield


def down(stage: Stage) -> None:
    """The daemon is killed while one is stuck and many were aborted: the page for the former is not sent again."""
    aborting, parcels, instance = "TxninsightAbortRatioHigh", ["parcel"], stage.instance("down")
    daemon = stage.daemons["down"]
    stuck = stage.begin("TxninsightTransactionsStuck", "down", "parcels", frozenset(parcels))
    stage.write("down", *opens(parcels, "parcels"))
    stage.await_fired(stuck)
    stage.end(stuck)
    stage.await_cleared(stuck)
    TransactionalWriter(stage.broker).aborted(stage.topics["down"], *wholes(ids("refund", 20), "refunds"))
    await_that(lambda: states(stage, aborting, "down"), "the abort ratio is high", ALERT_GUARD_S)
    gone = stage.begin("TxninsightDown", "down", instance)
    daemon.kill()
    stage.await_fired(gone)
    await_that(lambda: "firing" in states(stage, aborting, "down"), "the abort ratio would page", ALERT_GUARD_S)
    await_that(lambda: is_inhibited(stage, aborting, instance), "it is inhibited", ALERT_GUARD_S)
    await_that(lambda: not states(stage, aborting, "down"), "the abort ratio would page no more", ALERT_GUARD_S)
    daemon.start()
    stage.end(gone)
    stage.await_cleared(gone)
    stage.is_up_again.set()
    still = stage.begin("TxninsightTransactionsStillStuck", "down", "parcels", frozenset(parcels))
    stage.await_fired(still)
    stage.write("down", *closes(parcels, "parcels"))
    stage.end(still)
    stage.await_cleared(still)


def states(stage: Stage, alert: str, name: str) -> set[str]:
    """pending, firing: how an alert of a daemon stands in Prometheus."""
    return stage.prometheus.states(alert, stage.instance(name))


def is_inhibited(stage: Stage, alert: str, instance: str) -> bool:
    """Whether Alertmanager has the alert and keeps it to itself, since another of that daemon fires."""
    return any(each["status"]["inhibitedBy"] for each in stage.alertmanager.alerts(alertname=alert, instance=instance))


def absent(stage: Stage) -> None:
    """A Prometheus has lost its only target, and gets it back."""
    lost = stage.begin("TxninsightAbsent", ABSENT, "lonely")
    with stage.lonely as prometheus:
        stage.await_fired(lost)
        assert stage.sees_again.wait(ALERT_GUARD_S)  # of a daemon in trouble it would tell, too
        prometheus.target([stage.daemons["blind"].port])
        prometheus.reload()
        stage.end(lost)
        stage.await_cleared(lost)


SCRIPTS: tuple[Script, ...] = (business, records, held, crashing, blind, busy, down, absent)


def play(stage: Stage) -> None:
    """All of them beside each other. Raises an ExceptionGroup of what went wrong, once all have ended."""
    with ThreadPoolExecutor(len(SCRIPTS)) as beside:
        failures = [running.exception() for running in [beside.submit(script, stage) for script in SCRIPTS]]
    if any(failures):
        raise BaseExceptionGroup("scripts failed", [failure for failure in failures if failure is not None])
