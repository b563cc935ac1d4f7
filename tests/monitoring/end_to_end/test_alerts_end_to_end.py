"""Every alert that ships is seen firing and clearing: real Kafka, daemons, Prometheus, Alertmanager and receivers.

The rules, scrape config, routes, groups, inhibition and texts are those that ship; only addresses and the paths of
secrets differ, and all lengths of time are a 30th. All faults are played once (scripts.py), mostly beside each other on
daemons of their own; the tests read the diary. What came is accounted for to the last message: each alert once to the
receiver of its route, its resolve once, and nothing else, but that a daemon was late on a machine that was overloaded.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.harness.notices import Notice, by_group, unresolved
from tests.harness.prometheus import RULES
from tests.harness.waiting import await_that
from tests.monitoring.end_to_end.scripts import play
from tests.monitoring.end_to_end.stage import ALERT_GUARD_S, Stage, Trouble, stage
from txninsightd.tools.receivers import PAGERDUTY, SLACK

ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


class Expected(NamedTuple):
    """The receiver of an alert, and what its text must contain besides its runbook: of what, why, how much."""

    receiver: str
    says: tuple[str, ...]


EXPECTED = {
    "TxninsightTransactionsStuck": Expected(PAGERDUTY, ("newly stuck: idle", "no event came for longer")),
    "TxninsightTransactionsStillStuck": Expected(SLACK, ("still stuck: idle",)),
    "TxninsightAbortRatioHigh": Expected(PAGERDUTY, ("100% of aborting aborted",)),
    "TxninsightObjectiveBurnFast": Expected(PAGERDUTY, ("100% of late too slow", "objective of 10s", "99% should")),
    "TxninsightObjectiveBurnSlow": Expected(SLACK, ("100% of late too slow", "objective of 10s", "99% should")),
    "TxninsightOpenTransactionTooOld": Expected(SLACK, ("The oldest open old is 1h", "the objective is at most 5s")),
    "TxninsightStableOffsetStandsStill": Expected(PAGERDUTY, ("held-events: nothing committed for",)),
    "TxninsightViewBlind": Expected(PAGERDUTY, ("is blind: the ", "/readyz")),
    "TxninsightRecordsUnreadable": Expected(SLACK, ("1 malformed records in records-events",)),
    "TxninsightRecordsLost": Expected(
        SLACK, ("records of records-events lost to the monitor", "events may be missing")
    ),
    "TxninsightLabelValuesCut": Expected(
        SLACK, ("[FIRING:2]", "step has more values than", "status has more values than")
    ),
    "TxninsightTransactionsEvicted": Expected(SLACK, ("pulse evicted",)),
    "TxninsightQueueBackedUp": Expected(SLACK, ("-0 waits for the aggregator",)),
    "TxninsightCheckpointStale": Expected(SLACK, ("no checkpoint for", "one is due every 1s")),
    "TxninsightChildCrashLooping": Expected(PAGERDUTY, ("validator-0 restarted",)),
    "TxninsightConfigReloadRefused": Expected(SLACK, ("refused its changed configuration",)),
    "TxninsightLogLinesDropped": Expected(SLACK, ("could not write its log", "/readyz")),
    "TxninsightDown": Expected(PAGERDUTY, ("is down",)),
    "TxninsightAbsent": Expected(PAGERDUTY, ("knows no txninsightd",)),
    "TxninsightNoEvents": Expected(SLACK, ("No events at",)),
    "TxninsightNotReady": Expected(SLACK, ("has not been ready", "/readyz")),
}

OF_A_LATE_DAEMON = {"TxninsightDown", "TxninsightViewBlind", "TxninsightNotReady", "TxninsightCheckpointStale"}
EXCUSED_FOR_S = 60.0
"""So long after an overload the last resolve of such an alert may come: Slack is told every 20 seconds."""

EACH = pytest.mark.parametrize("alert", ALERTS)


@pytest.fixture(scope="module")
def played(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Everything, when all is over and Alertmanager has nothing more to say."""
    with stage(tmp_path_factory.mktemp("alerts"), kafka_libs) as played:
        play(played)
        await_that(lambda: not unresolved(played.notices()), "all that fired is resolved", ALERT_GUARD_S)
        print(table(played.troubles))
        print(f"The machine was {played.overload.worst}.")
        yield played


def table(troubles: list[Trouble]) -> str:
    """The receiver of each alert, how long after the cause it fired, and how long after the cause's end it cleared."""
    rows = ["", "| alert | receiver | fired, s | cleared, s |", "|---|---|---|---|"]
    for t in sorted(troubles, key=lambda t: ALERTS.index(t.alert)):
        assert t.fired is not None
        assert t.cleared is not None
        fired_s, cleared_s = t.fired.at - t.began_at, t.cleared.at - t.ended_at
        rows.append(f"| {t.alert} | {t.fired.receiver} | {fired_s:.1f} | {cleared_s:.1f} |")
    return "\n".join(rows)


def of(played: Stage, alert: str) -> list[Trouble]:
    """The times that an alert was made to fire; at least one."""
    found = [trouble for trouble in played.troubles if trouble.alert == alert]
    assert found, f"no script of scripts.py makes {alert} fire: nothing ships that was not seen firing"
    return found


@EACH
def test_it_fires_at_the_receiver_of_its_route_and_says_what_is_wrong(played: Stage, alert: str) -> None:
    for trouble in of(played, alert):
        assert trouble.fired is not None
        assert trouble.fired.receiver == EXPECTED[alert].receiver
        assert [words for words in EXPECTED[alert].says if words not in trouble.fired.text] == [], trouble.fired.text
        assert f"/{alert}.md" in trouble.fired.text
        assert trouble.instance in trouble.fired.text


@EACH
def test_it_links_to_exactly_those_transactions(played: Stage, alert: str) -> None:
    for trouble in of(played, alert):
        assert trouble.listed == trouble.lists


@EACH
def test_it_clears_when_the_cause_is_over(played: Stage, alert: str) -> None:
    for trouble in of(played, alert):
        assert trouble.fired is not None
        assert trouble.cleared is not None
        assert trouble.cleared.group == trouble.fired.group
        assert trouble.cleared.receiver == trouble.fired.receiver


def test_once_and_nothing_else(played: Stage) -> None:
    surprising = [n for n in played.notices() if not any(is_of(t, n) for t in played.troubles)]
    assert [str(n) for n in surprising if not is_allowed(played, n) and not is_of_overload(played, n)] == []
    for of_group in by_group(played.notices()).values():
        assert [str(later) for before, later in pairwise(of_group) if before.news == later.news] == []


def is_of(trouble: Trouble, notice: Notice) -> bool:
    """Whether it tells of this trouble, if only that an alert has joined the group or left it."""
    assert trouble.fired is not None
    assert trouble.cleared is not None
    return notice.group == trouble.fired.group and trouble.began_at < notice.at <= trouble.cleared.at


def is_allowed(played: Stage, notice: Notice) -> bool:
    """Whether it need not come, but may."""
    return any(notice.alert == alert and instance in notice.text for alert, instance in played.allowed)


def is_of_overload(played: Stage, notice: Notice) -> bool:
    """Whether it tells that some daemon was late, shortly after the machine was so busy that it had to be."""
    return notice.alert in OF_A_LATE_DAEMON and played.overload.between(notice.at - EXCUSED_FOR_S, notice.at)


def test_what_was_inhibited_never_came(played: Stage) -> None:
    down = played.instance("down")
    assert [str(n) for n in played.notices() if n.alert == "TxninsightAbortRatioHigh" and down in n.text] == []
