"""Which positions are committed to Kafka."""

import pytest

from txninsightd.aggregate.offset_commits import ALL_EVERY_S, OffsetCommits
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import PartitionRef, View


class Committing:
    """Two partitions, and the clock."""

    def __init__(self) -> None:
        self.time = 1e9
        self.partitions = [partition(0, monitor=20, validator=10), partition(1, monitor=7, validator=7)]
        self.commits = OffsetCommits(lambda: self.time)

    def commit(self, *views: View) -> dict[View, dict[int, int]]:
        """What is due, all of which these views' readers are told."""
        due = self.commits.due(self.partitions)
        for view in views:
            self.commits.sent(view, due[view])
        return {view: {p.partition: p.start_offset for p in starts} for view, starts in due.items() if starts}


def partition(number: int, monitor: int, validator: int) -> PartitionState:
    found = PartitionState(PartitionRef("orders", number), validator)
    found.monitor_offset = monitor
    found.validator_offset = validator
    return found


def test_a_position_is_committed_when_it_has_moved() -> None:
    committing = Committing()
    assert committing.commit(*View) == {View.MONITOR: {0: 20, 1: 7}, View.VALIDATOR: {0: 10, 1: 7}}
    assert committing.commit(*View) == {}
    committing.partitions[0].validator_offset = 20
    assert committing.commit(*View) == {View.VALIDATOR: {0: 20}}


def test_what_no_reader_was_told_is_still_due() -> None:
    committing = Committing()
    committing.commit(View.MONITOR)
    assert committing.commit(*View) == {View.VALIDATOR: {0: 10, 1: 7}}


def test_a_recreated_topic_is_another_one() -> None:
    committing = Committing()
    committing.commit(*View)
    again = PartitionState(PartitionRef("orders", 1, 1), 7)
    again.monitor_offset = again.validator_offset = 7
    committing.partitions[1] = again
    assert committing.commit(*View) == {View.MONITOR: {1: 7}, View.VALIDATOR: {1: 7}}


@pytest.mark.parametrize("passed_s", [ALL_EVERY_S, -1.0], ids=["some minutes later", "the clock was set back"])
def test_now_and_then_all_are_committed_again(passed_s: float) -> None:
    committing = Committing()
    committing.commit(*View)
    committing.time += passed_s
    assert committing.commit(*View) == {View.MONITOR: {0: 20, 1: 7}, View.VALIDATOR: {0: 10, 1: 7}}
    assert committing.commit(*View) == {}
