"""What the readers do with their consumers: assign without a group, add partitions, hold them back; and none forks."""

import subprocess
import sys

from confluent_kafka import TopicPartition

from tests.harness.fixtures import MakeTopic
from tests.harness.kafka import TransactionalWriter, Writer, groups_with_members
from tests.harness.waiting import HANG_GUARD_S
from tests.harness.watched_consumer import WatchedConsumer, end, records
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import View


def test_partitions_come_and_go_one_by_one_without_a_group_and_leave_the_others_alone(
    broker: Broker, topic: MakeTopic
) -> None:
    name, writer = topic(2), Writer(broker)
    writer.write(name, *"abc")
    writer.write(name, *"ab", partition=1)
    with WatchedConsumer(broker, View.VALIDATOR, name) as consumer:
        consumer.until_end(3)
        consumer.consumer.incremental_assign([TopicPartition(name, 1, 1)])
        assert consumer.until_end(2, partition=1) == [*records(1, partition=1), *end(2, partition=1)]
        assert consumer.position == 3
        writer.write(name, "d")
        assert consumer.until_end(4) == [*records(3), *end(4)]
        consumer.consumer.incremental_unassign([TopicPartition(name, 1)])
        writer.write(name, "c", partition=1)
        writer.write(name, "e")
        assert consumer.until_end(5) == [*records(4), *end(5)]
        assert consumer.after_fetches() == []
        assert "txninsightd-validator" not in groups_with_members(broker)


def test_a_paused_partition_hands_out_nothing_and_goes_on_where_it_was(broker: Broker, topic: MakeTopic) -> None:
    name, writer = topic(2), Writer(broker)
    writer.write(name, *map(str, range(100)))
    with WatchedConsumer(broker, View.MONITOR, name) as consumer:
        consumer.consumer.incremental_assign([TopicPartition(name, 1, 0)])
        consumer.until(lambda: consumer.delivered, "a record", most=1)
        consumer.consumer.pause([consumer.partition])
        passed, position = len(consumer.delivered), consumer.position
        writer.write(name, *map(str, range(100, 150)))
        writer.write(name, "elsewhere", partition=1)
        assert [s for s in consumer.until_end(1, partition=1) if s.partition == 0] == []
        assert consumer.position == position
        consumer.consumer.resume([consumer.partition])
        assert consumer.until_end(150) == [*records(*range(passed, 150)), *end(150)]


def test_however_often_it_is_paused_a_view_loses_nothing_and_doubles_nothing(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    for _ in range(6):
        producer.committed(name, *map(str, range(20)))
        producer.aborted(name, *map(str, range(3)))
    with WatchedConsumer(broker, View.VALIDATOR, name) as consumer:
        while consumer.eof_offsets.get(0, -1) < 150:
            consumer.until_more(most=7)
            consumer.consumer.pause([consumer.partition])
            assert consumer.take() == []
            consumer.consumer.resume([consumer.partition])
        committed = [offset for offset in range(150) if offset % 25 < 20]
        assert consumer.delivered == committed
        assert {s.offset for s in consumer.seen if s.what == "_PARTITION_EOF"} == {150}
        assert consumer.position == 150


IN_A_CHILD = """
import os, signal, sys
from confluent_kafka import Consumer, Producer, TopicPartition
bootstrap, topic = sys.argv[1:]

def consumer(start):
    made = Consumer({"bootstrap.servers": bootstrap, "group.id": "fork", "enable.partition.eof": True})
    made.assign([TopicPartition(topic, 0, start)])
    return made

inherited = consumer(0)
while not (message := inherited.poll(1)) or not message.error():
    pass
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
producer = Producer({"bootstrap.servers": bootstrap})
producer.produce(topic, "after the fork")
assert producer.flush(60) == 0
own = consumer(1)
while not (message := own.poll(1)):
    pass
print("own:", message.value().decode(), flush=True)
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.alarm(5)
print("inherited:", inherited.poll(1), flush=True)
os._exit(0)
"""


def test_a_consumer_does_not_outlive_a_fork_but_one_made_behind_it_reads(broker: Broker, topic: MakeTopic) -> None:
    name = topic()
    Writer(broker).write(name, "before the fork")
    command = [sys.executable, "-c", IN_A_CHILD, broker.bootstrap, name]
    child = subprocess.run(command, capture_output=True, text=True, timeout=HANG_GUARD_S, check=True)
    own, *inherited = child.stdout.splitlines()
    assert own == "own: after the fork"
    assert inherited in ([], ["inherited: None"])
