"""The model of the log: the LSO stands at the first record of the earliest open Kafka transaction; all wait behind it.

The property test says the same once more, as the definition does: a record is decided as soon as no Kafka transaction
is open whose first record in that partition is not behind it.
"""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools.simulation.kafkalog import PENDING, KafkaTransaction, Partition, Record, end
from txninsightd.vocabulary import Kind


@dataclass
class Owner:
    undecided: int = 0
    told: int = 0

    def all_decided(self) -> None:
        self.told += 1


def write(partition: Partition, kafka: KafkaTransaction | None, at: float, owner: Owner | None = None) -> Record:
    record = Record(owner or Owner(), Kind.STEP_OPEN, "step", None, at, at, False, kafka)
    partition.append(record, at)
    return record


def test_a_plain_record_is_decided_when_it_is_written() -> None:
    assert write(Partition("t", 0), None, 5.0).decided_at == 5.0


def test_everything_behind_an_open_transaction_waits_for_it() -> None:
    partition, hanging, other = Partition("t", 0), KafkaTransaction(), KafkaTransaction()
    before = write(partition, None, 1.0)
    first = write(partition, hanging, 2.0)
    owner = Owner()
    theirs, plain = write(partition, other, 3.0, owner), write(partition, None, 4.0, owner)
    end(other, "commit", 5.0)
    assert before.decided_at == 1.0
    assert first.decided_at == theirs.decided_at == plain.decided_at == PENDING
    assert owner.undecided == 2
    end(hanging, "abort", 9.0, slack_s=0.5)
    assert (first.decided_at, theirs.decided_at, plain.decided_at) == (9.0, 9.0, 9.0)
    assert (first.aborted, theirs.aborted, plain.aborted) == (True, False, False)
    assert theirs.slack_s == 0.5
    assert (owner.undecided, owner.told) == (0, 1)


def test_a_commit_behind_an_open_transaction_is_decided_with_it_and_not_before_its_own() -> None:
    partition, one, two = Partition("t", 0), KafkaTransaction(), KafkaTransaction()
    write(partition, one, 1.0)
    late = write(partition, two, 2.0)
    end(one, "commit", 3.0)
    assert late.decided_at == PENDING
    assert late.at_lso_from == 3.0  # now it is the first of the earliest that is open
    end(two, "commit", 4.0)
    assert late.decided_at == 4.0


def test_only_the_first_record_of_the_open_transaction_lies_at_the_lso() -> None:
    partition, kafka = Partition("t", 0), KafkaTransaction()
    first, second = write(partition, kafka, 1.0), write(partition, kafka, 2.0)
    assert (first.at_lso_from, second.at_lso_from) == (1.0, PENDING)
    assert kafka.began_at == 1.0


def test_partitions_wait_for_themselves_alone() -> None:
    one, two, hanging = Partition("t", 0), Partition("t", 1), KafkaTransaction()
    write(one, hanging, 1.0)
    assert write(two, None, 2.0).decided_at == 2.0


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["write", "plain", "commit", "abort"])), max_size=60))
def test_decided_is_what_the_definition_says(actions: list[tuple[int, str]]) -> None:
    partition = Partition("t", 0)
    open_: dict[int, KafkaTransaction] = {}
    records: list[Record] = []
    for now, (producer, action) in enumerate(actions, 1):
        if action == "plain":
            records.append(write(partition, None, now))
        elif action == "write":
            records.append(write(partition, open_.setdefault(producer, KafkaTransaction()), now))
        elif producer in open_:
            end(open_.pop(producer), action, now)
        firsts = [min(r.offset for r in records if r.kafka is k) for k in open_.values()]
        lso = min([len(records), *firsts])
        for record in records:
            assert (record.decided_at <= now) == (record.offset < lso)
            assert record.at_lso_from <= now or record.offset != lso
