"""Which partitions are found in a real cluster, where both views begin to read them, and which topics are refused."""

import gc
import json
import sys
import time
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

from tests.harness.fixtures import MakeTopic
from tests.harness.in_process import config_for, daemon_in_process
from tests.harness.kafka import (
    TransactionalWriter,
    Writer,
    add_partitions,
    ask_until,
    delete_before,
    delete_topic,
    set_topic_config,
)
from txninsightd import clock
from txninsightd.cluster import topic_policies
from txninsightd.cluster.client_settings import admin_settings
from txninsightd.cluster.scout import PartitionScout
from txninsightd.cluster.topic_ids import TopicIds
from txninsightd.config import Topic
from txninsightd.config.model import Start
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.vocabulary import Discovery, PartitionRef, Verdict, View

EARLIEST, LATEST, HALF_AN_HOUR_AGO = Start("earliest"), Start("latest"), Start("ago", 1800)
COMMITTED = Verdict.COMMITTED


def steps(count: int) -> list[str]:
    """Events of one transaction that stays open."""
    return [json.dumps({"event": "step_open", "txn_id": "T", "step": "pay"})] * count


def minutes_ago(minutes: float) -> dict[str, int]:
    """A record's timestamp, for `write`."""
    return {"timestamp": int((time.time() - 60 * minutes) * 1000)}


# --- Where to begin ---------------------------------------------------------------------------------------------------


def test_earliest_is_where_the_log_begins(broker: Broker, topic: MakeTopic) -> None:
    name = topic(2)
    Writer(broker).write(name, *steps(5))
    delete_before(broker, name, 3)
    with daemon_in_process(broker, config_for(broker, name, start=EARLIEST)) as running:
        running.until_decided(name)
        assert running.started == {PartitionRef(name, 0): 3, PartitionRef(name, 1): 0}
        assert running.verdicts("T") == {3: COMMITTED, 4: COMMITTED}
        for view in View:
            assert running.counted(view, name) == {"ok": 2}


def test_latest_is_the_last_stable_offset_for_both_views(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(2), TransactionalWriter(broker)
    producer.committed(name, *steps(2))
    producer.begin()
    producer.write(name, *steps(2))
    with daemon_in_process(broker, config_for(broker, name, start=LATEST)) as running:
        running.until_read(name)
        assert running.started == {PartitionRef(name, 0): 3, PartitionRef(name, 1): 0}
        producer.commit()
        running.until_decided(name)
        assert running.verdicts("T") == {3: COMMITTED, 4: COMMITTED}


def test_a_moment_ago_is_the_first_record_after_it_or_else_the_last_stable_offset(
    broker: Broker, topic: MakeTopic
) -> None:
    name, writer, producer = topic(4), Writer(broker), TransactionalWriter(broker)
    for minutes in (120, 60, 20, 10):
        writer.write(name, *steps(1), **minutes_ago(minutes))
    writer.write(name, *steps(2), partition=1, **minutes_ago(60))
    writer.write(name, *steps(1), partition=2, **minutes_ago(60))
    producer.begin()
    producer.write(name, *steps(1), partition=2, **minutes_ago(50))
    with daemon_in_process(broker, config_for(broker, name, start=HALF_AN_HOUR_AGO)) as running:
        running.until_read(name)
        assert running.started == {
            PartitionRef(name, 0): 2,
            PartitionRef(name, 1): 2,
            PartitionRef(name, 2): 1,
            PartitionRef(name, 3): 0,
        }
        producer.commit()
        running.until_decided(name)
        assert {event.ref.partition for event in running.events("T")} == {0, 2}
        assert set(running.verdicts("T").values()) == {COMMITTED}


def test_a_moment_inside_an_open_transaction_is_begun_from_and_judged_when_that_ends(
    broker: Broker, topic: MakeTopic
) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.begin()
    producer.write(name, *steps(2), **minutes_ago(60))
    producer.write(name, *steps(2), **minutes_ago(10))
    with daemon_in_process(broker, config_for(broker, name, start=HALF_AN_HOUR_AGO)) as running:
        running.until_read(name)
        assert running.started == {PartitionRef(name, 0): 2}
        assert set(running.verdicts("T").values()) == {Verdict.PENDING}
        producer.commit()
        running.until_decided(name)
        assert running.verdicts("T") == {2: COMMITTED, 3: COMMITTED}


# --- What appears later -----------------------------------------------------------------------------------------------


def test_partitions_that_are_added_are_read_from_their_beginning(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    Writer(broker).write(name, *steps(3))
    with daemon_in_process(broker, config_for(broker, name, start=LATEST)) as running:
        running.until_decided(name)
        add_partitions(broker, name, 3)
        Writer(broker).write(name, *steps(2), partition=2)
        running.until(lambda: len(running.refs(name)) == 3, "the new partitions")
        running.until_decided(name)
        assert running.started == {PartitionRef(name, 0): 3, PartitionRef(name, 1): 0, PartitionRef(name, 2): 0}
        assert running.verdicts("T") == {0: COMMITTED, 1: COMMITTED}


def test_a_missing_topic_is_named_and_read_once_it_is_there(broker: Broker, topic: MakeTopic) -> None:
    name = f"{topic()}-later"
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_missing(f"topic {name} does not exist")
        create_topics(broker.bootstrap, {name: 1})
        Writer(broker).write(name, *steps(2))
        running.until_decided(name)
        assert running.verdicts("T") == {0: COMMITTED, 1: COMMITTED}
        assert not any("does not exist" in text for text in running.aggregator.missing())


@pytest.mark.parametrize("also_there", [False, True], ids=["alone", "beside another"])
@pytest.mark.parametrize("start", [EARLIEST, LATEST, HALF_AN_HOUR_AGO], ids=lambda start: start.kind)
def test_what_was_not_there_at_the_first_look_is_read_from_its_beginning(
    broker: Broker, topic: MakeTopic, start: Start, also_there: bool
) -> None:
    name = f"{topic()}-later"
    config = config_for(broker, name, *([topic()] if also_there else []), start=start)
    scout = PartitionScout(AdminClient(admin_settings(config.kafka.client)), config, clock.steady, clock.now)
    assert f"topic {name} does not exist" in scout.look(clock.steady()).problems
    create_topics(broker.bootstrap, {name: 1})
    Writer(broker).write(name, *steps(2), **minutes_ago(60))
    assert [(f.topic, f.partition, f.start_offset) for f in scout.look(clock.steady()).found] == [(name, 0, 0)]


def test_another_monitors_first_look_is_no_first_look(broker: Broker, topic: MakeTopic) -> None:
    """What comes between two lives of the monitor, begun at the latest records, has come since the first look."""
    name = f"{topic()}-later"
    with daemon_in_process(broker, config_for(broker, name, start=LATEST)) as running:
        running.until(lambda: running.ledger.watermark.discovered_at > 0, "a complete look")
        running.stop(View.MONITOR)
        create_topics(broker.bootstrap, {name: 1})
        Writer(broker).write(name, *steps(2))
        running.start(View.MONITOR)
        running.until_decided(name)
        assert running.started == {PartitionRef(name, 0): 0}
        assert running.verdicts("T") == {0: COMMITTED, 1: COMMITTED}


def test_a_pattern_names_itself_while_nothing_matches_and_takes_what_comes(broker: Broker, topic: MakeTopic) -> None:
    stem = topic()
    entry = Topic(pattern=f"{stem}-.*", exclude=(".*-private",))
    with daemon_in_process(broker, config_for(broker, entry)) as running:
        running.until_missing(f"no topic matches the pattern {stem}-.*")
        create_topics(broker.bootstrap, {f"{stem}-private": 1, f"{stem}-a": 1, f"{stem}-b": 2})
        running.until(lambda: len(running.started) == 3, "the partitions")
        assert {ref.topic for ref in running.started} == {f"{stem}-a", f"{stem}-b"}


def test_a_deleted_topic_is_named_and_no_longer_waited_for(broker: Broker, topic: MakeTopic) -> None:
    name, other = topic(), topic()
    with daemon_in_process(broker, config_for(broker, name, other)) as running:
        running.until_decided(name, other)
        delete_topic(broker, name)
        running.until_missing(f"topic {name} does not exist")
        assert {ref.topic: p.gone for ref, p in running.ledger.partitions.items()} == {name: True, other: False}


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_refused_and_named_and_the_others_are_read(
    broker: Broker, topic: MakeTopic, policy: str
) -> None:
    compacted, other = topic(config={"cleanup.policy": policy}), topic()
    with daemon_in_process(broker, config_for(broker, compacted, other)) as running:
        running.until_missing(f"topic {compacted} is compacted and cannot be judged")
        running.until_decided(other)
        assert set(running.ledger.partitions) == {PartitionRef(other, 0)}


def test_a_topic_that_becomes_compacted_is_named_within_the_time_that_its_policy_is_trusted(
    broker: Broker, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_policies, "ASK_AGAIN_S", 0.0)
    name = topic()
    with daemon_in_process(broker, config_for(broker, name)) as running:
        running.until_decided(name)
        set_topic_config(broker, name, "cleanup.policy", "compact")
        running.until_missing(f"topic {name} is compacted and cannot be judged")


class Forbidden(AdminClient):
    """May not describe configs, as far as the caller can tell."""

    def describe_configs(  # type: ignore[override]
        self, resources: list[ConfigResource], **_: Any
    ) -> dict[ConfigResource, "Future[Any]"]:
        answers: dict[ConfigResource, Future[Any]] = {resource: Future() for resource in resources}
        for future in answers.values():
            future.set_exception(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
        return answers


def test_a_topic_whose_policy_cannot_be_learnt_is_not_trusted(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    config = config_for(broker, name)
    forbidden = Forbidden(admin_settings(config.kafka.client))
    refused = PartitionScout(forbidden, config, clock.steady, clock.now).look(clock.steady())
    assert (refused.found, refused.present) == ([], {})
    assert [text for text in refused.problems if name in text and "needs DescribeConfigs" in text]
    admin = AdminClient(admin_settings(config.kafka.client))
    allowed = PartitionScout(admin, config, clock.steady, clock.now).look(clock.steady())
    assert (allowed.present, allowed.problems) == ({name: [0]}, [])


# --- What is to blame -------------------------------------------------------------------------------------------------


class StoppedMeanwhile(AdminClient):
    """Its process is stopped in the midst of the first question, for longer than the question may take."""

    def __init__(self, settings: dict[str, Any], stops: int) -> None:
        super().__init__(settings)
        self._stops = stops
        self.stopped_s = 0.0

    def list_topics(self, *args: Any, **kwargs: Any) -> Any:
        if self._stops:
            self._stops -= 1
            self.stopped_s += 20.0
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return super().list_topics(*args, **kwargs)


@pytest.mark.parametrize(("stops", "blamed"), [(1, False), (2, True)])
def test_a_process_that_was_stopped_asks_again_before_the_cluster_is_blamed(
    broker: Broker, topic: MakeTopic, stops: int, blamed: bool
) -> None:
    name = topic()
    config = config_for(broker, name)
    admin = StoppedMeanwhile(admin_settings(config.kafka.client), stops)
    scout = PartitionScout(admin, config, lambda: clock.steady() + admin.stopped_s, clock.now)
    scout.start([], {}, looked=False)
    first: list[Discovery] = []
    ask_until(lambda: first.extend(filter(None, [scout.next_discovery()])) or first, "its first word")
    scout.stop()
    assert any("does not answer" in text for text in first[0].problems) == blamed


# --- What asking leaves behind ----------------------------------------------------------------------------------------


def test_asking_for_ids_leaves_nothing_behind(broker: Broker, topic: MakeTopic) -> None:
    names = [topic(), topic(3)]
    admin = AdminClient(admin_settings(config_for(broker, *names).kafka.client))

    def blocks_after(times: int) -> int:
        answers = [TopicIds(admin).of(names) for _ in range(times)]
        assert all(answer.keys() == set(names) and answer == answers[0] for answer in answers)
        answers.clear()
        gc.collect()
        return sys.getallocatedblocks()

    grown = -blocks_after(200) + blocks_after(2000)
    assert grown < 1000, "blocks of memory; one for each topic of each answer would be 4000"


def test_a_look_leaves_nothing_behind(broker: Broker, topic: MakeTopic) -> None:
    name = topic(3)
    config = config_for(broker, name)
    scout = PartitionScout(AdminClient(admin_settings(config.kafka.client)), config, clock.steady, clock.now)

    def blocks_after(times: int) -> int:
        for _ in range(times):
            assert scout.look(clock.steady()).present == {name: [0, 1, 2]}
        gc.collect()
        return sys.getallocatedblocks()

    grown = -blocks_after(50) + blocks_after(500)
    assert grown < 250, "blocks of memory; one for each look would be 500"
