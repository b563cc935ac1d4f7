"""A thousand partitions: how many messages the readers send while nothing is written, and when something is."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.fixtures import fresh_name
from tests.harness.in_process import InProcess, config_for, daemon_in_process
from tests.harness.kafka import Writer, delete_topic
from txninsightd.config import Topic
from txninsightd.supervise.channel import Channel
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import Coverage, PartitionRef, Seen, Sightings, View

EVENT = '{"event": "step_open", "txn_id": "T"}'


@pytest.fixture(params=[{1000: 1}, {400: 1, 200: 2, 1: 200}], ids=["one topic", "several topics"])
def topics(request: pytest.FixtureRequest, broker: Broker) -> Iterator[list[str]]:
    """The names of topics with a thousand partitions in all; deleted after the test, since brokers are shared."""
    stem = fresh_name("many")
    made = {f"{stem}-{size}-{i}": size for size, count in request.param.items() for i in range(count)}
    create_topics(broker.bootstrap, made)
    yield list(made)
    for name in made:
        delete_topic(broker, name)


class Sent:
    """What the readers send, by view and type."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, running: InProcess) -> None:
        self.counts: Counter[tuple[View, type]] = Counter()
        views = {id(work.line): view for view, work in running.work.items()}
        send = Channel.send

        def counted(channel: Channel, message: Any) -> None:
            if id(channel) in views:
                self.counts[views[id(channel)], type(message)] += 1
            send(channel, message)

        monkeypatch.setattr(Channel, "send", counted)


def await_seen(running: InProcess) -> None:
    """Work until both views have seen all partitions beyond now."""
    now = time.time()
    running.until(lambda: min(p.both_as_of for p in running.ledger.partitions.values()) > now, "all is seen again")


def test_idle_partitions_share_one_message_and_one_with_news_has_its_own(
    broker: Broker, topics: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(broker, Topic(pattern=f"{topics[0].rsplit('-', 2)[0]}-.*"))
    with daemon_in_process(broker, config) as running:
        partitions = running.ledger.partitions
        running.until(lambda: len(partitions) == 1000 and not running.aggregator.missing(), "the daemon is ready")
        sent, began = Sent(monkeypatch, running), time.monotonic()
        await_seen(running)
        await_seen(running)
        passed_s = time.monotonic() - began
        for view in View:
            assert 1 <= sent.counts[view, Seen] <= 2 + passed_s
            assert sent.counts[view, Sightings] + sent.counts[view, Coverage] == 0
        Writer(broker).write(topics[0], EVENT)
        ref = PartitionRef(topics[0], 0)
        running.until(lambda: partitions[ref].decided_offset == 1, "a verdict")
        assert (sent.counts[View.MONITOR, Sightings], sent.counts[View.VALIDATOR, Coverage]) == (1, 1)
