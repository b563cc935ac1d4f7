"""Everything that runs, and the diary of what was done to it and which messages came of that.

One Kafka, with a second listener for the daemon that is to be cut off; seven daemons, each with a topic of its own; one
Prometheus that scrapes them all, and one that has lost its target; one Alertmanager; the receivers. Ordinary business
goes through every topic all the while, so that what fires has been told apart from it.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.alertmanager import Alertmanager, Receivers
from tests.harness.business_events import Pulse
from tests.harness.cluster import ProxiedListener, broker_with_listeners
from tests.harness.daemon import Daemon
from tests.harness.kafka import Writer
from tests.harness.notices import Inbox, Notice, unresolved
from tests.harness.overload import Overload
from tests.harness.prometheus import ShippedPrometheus
from tests.harness.proxy import Proxy
from tests.harness.waiting import await_that
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, create_topics

FACTOR = 30.0
"""As fast as two busy cores bear: at 60, a hiccup of two seconds is a daemon that was down for two minutes."""

ALERT_GUARD_S = 300.0
"""Until an alert has fired or cleared, even on a busy machine."""

ABSENT = "lonely"
PATIENT = {"idle_after_s": 3600, "overdue_after_s": 86400, "commit_pending_after_s": 3600}
SOON_STUCK = {"idle_after_s": 1}
SUPERVISE = {
    "heartbeat_timeout_s": 3600,  # a reader is stopped, an aggregator throttled
    "backoff_initial_s": 0.05,
    "backoff_max_s": 0.1,
    "give_up_after": 1000,
}

DAEMONS: dict[str, dict[str, Any]] = {
    "business": {
        "transaction_types": {
            "stalled": SOON_STUCK,
            "late": {"objective": {"duration_s": 10}},
            "old": {"objective": {"open_age_s": 5}},
        }
    },
    "records": {"limits": {"label_values": 1, "open_transactions": 100}},
    "held": {},
    "crashing": {},
    "blind": {},
    "busy": {"limits": {"queue_batches": 2, "batch_records": 10}},
    "down": {"transaction_types": {"parcels": SOON_STUCK}},
}
STATE = {"retry_grace_s": 0.5, "checkpoint_every_s": 1}


@dataclass
class Trouble:
    """An alert that was made to fire, and what came of it."""

    alert: str
    instance: str
    mark: str
    began_at: float
    lists: frozenset[str] | None
    ended_at: float = 0.0
    listed: frozenset[str] | None = None
    fired: Notice | None = None
    cleared: Notice | None = None


@dataclass
class Stage:
    """What runs. `allowed`: alerts that may come besides, by alert and instance.

    The events: the daemon that was cut off, the one that was killed, and the one that crashed again and again, are well
    again, and their pages over. Others that may cause such a page wait for it, since Alertmanager would make one of
    both. A script that restarts its daemon holds `restarting`, for the same reason.
    """

    broker: Broker
    proxy: Proxy
    daemons: dict[str, Daemon]
    topics: dict[str, str]
    pulse: Pulse
    prometheus: ShippedPrometheus
    lonely: ShippedPrometheus
    alertmanager: Alertmanager
    inbox: Inbox
    writer: Writer
    overload: Overload
    began_at: float = 0.0
    sees_again: threading.Event = field(default_factory=threading.Event)
    is_up_again: threading.Event = field(default_factory=threading.Event)
    lives_again: threading.Event = field(default_factory=threading.Event)
    restarting: threading.Lock = field(default_factory=threading.Lock)
    troubles: list[Trouble] = field(default_factory=list)
    allowed: set[tuple[str, str]] = field(default_factory=set)

    def instance(self, name: str) -> str:
        """A daemon's label `instance`."""
        return f"{machine.HOST}:{self.daemons[name].port}"

    def begin(self, alert: str, name: str, mark: str = "", lists: frozenset[str] | None = None) -> Trouble:
        """From now on this alert is to come: about that daemon, with `mark` in its text, listing these transactions."""
        instance = ABSENT if name == ABSENT else self.instance(name)
        trouble = Trouble(alert, instance, mark, time.time(), lists)
        self.troubles.append(trouble)
        return trouble

    def allow(self, alert: str, name: str) -> None:
        """This alert may come of that daemon, or may not."""
        self.allowed.add((alert, self.instance(name)))

    def await_fired(self, *troubles: Trouble) -> None:
        """Wait until the receivers have been told; what a message links to is looked up while it is so."""
        for trouble in troubles:
            trouble.fired = self.inbox.await_firing(trouble.alert, trouble.mark, trouble.began_at)
            if trouble.lists is not None:
                trouble.listed = frozenset(t for url in trouble.fired.transaction_lists for t in _listed(url))

    def end(self, *troubles: Trouble) -> None:
        """The cause is over."""
        for trouble in troubles:
            trouble.ended_at = time.time()

    def await_cleared(self, *troubles: Trouble) -> None:
        """Wait until the receivers have been told that it is over."""
        for trouble in troubles:
            assert trouble.fired is not None
            trouble.cleared = self.inbox.await_over(trouble.fired, trouble.mark)

    def await_scraped(self, name: str) -> None:
        """Wait until Prometheus has looked at the daemon, and found it warm and ready, for some scrapes."""
        labels = f'instance="{self.instance(name)}"'
        steady = f"min_over_time(txninsight_ready{{{labels}}}[4s]) == 1 and count_over_time(up{{{labels}}}[4s]) >= 3"
        await_that(lambda: self.prometheus.query(steady), f"{name} is scraped", ALERT_GUARD_S)

    def notices(self) -> list[Notice]:
        """All that came since everything ran."""
        return [notice for notice in self.inbox.notices() if notice.at > self.began_at]

    def write(self, name: str, *values: str | bytes | None) -> None:
        """Write records to the daemon's topic, outside any Kafka transaction."""
        self.writer.write(self.topics[name], *values)


@contextmanager
def stage(directory: Path, libs: Path) -> Iterator[Stage]:
    """Start everything; all is ended afterwards, whatever happened."""
    ports = machine.free_ports(6)
    with ExitStack() as ends:
        overload = ends.enter_context(Overload())
        broker = broker_with_listeners(directory / "broker", libs, {"CUT": ProxiedListener(ports[0], ports[1])})
        ends.callback(broker.kill)
        broker.start()
        proxy = ends.enter_context(Proxy(ports[1], ports[0]))
        topics = {name: f"{name}-events" for name in DAEMONS}
        create_topics(broker.bootstrap, dict.fromkeys(topics.values(), 1))
        daemons = _start_daemons(ends, directory, broker.bootstrap, f"{machine.HOST}:{proxy.port}", topics)
        for daemon in daemons.values():
            daemon.await_ready()
        receivers = ends.enter_context(Receivers(directory, ports[2]))
        alertmanager = ends.enter_context(Alertmanager(directory, ports[3], receivers.port, FACTOR))
        prometheus = ShippedPrometheus("main", directory, ports[4], alertmanager, FACTOR)
        prometheus.target(daemon.port for daemon in daemons.values())
        lonely = ShippedPrometheus("lonely", directory, ports[5], alertmanager, FACTOR)
        ends.enter_context(prometheus)
        pulse = ends.enter_context(Pulse(broker, list(topics.values())))
        inbox, writer = Inbox(receivers.record, ALERT_GUARD_S), Writer(broker)
        made = Stage(broker, proxy, daemons, topics, pulse, prometheus, lonely, alertmanager, inbox, writer, overload)
        for name in daemons:
            made.await_scraped(name)
        await_that(lambda: not unresolved(inbox.notices()), "what fired before all ran is resolved", ALERT_GUARD_S)
        made.began_at = time.time()
        yield made


def _start_daemons(
    ends: ExitStack, directory: Path, bootstrap: str, cut: str, topics: dict[str, str]
) -> dict[str, Daemon]:
    daemons = {}
    for name, sections in DAEMONS.items():
        home = directory / name
        home.mkdir()
        state = {"directory": str(home / "state"), **STATE}
        whole = {"topics": [topics[name]], "stuck": PATIENT, **sections, "state": state, "supervise": SUPERVISE}
        daemons[name] = Daemon(home, cut if name == "blind" else bootstrap, whole)
        ends.callback(daemons[name].end)
        daemons[name].start()
    return daemons


def _listed(url: str) -> list[str]:
    """The ids that the daemon lists there."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return [transaction["txn_id"] for transaction in json.load(answer)["transactions"]]
