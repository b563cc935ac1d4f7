"""A topic that is deleted, and perhaps recreated under its name: what the client does, and that the daemon goes on.

Each record carries a txn_id of its own, so that a verdict can be held against what its writer did with it. Nothing of
the new topic may ever be taken for the old one's, though its offsets are the same.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pytest
from confluent_kafka import Message

from tests.harness.fixtures import MakeTopic, OwnBroker
from tests.harness.in_process import InProcess, config_for, daemon_in_process
from tests.harness.kafka import TransactionalWriter, Writer, add_partitions, delete_topic, make_anew
from tests.harness.oracle import read_logs
from tests.harness.waiting import HANG_GUARD_S
from tests.harness.watched_consumer import WatchedConsumer, records
from txninsightd.config.model import DiscoveryConfig
from txninsightd.expose.partitions import lag_records
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import PartitionRef, PartitionStart, Verdict, View

COMMITTED, ABORTED, UNKNOWN, PENDING = Verdict.COMMITTED, Verdict.ABORTED, Verdict.UNKNOWN, Verdict.PENDING


def event(txn_id: str) -> str:
    """An event of a transaction that stays open."""
    return json.dumps({"event": "step_open", "txn_id": txn_id, "step": "pay"})


def events(name: str, count: int) -> list[str]:
    """Events of that many transactions."""
    return [event(f"{name}-{i}") for i in range(count)]


class Judged(NamedTuple):
    """Where the ledger has an event, and what it says of it."""

    ref: PartitionRef
    offset: int
    verdict: Verdict


def judged(running: InProcess, prefix: str = "") -> dict[str, Judged]:
    """By txn_id, live or settled. Each has one event, or it was read twice."""
    ledger = running.ledger
    lives = {txn_id: ledger.life(txn) for txn_id, txn in ledger.live.items()}
    lives |= {txn_id: finished.life for txn_id, finished in ledger.archive.lingering.items()}
    assert {len(life) for life in lives.values()} <= {1}
    return {
        txn_id: Judged(j.event.ref, j.event.offset, j.verdict)
        for txn_id, [j] in lives.items()
        if txn_id.startswith(prefix)
    }


def by_partition(found: dict[str, Judged]) -> dict[int, dict[int, Verdict]]:
    """Verdicts by partition and offset."""
    verdicts: dict[int, dict[int, Verdict]] = {}
    for ref, offset, verdict in found.values():
        verdicts.setdefault(ref.partition, {})[offset] = verdict
    return verdicts


def in_kafkas_log(broker: Broker, topic: str) -> dict[int, dict[int, Verdict]]:
    """The same, as the control records in the broker's own log tell it."""
    return {log.ref.partition: log.verdicts() for log in read_logs(broker, [topic])}


def until_read_anew(running: InProcess, topic: str, partitions: int, incarnation: int = 1) -> None:
    """Until the new topic is known, read to its end, judged, and nothing is missing any more."""
    refs = [PartitionRef(topic, partition, incarnation) for partition in range(partitions)]
    running.until(lambda: running.refs(topic) == refs, f"{partitions} partitions of the new topic")
    running.until_decided(topic)
    running.until(lambda: not running.aggregator.missing(), "readiness")
    for ref in refs:
        for view in View:
            assert lag_records(running.ledger.partitions[ref], view) == 0


# --- The client's part ------------------------------------------------------------------------------------------------


def test_the_client_goes_on_in_the_new_topic_without_a_word(broker: Broker, topic: MakeTopic) -> None:
    """Which is why what was read is held back until the topic's id has been asked for."""
    name = topic()
    Writer(broker).write(name, *"abc")
    with WatchedConsumer(broker, View.MONITOR, name) as monitor:
        monitor.until_end(3)
        make_anew(broker, name)
        Writer(broker).write(name, *"ABCDE")
        assert monitor.until(lambda: len(monitor.delivered) == 5)[:2] == records(3, 4)


def test_a_client_that_knows_a_later_leader_epoch_never_reads_the_new_topic(own_broker: OwnBroker) -> None:
    """Which is why a recreated topic gets a new consumer."""
    broker = own_broker()
    create_topics(broker.bootstrap, {"t": 1})
    broker.stop()
    broker.start()
    Writer(broker).write("t", *"abc")
    with WatchedConsumer(broker, View.MONITOR, "t") as old:
        old.until_end(3)
        make_anew(broker, "t")
        Writer(broker).write("t", *"ABCDE")
        with WatchedConsumer(broker, View.MONITOR, "t", 3) as new:
            new.until_end(5)
        assert old.after_fetches() == []


# --- Recreated --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [(1, 1, 3), (1, 1, 30), (2, 1, 12), (1, 3, 12)],
    ids=["shorter", "longer", "fewer partitions", "more partitions"],
)
def test_a_recreated_topic_is_another_topic(
    broker: Broker, topic: MakeTopic, before: int, after: int, count: int
) -> None:
    name, producer = topic(before), TransactionalWriter(broker)
    with daemon_in_process(broker, config_for(broker, name)) as running:
        for partition in range(before):
            producer.committed(name, *events(f"old-good-{partition}", 5), partition=partition)
            producer.aborted(name, *events(f"old-bad-{partition}", 2), partition=partition)
        running.until_decided(name)
        for partition in range(before):
            running.pause(View.VALIDATOR, PartitionRef(name, partition), True)
            producer.committed(name, *events(f"lost-{partition}", 4), partition=partition)
        running.until_read(name)
        make_anew(broker, name, after)
        for partition in range(after):
            TransactionalWriter(broker).aborted(name, *events(f"new-bad-{partition}", count // 3), partition=partition)
            producer = TransactionalWriter(broker)
            producer.committed(name, *events(f"new-good-{partition}", count - count // 3), partition=partition)
        until_read_anew(running, name, after)
        assert {found.verdict for found in judged(running, "old-good").values()} == {COMMITTED}
        assert {found.verdict for found in judged(running, "old-bad").values()} == {ABORTED}
        assert {found.verdict for found in judged(running, "lost").values()} == {UNKNOWN}
        assert {found.ref.incarnation for found in judged(running, "old").values()} == {0}
        assert {found.ref.incarnation for found in judged(running, "new").values()} == {1}
        truth = in_kafkas_log(broker, name)
        assert by_partition(judged(running, "new")) == truth
        assert running.counted(View.MONITOR, name) == {"ok": 11 * before + count * after}
        good = (count - count // 3) * after
        gap = (4 + 1) * before  # with the markers of what was lost
        assert running.counted(View.VALIDATOR, name) == {"ok": 5 * before + good, "gap": gap}


def test_a_kafka_transaction_that_was_open_in_the_old_topic_is_unknown_and_holds_nothing_back(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    with daemon_in_process(broker, config_for(broker, name)) as running:
        producer.begin()
        producer.write(name, *events("open", 4))
        Writer(broker).write(name, *events("behind", 2))
        running.until_read(name)
        assert {found.verdict for found in judged(running).values()} == {PENDING}
        make_anew(broker, name)
        Writer(broker).write(name, *events("new", 9))
        until_read_anew(running, name, 1)
        assert {found.verdict for found in judged(running, "open").values()} == {UNKNOWN}
        assert {found.verdict for found in judged(running, "behind").values()} == {UNKNOWN}
        assert by_partition(judged(running, "new")) == {0: dict.fromkeys(range(9), COMMITTED)}


def test_a_topic_recreated_after_its_leader_epoch_rose_is_read(own_broker: OwnBroker) -> None:
    broker = own_broker()
    create_topics(broker.bootstrap, {"t": 1, "beside": 1})
    broker.stop()
    broker.start()
    with daemon_in_process(broker, config_for(broker, "t", "beside")) as running:
        Writer(broker).write("t", *events("old", 5))
        Writer(broker).write("beside", *events("beside", 5))
        running.until_decided("t", "beside")
        make_anew(broker, "t")
        Writer(broker).write("t", *events("new", 9))
        Writer(broker).write("beside", *events("beside-later", 5))
        until_read_anew(running, "t", 1)
        running.until_decided("beside")
        assert by_partition(judged(running, "new")) == {0: dict.fromkeys(range(9), COMMITTED)}
        assert by_partition(judged(running, "beside")) == {0: dict.fromkeys(range(10), COMMITTED)}


def test_a_topic_recreated_while_no_reader_looked_is_noticed_by_its_id(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    Writer(broker).write(name, *events("new", 8))
    known = PartitionStart(name, 0, 5, topic_id="that of the old topic")
    with daemon_in_process(broker, config_for(broker, name), starts=[known]) as running:
        until_read_anew(running, name, 1)
        assert by_partition(judged(running)) == {0: dict.fromkeys(range(8), COMMITTED)}
        for view in View:
            assert running.counted(view, name) == {"ok": 8}


class Fate(NamedTuple):
    """What a writer did with a record."""

    phase: int
    partition: int
    offset: int
    verdict: Verdict


class Remaker(threading.Thread):
    """Writes Kafka transactions, and makes the topic anew again and again.

    The first of each topic is longer than the whole topic before, and written before a client asks again: offsets that
    were about to be read are there at once. Small ones follow. Every third aborts. A topic is deleted once the daemon
    has begun to read it.
    """

    def __init__(self, broker: Broker, topic: str, phases: int) -> None:
        super().__init__(daemon=True)
        self.fates: dict[str, Fate] = {}
        self.failure: BaseException | None = None
        self.phase = 0
        self.is_seen = threading.Event()
        self._broker, self._topic, self._phases = broker, topic, phases

    def run(self) -> None:
        try:
            producer = TransactionalWriter(self._broker, **{"linger.ms": 5})
            for phase in range(self._phases):
                if phase:
                    assert self.is_seen.wait(HANG_GUARD_S)
                    self.phase = phase
                    self.is_seen.clear()
                    producer = TransactionalWriter(self._broker, **{"linger.ms": 5})
                    make_anew(self._broker, self._topic)
                for i in range(12):
                    self._write(producer, phase, i, 5 if i else 300 + 150 * phase, ABORTED if i % 3 == 0 else COMMITTED)
        except BaseException as failure:
            self.failure = failure

    def _write(self, producer: TransactionalWriter, phase: int, number: int, count: int, verdict: Verdict) -> None:
        def note(txn_id: str, message: Message) -> None:
            self.fates[txn_id] = Fate(phase, message.partition(), message.offset(), verdict)

        producer.begin()
        for i in range(count):
            txn_id = f"{phase}-{number}-{i}"
            noted = partial(note, txn_id)
            producer.producer.produce(
                self._topic, event(txn_id), partition=0, on_delivery=lambda _, m, noted=noted: noted(m)
            )
        assert producer.producer.flush(HANG_GUARD_S) == 0
        (producer.abort if verdict is ABORTED else producer.commit)(awaits_markers=False)


@contextmanager
def at_work(thread: Remaker) -> Iterator[None]:
    thread.start()
    yield
    thread.join(HANG_GUARD_S)
    assert thread.failure is None


def test_recreated_again_and_again_under_load_no_record_is_taken_for_anothers(broker: Broker, topic: MakeTopic) -> None:
    name, phases = topic(), 4
    looks_slower_than_the_client = DiscoveryConfig(every_s=1.5)
    with daemon_in_process(broker, config_for(broker, name, discovery=looks_slower_than_the_client)) as running:
        remaker = Remaker(broker, name, phases)

        def is_done() -> bool:
            if any(txn_id.startswith(f"{remaker.phase}-") for txn_id in running.ledger.live):
                remaker.is_seen.set()
            return not remaker.is_alive()

        with at_work(remaker):
            running.until(is_done, "the end of the load")
        fates = remaker.fates
        last = {txn_id: fate for txn_id, fate in fates.items() if fate.phase == phases - 1}
        running.until(lambda: judged(running).keys() >= last.keys(), "the last topic's records")
        running.until_decided(name)
        running.until(lambda: not running.aggregator.missing(), "readiness")
        found = judged(running)
        assert {txn_id: (f.offset, f.verdict) for txn_id, f in found.items() if txn_id in last} == {
            txn_id: (fate.offset, fate.verdict) for txn_id, fate in last.items()
        }
        assert {txn_id for txn_id, f in found.items() if f.offset != fates[txn_id].offset} == set()
        assert {txn_id for txn_id, f in found.items() if f.verdict not in (fates[txn_id].verdict, UNKNOWN)} == set()
        phase_of = {(f.ref.incarnation, fates[txn_id].phase) for txn_id, f in found.items()}
        assert phase_of == {(phase, phase) for phase in range(phases)}
        assert running.counted(View.MONITOR, name) == {"ok": len(found)}
        passed = running.counted(View.VALIDATOR, name)["ok"]  # more than was sighted, where it was ahead of the monitor
        assert Counter(f.verdict for f in found.values())[COMMITTED] <= passed
        assert passed <= Counter(fate.verdict for fate in fates.values())[COMMITTED]


# --- Deleted, and added -----------------------------------------------------------------------------------------------


def test_what_is_undecided_in_a_deleted_topic_becomes_unknown(broker: Broker, topic: MakeTopic) -> None:
    name, other, producer = topic(), topic(), TransactionalWriter(broker)
    with daemon_in_process(broker, config_for(broker, name, other)) as running:
        Writer(broker).write(name, *events("decided", 3))
        producer.begin()
        producer.write(name, *events("open", 4))
        running.until_read(name)
        running.until_decided(name)
        delete_topic(broker, name)
        running.until(lambda: not running.refs(name), "the end of the topic")
        assert {found.verdict for found in judged(running, "decided").values()} == {COMMITTED}
        assert {found.verdict for found in judged(running, "open").values()} == {UNKNOWN}
        Writer(broker).write(other, *events("other", 3))
        running.until_decided(other)
        assert by_partition(judged(running, "other")) == {0: dict.fromkeys(range(3), COMMITTED)}
        create_topics(broker.bootstrap, {name: 1})
        Writer(broker).write(name, *events("new", 9))
        until_read_anew(running, name, 1)
        assert by_partition(judged(running, "new")) == {0: dict.fromkeys(range(9), COMMITTED)}


def test_partitions_added_under_load_are_read_from_their_first_record(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)

        def load() -> None:
            producer = TransactionalWriter(broker)
            for i in range(30):
                if i == 10:
                    add_partitions(broker, name, 3)
                    producer = TransactionalWriter(broker)
                for partition in range(3 if i >= 10 else 1):
                    end = producer.aborted if i % 3 == 2 else producer.committed
                    end(name, *events(f"{i}-{partition}", 3), partition=partition)

        loading = threading.Thread(target=load, daemon=True)
        loading.start()
        running.until(lambda: not loading.is_alive(), "the end of the load")
        until_read_anew(running, name, 3, incarnation=0)
        assert by_partition(judged(running)) == in_kafkas_log(broker, name)
        assert sum(map(len, by_partition(judged(running)).values())) == 3 * (10 + 20 * 3)
