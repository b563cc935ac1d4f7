"""The broker and the way to it fail, and come back: nothing is lost, nothing false is said, and no process needs help.

One experiment, in which traffic runs all the while and some transactions get stuck on purpose. Three daemons watch one
broker, each through a proxy of its own, while the producers go to the broker directly; a fourth watches a cluster.
They start while their broker cannot be reached, and with a topic that does not exist yet. Then, at once:

- the first proxy refuses connections; the second falls silent, and when newcomers fare well again, those connections
  stay half-open for ever; the third is slow and resets what is open again and again; partitions are added meanwhile;
- in the cluster other brokers become the leaders, without a death.

When all have caught up, the broker is killed and so is one leader in the cluster; both come back, and all must catch up
again. At last partitions are added in quiet times. Every record is judged by the brokers' own logs, which they stamped.

The long form has the outages last longer than the clients' own time-outs, which the short form shortens.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.harness.cluster import Cluster, ProxiedListener, broker_with_listeners
from tests.harness.daemon import Daemon
from tests.harness.kafka import TransactionalWriter, add_partitions, publish
from tests.harness.metrics import Samples, total
from tests.harness.oracle import Log, LogEntry, differences, log_entries, read_logs, reported_events
from tests.harness.proxy import Proxy
from tests.harness.timeliness import CLOCK_STEP_S, Outage, Patience, false_sights
from tests.harness.traffic import Traffic
from txninsightd.aggregate.aggregator import BLIND_AFTER_S
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import Verdict

PATIENCE = Patience(idle_after_s=5.0, overdue_after_s=8.0, commit_pending_after_s=4.0, retry_grace_s=6.0)
STAMPED = {"message.timestamp.type": "LogAppendTime"}
MAIN, STEPS, HELD = "main", "steps", "held"
"""Opens and closes; steps; what is written in a Kafka transaction that never ends. HELD does not exist at first."""
PARTITIONS = 2
MORE_PARTITIONS = 4
FILLED = 20
"""Transactions written to each partition that is added."""
LOOK_EVERY_S = 0.5
RESET_EVERY_S = 1.5
DELAY_S = 0.1
ASKED_NODE = 1
"""The node of the cluster that the test itself talks to: it is not killed."""
UNREPLICATED_S = 6.0
"""A consumer can read a record once all nodes in sync have it, and a dead node counts as in sync for seconds."""
VIEWS = ("monitor", "validator")


class Form(NamedTuple):
    """How long the way to the broker is broken and how long the broker is down; what the daemons' clients are told."""

    broken_s: float
    down_s: float
    client: dict[str, Any]


SHORT = Form(BLIND_AFTER_S + 2, 10.0, {"socket.timeout.ms": 3000})
LONG = Form(90.0, 60.0, {})


# --- What is written --------------------------------------------------------------------------------------------------


def event(kind: str, txn_id: str) -> str:
    """A record's value."""
    return json.dumps({"event": f"transaction_{kind}", "txn_id": txn_id, "ts": time.time()})


class Site:
    """A broker, or one of a cluster, and what is written there. `planned`: what must get stuck, and why."""

    def __init__(self, name: str, broker: Broker, bootstrap: str) -> None:
        self.name = name
        self.broker = broker
        self.bootstrap = bootstrap
        self.planned: dict[str, str] = {}
        self.logs: list[Log] = []
        self._traffic: Traffic | None = None
        self._writers: list[TransactionalWriter] = []

    def begin(self) -> None:
        """Traffic, and what it needs."""
        create_topics(self.bootstrap, dict.fromkeys((MAIN, STEPS), PARTITIONS), STAMPED)
        self._traffic = Traffic(self.bootstrap, [MAIN, STEPS], producers=4).start()

    def leave_stuck(self) -> None:
        """One that gets no further event, and one whose close is aborted and not tried again."""
        idle, given_up = (f"{what}-{len(self.planned)}" for what in ("idle", "given-up"))
        publish(self.bootstrap, MAIN, [(idle, event("open", idle))])
        writer = self._new_writer()
        writer.committed(MAIN, event("open", given_up))
        writer.aborted(MAIN, event("close", given_up))
        self.planned |= {idle: "idle", given_up: "never_committed"}

    def leave_held(self) -> None:
        """One whose close lies in a Kafka transaction that never ends, in a topic that was not there before."""
        create_topics(self.bootstrap, {HELD: 1}, STAMPED)
        publish(self.bootstrap, MAIN, [("held", event("open", "held"))])
        writer = self._new_writer()
        writer.begin()
        writer.write(HELD, event("close", "held"))
        self.planned["held"] = "commit_pending"

    def fill_new_partitions(self, topic: str) -> None:
        """Add partitions, and write to them at once."""
        add_partitions(self.broker, topic, MORE_PARTITIONS)
        for partition in range(PARTITIONS, MORE_PARTITIONS):
            txn_ids = [f"{topic}-{partition}-{i}" for i in range(FILLED)]
            records = [(txn_id, event(kind, txn_id)) for txn_id in txn_ids for kind in ("open", "close")]
            publish(self.bootstrap, topic, records, partition)

    def conclude(self) -> None:
        """No more is written; the log is read."""
        if self._traffic is not None:
            self._traffic.stop()
        self.logs = read_logs(self.broker, [MAIN, STEPS, HELD])

    def lives(self) -> dict[str, list[LogEntry]]:
        """The records of each transaction, by the log."""
        lives = defaultdict(list)
        for entry in log_entries(self.logs).values():
            lives[entry.txn_id].append(entry)
        return lives

    def _new_writer(self) -> TransactionalWriter:
        """Kept, so that what it has begun stays open."""
        self._writers.append(TransactionalWriter(self.broker))
        return self._writers[-1]


class Truth(NamedTuple):
    """What the log says of a transaction."""

    state: str
    attempts: int
    events: int


def truth_of(life: list[LogEntry]) -> Truth:
    """By the rules of docs/lifecycle.md, for those that are tried again as long as it takes or not at all.

    Of a Kafka transaction that ends in a fault, the open may never have come to the log.
    """
    opens, closes = ([f.verdict for f in life if f.kind == f"transaction_{kind}"] for kind in ("open", "close"))
    attempts = max(each.count(Verdict.ABORTED) + bool(set(each) - {Verdict.ABORTED}) for each in (opens, closes))
    return Truth(_state(life, opens, closes), max(1, attempts), len(life))


def _state(life: list[LogEntry], opens: list[Verdict], closes: list[Verdict]) -> str:
    if Verdict.COMMITTED in closes:
        return "closed"
    if Verdict.PENDING in closes:
        return "tentatively_closed"
    if all(entry.verdict is Verdict.ABORTED for entry in life):
        return "aborted" if opens else "unknown"
    return "aborted" if Verdict.ABORTED in closes else "open"


# --- What watches -----------------------------------------------------------------------------------------------------


class Watch:
    """A daemon, and what it was seen to say."""

    def __init__(self, name: str, site: Site, directory: Path, bootstrap: str, form: Form) -> None:
        self.name = name
        self.site = site
        sections = {**PATIENCE.sections(), "topics": [MAIN, STEPS, HELD], "kafka": {"client": form.client}}
        self.daemon = Daemon(directory, bootstrap, sections)
        self.blind_since = float("inf")
        self.outages: list[Outage] = []
        self.missing: set[str] = set()
        self.missing_in: dict[str, set[str]] = {}
        self.ever_aborted: set[str] = set()
        self.partitions: list[dict[str, Any]] = []
        self.false_as_of: list[float] = []
        self.greatest_age_s: dict[str, float] = dict.fromkeys(VIEWS, 0.0)
        self.pids: dict[str, int] = {}
        self.details: dict[str, dict[str, Any]] = {}
        self.metrics: Samples = {}

    def look(self) -> None:
        """Note what it says just now."""
        self.missing |= set(self.daemon.missing())
        self.ever_aborted |= self.daemon.transactions(state="aborted").keys()
        partitions = self.daemon.get("/api/v1/partitions")
        self.partitions += partitions
        as_ofs = [partition[f"{view}_as_of"] or 0.0 for partition in partitions for view in VIEWS]
        self.false_as_of += [as_of for as_of in as_ofs if as_of > self.blind_since]
        metrics = self.daemon.metrics()
        for view in VIEWS:
            age_s = metrics["txninsight_view_age_seconds", (("view", view),)]
            self.greatest_age_s[view] = max(age_s, self.greatest_age_s[view])

    def end_phase(self, name: str) -> None:
        """What was missing up to now belongs to this phase."""
        self.missing_in[name], self.missing = self.missing, set()

    def blind(self) -> None:
        """It cannot reach its broker since this moment."""
        self.blind_since = time.time()

    def sees(self) -> None:
        """It may reach its broker again."""
        self.outages.append(Outage(self.blind_since, time.time()))
        self.blind_since = float("inf")

    def await_no_answer(self) -> None:
        """Wait until it says that no broker answers."""
        self.daemon.await_that(
            lambda: (
                self.daemon.status("/readyz") == 503
                and any("does not answer" in text for text in self.daemon.missing())
            ),
            "it says that no broker answers",
        )

    def await_missing(self, *expected: str) -> None:
        """Wait until just these are missing, in these words."""
        self.daemon.await_that(lambda: self.daemon.missing() == list(expected), f"missing {expected}")

    def await_caught_up(self) -> None:
        """By itself it is ready again, has read all that was there when it was asked, and has no lag."""
        asked_at = time.time()
        self.daemon.await_ready()
        self.daemon.await_read(asked_at)
        self.daemon.await_that(lambda: self.daemon.total("txninsight_consumer_lag_records") == 0, "no lag")

    def conclude(self) -> None:
        """When all is settled or stuck: its last word."""
        lives = self.site.lives()
        settled = len(lives) - len(self.site.planned)
        finished = "txninsight_transactions_finished_total"
        self.daemon.await_that(lambda: self.daemon.total(finished) >= settled, f"{settled} are settled")
        stuck = self.site.planned.keys()
        self.daemon.await_that(lambda: self.daemon.transactions(state="stuck").keys() == stuck, f"{stuck} are stuck")
        self.look()
        self.details = self.daemon.details(lives)
        self.metrics = self.daemon.metrics()

    def slow(self) -> set[str]:
        """The transactions that should not get stuck, but really were slow."""
        return PATIENCE.slow(self.site.logs, self.outages) - self.site.planned.keys()

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of its last word that have these labels."""
        return total(self.metrics, name, **labels)


# --- The experiment ---------------------------------------------------------------------------------------------------


class Experiment:
    """Two sites, four daemons, and what is done to them."""

    def __init__(self, form: Form, libs: Path, directory: Path, ends: ExitStack) -> None:
        self.form = form
        ports = machine.free_ports(6)
        listeners = {f"PROXIED{i}": ProxiedListener(ports[i], ports[3 + i]) for i in range(3)}
        proxies = [ends.enter_context(Proxy(each.advertised_port, each.port)) for each in listeners.values()]
        self.refusing, self.silent, self.resetting = proxies
        self.alone = broker_with_listeners(directory / "alone", libs, listeners)
        self.cluster = Cluster(directory / "cluster", libs)
        ends.callback(self.alone.kill)
        ends.callback(self.cluster.kill)
        self.sites = [
            Site("alone", self.alone, self.alone.bootstrap),
            Site("cluster", self.cluster.nodes[ASKED_NODE], self.cluster.bootstrap),
        ]
        ways = {f"{machine.HOST}:{proxy.port}": self.sites[0] for proxy in proxies} | {
            self.cluster.bootstrap: self.sites[1]
        }
        self.watches = {}
        for name, (bootstrap, site) in zip(("refused", "silent", "reset", "moved"), ways.items(), strict=True):
            own = directory / name
            own.mkdir()
            self.watches[name] = Watch(name, site, own, bootstrap, form)
            ends.callback(self.watches[name].daemon.end)

    def run(self) -> None:
        """All of it."""
        self.begin()
        self.break_the_ways()
        self.kill_brokers()
        self.at_all_sites(lambda site: site.fill_new_partitions(MAIN))
        self.recover("partitions added")
        self.at_all_sites(Site.conclude)
        for watch in self.watches.values():
            watch.conclude()

    def begin(self) -> None:
        """The daemons are there before the way to the brokers is, and before one of the topics is."""
        for proxy in (self.refusing, self.silent, self.resetting):
            proxy.refuse()
        for watch in self.watches.values():
            watch.daemon.start()
        self.alone.start()
        for watch in self.watches.values():
            watch.await_no_answer()
        self.cluster.start()
        for proxy in (self.refusing, self.silent, self.resetting):
            proxy.pass_on()
        self.at_all_sites(Site.begin)
        for watch in self.watches.values():
            watch.await_missing(f"topic {HELD} does not exist")
        self.at_all_sites(Site.leave_held)
        self.recover("no topic")
        for watch in self.watches.values():
            watch.pids = watch.daemon.pids()

    def break_the_ways(self) -> None:
        """Three proxies misbehave, each in its way; in the cluster, leadership moves."""
        self.at_all_sites(Site.leave_stuck)
        self.resetting.delay_s = DELAY_S
        self.refusing.refuse()
        self.watches["refused"].blind()
        self.silent.fall_silent()
        self.watches["silent"].blind()
        self.sites[0].fill_new_partitions(STEPS)
        broken_until = time.monotonic() + self.form.broken_s
        self.cluster.move_leaders([MAIN, STEPS, HELD])
        self.hold(broken_until - time.monotonic(), self.resetting.reset)
        self.resetting.delay_s = 0.0
        for proxy, watch in ((self.refusing, "refused"), (self.silent, "silent")):
            self.watches[watch].sees()
            proxy.pass_on()
        self.recover("way broken")

    def kill_brokers(self) -> None:
        """The clients of the silent proxy are not even told."""
        self.at_all_sites(Site.leave_stuck)
        victim = next(
            node for node in self.cluster.leaders(MAIN).values() if self.cluster.nodes[node] is not self.sites[1].broker
        )
        self.silent.fall_silent()
        self.alone.kill()
        self.cluster.nodes[victim].kill()
        alone = [watch for watch in self.watches.values() if watch.site.broker is self.alone]
        for watch in alone:
            watch.blind()
        self.hold(self.form.down_s)
        for watch in alone:
            watch.sees()
        self.silent.pass_on()
        back = (self.alone, self.cluster.nodes[victim])
        for broker in back:
            broker.launch()
        for broker in back:
            broker.await_ready()
        self.cluster.await_in_sync(MAIN)
        self.recover("broker down")

    def recover(self, phase: str) -> None:
        """All catch up; what was missing until then belongs to the phase."""
        for watch in self.watches.values():
            watch.await_caught_up()
        self.end_phase(phase)

    def end_phase(self, name: str) -> None:
        for watch in self.watches.values():
            watch.end_phase(name)

    def at_all_sites(self, action: Callable[[Site], None]) -> None:
        """At once, since it is mostly waiting."""
        with ThreadPoolExecutor(len(self.sites)) as beside:
            list(beside.map(action, self.sites))

    def hold(self, seconds: float, every_second: Callable[[], None] = lambda: None) -> None:
        """Let it go on for so long, and keep looking, at last when the time is over."""
        until, act_at = time.monotonic() + seconds, 0.0
        over = False
        while not over:
            over = time.monotonic() >= until
            if time.monotonic() >= act_at:
                every_second()
                act_at = time.monotonic() + RESET_EVERY_S
            for watch in self.watches.values():
                watch.look()
            time.sleep(LOOK_EVERY_S)


@pytest.fixture(scope="module", params=[SHORT, pytest.param(LONG, marks=pytest.mark.full)], ids=["short", "long"])
def ran(
    request: pytest.FixtureRequest, kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Experiment]:
    """The experiment, when all of it is over."""
    with ExitStack() as ends:
        experiment = Experiment(request.param, kafka_libs, tmp_path_factory.mktemp("faults"), ends)
        experiment.run()
        yield experiment


# --- What must be so --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["refused", "silent", "reset", "moved"])
def watch(request: pytest.FixtureRequest, ran: Experiment) -> Watch:
    return ran.watches[request.param]


def test_traffic_ran_all_the_while(watch: Watch) -> None:
    verdicts = Counter(entry.verdict for entry in log_entries(watch.site.logs).values())
    assert verdicts[Verdict.COMMITTED] > 200
    assert verdicts[Verdict.ABORTED] > verdicts.total() / 10
    assert verdicts[Verdict.PENDING] == 1
    assert len(watch.slow()) < len(watch.details) / 2


def test_every_verdict_is_the_logs(watch: Watch) -> None:
    assert differences(log_entries(watch.site.logs), reported_events(watch.details.values())) == []


def test_every_transaction_is_what_the_log_says(watch: Watch) -> None:
    said = {t: Truth(d["state"], d["attempts"], d["events"]) for t, d in watch.details.items()}
    truth = {txn_id: truth_of(life) for txn_id, life in watch.site.lives().items()}
    slow = watch.slow()
    assert {t: (said.get(t), true) for t, true in truth.items() if said.get(t) != true and t not in slow} == {}


def test_every_record_is_counted_once(watch: Watch) -> None:
    for topic in (MAIN, STEPS, HELD):
        verdicts = Counter(v for log in watch.site.logs if log.ref.topic == topic for v in log.verdicts().values())
        records = "txninsight_records_total"
        assert watch.total(records, view="monitor", topic=topic, result="ok") == verdicts.total()
        assert watch.total(records, view="monitor", topic=topic) == verdicts.total()
        assert watch.total(records, view="validator", topic=topic) == verdicts[Verdict.COMMITTED]
    lives = watch.site.lives()
    opened = sum(any(entry.kind == "transaction_open" for entry in life) for life in lives.values())
    assert watch.total("txninsight_transactions_opened_total") == opened
    states = Counter(truth_of(life).state for txn_id, life in lives.items() if txn_id not in watch.site.planned)
    finished = "txninsight_transactions_finished_total"
    assert watch.total(finished, outcome="closed") == states["closed"]
    assert watch.total(finished, outcome="unknown") == states["unknown"]
    assert 0 <= watch.total(finished, outcome="aborted") - states["aborted"] <= len(watch.slow())


def test_those_are_stuck_that_should_be(watch: Watch) -> None:
    slow = watch.slow()
    passed = {t: d["causes_passed"] for t, d in watch.details.items() if d["causes_passed"] and t not in slow}
    assert passed == {txn_id: [cause] for txn_id, cause in watch.site.planned.items()}
    every = sum(len(detail["causes_passed"]) for detail in watch.details.values())
    assert watch.total("txninsight_stuck_total") == every


def test_no_false_aborted_at_any_moment(watch: Watch) -> None:
    aborted = {entry.txn_id for entry in log_entries(watch.site.logs).values() if entry.verdict is Verdict.ABORTED}
    assert watch.ever_aborted <= aborted


def test_it_never_claimed_to_have_seen_what_it_had_not(watch: Watch) -> None:
    assert len(watch.partitions) > 100
    allowed_s = UNREPLICATED_S if watch.name == "moved" else CLOCK_STEP_S
    assert false_sights(watch.partitions, watch.site.logs, allowed_s) == []
    assert watch.false_as_of == []


@pytest.mark.parametrize(("name", "blind"), [("refused", True), ("silent", True), ("moved", False)])
def test_it_said_that_it_was_blind_when_it_was(ran: Experiment, name: str, blind: bool) -> None:
    watch = ran.watches[name]
    said = {text.partition(" than ")[0] for text in watch.missing_in["way broken"] if "nothing newer" in text}
    assert said == ({f"the {view} has seen nothing newer" for view in VIEWS} if blind else set())
    assert any("does not answer" in text for text in watch.missing_in["way broken"]) == blind
    for view in VIEWS:
        assert (watch.greatest_age_s[view] >= ran.form.broken_s) == blind


def test_it_said_that_the_broker_was_not_there(watch: Watch) -> None:
    assert any("does not answer" in text for text in watch.missing_in["broker down"]) == (watch.name != "moved")


def test_no_process_was_restarted(watch: Watch) -> None:
    assert watch.pids.keys() == {"monitor-0", "validator-0", "aggregator"}
    assert watch.daemon.pids() == watch.pids


def test_it_stops_in_order(watch: Watch) -> None:
    assert watch.daemon.stop() == 0
