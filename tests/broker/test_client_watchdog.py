"""A Kafka client that gave up for ever is told from an outage, and the reader that holds it is replaced.

A broker is made to be fenced again and again: its heartbeats are further apart than the controller's patience. What it
then answers (topics, and not one broker) may be the end of a librdkafka client (its issue 5301); with
`metadata.recovery.strategy=none` it is for certain, so that is what the clients here are given.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from tests.harness.daemon import Daemon
from tests.harness.fixtures import OwnBroker
from tests.harness.in_process import config_for, daemon_in_process
from tests.harness.kafka import QUIET, ask_until, publish
from tests.harness.transactions import write_transactions
from txninsightd.cluster import client_watchdog, clients
from txninsightd.cluster.client_settings import admin_settings, client_settings
from txninsightd.cluster.client_watchdog import (
    MOST_FAILURES,
    ClientWatchdog,
    FindsBroker,
    admin_finds_broker,
    consumer_finds_broker,
    new_client_finds_broker,
)
from txninsightd.ingest import consumer_settings as reader_consumers
from txninsightd.ingest.consumer_settings import consumer_settings
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import View

FENCED_NOW_AND_THEN = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "5000"}
GIVES_UP = {"metadata.recovery.strategy": "none"}
TOPIC = "orders"

Client = TypeVar("Client", AdminClient, Consumer)


@pytest.fixture
def fenced(own_broker: OwnBroker) -> Broker:
    """A broker that is fenced for some seconds, and is not for some, and so on."""
    broker = own_broker(properties=FENCED_NOW_AND_THEN)
    create_topics(broker.bootstrap, {TOPIC: 2})
    return broker


def mend(broker: Broker) -> None:
    """From now on it is not fenced any more."""
    broker.stop()
    broker.properties.clear()
    broker.start()


def named(client: AdminClient | Consumer) -> int | None:
    """How many brokers an answer names; None: no answer."""
    try:
        return len(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return None


def given_up(make_client: Callable[[], Client]) -> Client:
    """A client that knew a broker, was told of none, and finds none any more."""
    client = make_client()
    for awaited in (1, 0, None):
        ask_until(lambda awaited=awaited: named(client) == awaited, f"a client that is told of {awaited} brokers")
    return client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not answer within a second counts as silent."""
    monkeypatch.setattr(client_watchdog, "ANSWER_WITHIN_S", 1.0)


@pytest.mark.usefixtures("impatient")
def test_a_client_without_a_broker_is_lost_when_a_new_client_finds_one(fenced: Broker) -> None:
    settings = {"bootstrap.servers": fenced.bootstrap}
    admin = given_up(lambda: AdminClient(admin_settings({**settings, **GIVES_UP}), logger=QUIET))
    consumer = given_up(
        lambda: Consumer(consumer_settings(client_settings({**settings, **GIVES_UP}), View.MONITOR), logger=QUIET)
    )
    mend(fenced)
    living = AdminClient(admin_settings(settings), logger=QUIET)
    watching = ClientWatchdog(
        lambda: new_client_finds_broker(lambda: AdminClient(admin_settings(settings), logger=QUIET)), lambda: 0.0
    )
    watching.watch("admin", lambda: admin_finds_broker(admin))
    watching.watch("consumer", lambda: consumer_finds_broker(consumer, TOPIC))
    watching.watch("living", lambda: admin_finds_broker(living))
    for _ in range(MOST_FAILURES):
        assert watching.lost == []
        watching.check()
    assert watching.lost == ["admin", "consumer"]


@pytest.mark.usefixtures("impatient")
def test_in_an_outage_no_client_is_lost(own_broker: OwnBroker) -> None:
    broker = own_broker()
    settings = {"bootstrap.servers": broker.bootstrap}
    admin, consumer = (
        AdminClient(admin_settings(settings), logger=QUIET),
        Consumer(consumer_settings(client_settings(settings), View.VALIDATOR), logger=QUIET),
    )
    watching = ClientWatchdog(
        lambda: new_client_finds_broker(lambda: AdminClient(admin_settings(settings), logger=QUIET)), lambda: 0.0
    )
    watching.watch("admin", lambda: admin_finds_broker(admin))
    watching.watch("consumer", lambda: consumer_finds_broker(consumer, TOPIC))
    watching.check()
    broker.kill()
    for _ in range(MOST_FAILURES + 1):
        watching.check()
        assert watching.lost == []
    assert not admin_finds_broker(admin)
    broker.start()
    ask_until(lambda: admin_finds_broker(admin) and consumer_finds_broker(consumer, TOPIC), "both find it again")


class SteppedWatchdog(ClientWatchdog):
    """One that the test steps. `questions`: how it asks each client, by name."""

    def __init__(self, new_client: FindsBroker) -> None:
        super().__init__(new_client, lambda: 0.0)
        self.questions: dict[str, FindsBroker] = {}

    def watch(self, name: str, finds_broker: FindsBroker) -> None:
        self.questions[name] = finds_broker
        super().watch(name, finds_broker)

    def start(self) -> None:
        pass


@pytest.mark.usefixtures("impatient")
def test_only_a_starved_consumer_is_asked(fenced: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {"bootstrap.servers": fenced.bootstrap}
    settings = consumer_settings(client_settings({**fresh, **GIVES_UP}), View.MONITOR)
    consumer = given_up(lambda: Consumer(settings, logger=QUIET))
    mend(fenced)

    def given_up_or_asking(settings: dict[str, Any], **more: Any) -> Consumer:
        # The other consumer never reads, and only asks where the logs end.
        return consumer if "queued.min.messages" in settings else Consumer(settings, **more)

    monkeypatch.setattr(reader_consumers, "Consumer", given_up_or_asking)
    watchdog = SteppedWatchdog(
        lambda: new_client_finds_broker(lambda: AdminClient(admin_settings(fresh), logger=QUIET))
    )
    monkeypatch.setattr(clients, "ClientWatchdog", lambda *_: watchdog)
    with daemon_in_process(fenced, config_for(fenced, TOPIC), View.MONITOR) as running:
        finds_broker = watchdog.questions["consumer"]
        running.until(lambda: running.found(TOPIC), "the partitions")
        assert finds_broker(), "there is nothing to read"
        publish(fenced.bootstrap, TOPIC, [("T", json.dumps({"event": "transaction_open", "txn_id": "T"}))])
        running.until(lambda: not finds_broker(), "it is starved, and no broker answers it")
        for _ in range(MOST_FAILURES):
            watchdog.check()
        assert watchdog.lost == ["consumer"]


def test_a_reader_whose_client_is_lost_is_replaced_and_nothing_is_lost(fenced: Broker, tmp_path: Path) -> None:
    sections = {
        "topics": [TOPIC],
        "kafka": {"client": GIVES_UP},
        "discovery": {"every_s": 0.2},
        "state": {"retry_grace_s": 0.5},
    }
    daemon = Daemon(tmp_path, fenced.bootstrap, sections).start()
    try:
        publish(fenced.bootstrap, TOPIC, [("T", json.dumps({"event": "transaction_open", "txn_id": "T"}))])
        daemon.await_that(lambda: daemon.status("/healthz") == 200, "it serves")
        # It may give up before it has seen anything: then T, too, is for the reader that replaces it.
        daemon.await_that(lambda: daemon.log(event="discovery_failed"), "a client gives up")
        mend(fenced)
        written = write_transactions(fenced.bootstrap, TOPIC, "after", 8)
        daemon.await_read(time.time())
        daemon.await_that(
            lambda: daemon.total("txninsight_transactions_finished_total") == written.closed + written.aborted,
            "all end",
        )
        lost = [line["process"] for line in daemon.log(event="kafka_client_lost")]
        assert "monitor-0" in lost
        assert daemon.total("txninsight_child_restarts_total") == len(lost)
        assert daemon.transactions(state="open").keys() == {"T"}
        assert daemon.stop() == 0
    finally:
        daemon.end()
