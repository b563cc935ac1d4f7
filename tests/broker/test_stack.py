"""The broker that the other tests stand on: it answers, keeps its data over restarts and kills, and cleans up."""

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.harness.fixtures import MakeTopic, OwnBroker
from txninsightd.tools.stack import StackError
from txninsightd.tools.stack.broker import Broker, admin, create_topics


def produce(bootstrap: str, topic: str, value: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, value)
    assert producer.flush(60) == 0


def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "read", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = [message.value() for message in consumer.consume(count, timeout=60)]
    consumer.close()
    return values


def test_topics_are_made_with_their_partitions(broker: Broker, topic: MakeTopic) -> None:
    name = topic(3)
    assert len(admin(broker.bootstrap).list_topics(timeout=60).topics[name].partitions) == 3


def test_topics_are_not_made_by_accident(broker: Broker) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.timeout.ms": 2000})
    producer.produce("never-made", "x")
    producer.flush(60)
    assert "never-made" not in admin(broker.bootstrap).list_topics(timeout=60).topics


def test_a_topic_that_exists_is_an_error_that_names_it(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    with pytest.raises(StackError, match=name):
        create_topics(broker.bootstrap, {name: 1})


def test_data_outlives_restart_and_kill(own_broker: OwnBroker, topic: MakeTopic) -> None:
    own = own_broker()
    name = topic(on=own)
    produce(own.bootstrap, name, "before the restart")
    own.restart()
    produce(own.bootstrap, name, "before the kill")
    own.kill()
    assert not own.is_running()
    own.start()
    assert read(own.bootstrap, name, 2) == [b"before the restart", b"before the kill"]


def test_kafkas_own_tools_run(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    produce(broker.bootstrap, name, "seen by the dump")
    segment = broker.log_dir / f"{name}-0" / "00000000000000000000.log"
    dump = broker.run_tool("kafka.tools.DumpLogSegments", "--files", str(segment), "--print-data-log")
    assert "payload: seen by the dump" in dump


def test_an_expired_transaction_is_aborted_soon(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": name, "transaction.timeout.ms": 1000}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(name, "left open")
    producer.flush(60)
    produce(broker.bootstrap, name, "waits behind it")
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": name, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(name, 0, 0)])
    assert [message.value() for message in consumer.consume(1, timeout=60)] == [b"waits behind it"]
    consumer.close()
    with pytest.raises(KafkaException):
        producer.commit_transaction(60)


def test_a_broker_that_cannot_start_says_why(own_broker: OwnBroker) -> None:
    with pytest.raises(StackError, match=r"ended with code 1:(.|\n)*no\.such\.class"):
        own_broker(properties={"authorizer.class.name": "no.such.class"})
