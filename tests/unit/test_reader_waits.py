"""How long a turn of a reader's loop waits for a record, and what ends its loop."""

import fcntl
import os
import resource
from typing import Any

import pytest

from tests.harness.reader_parts import Consumer, NoEndOffsets, NotedHealth, OpenGate, ReaderLine, reader_of
from txninsightd.cluster.client_watchdog import REMEMBERED_CHECKS, SET_BACK_S, ClientWatchdog
from txninsightd.ingest.reader import POLL_S, POLL_S_WHILE_ASKING, POLL_S_WHILE_BUFFERING, ClientLost
from txninsightd.ingest.views import ValidatorBuilder
from txninsightd.vocabulary import Assign, PartitionStart

ASSIGNED = Assign([PartitionStart("orders", 0, 10)])


class Asking(NoEndOffsets):
    """The broker was asked where the logs end."""

    is_asking = True


class NoScout:
    """Finds nothing."""

    def next_discovery(self) -> None:
        return None


class AskingGate(OpenGate):
    """The broker was asked for the ids of topics; `depth`: so many messages wait for the answer."""

    is_asking = True

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._depth = depth

    @property
    def depth(self) -> int:
        return self._depth


@pytest.mark.parametrize(
    ("parts", "waits_s"),
    [
        ({}, POLL_S),
        ({"end_offsets": Asking()}, POLL_S_WHILE_ASKING),
        ({"topic_id_gate": AskingGate(0)}, POLL_S_WHILE_ASKING),
        ({"topic_id_gate": AskingGate(1)}, POLL_S_WHILE_BUFFERING),
    ],
    ids=["idle", "asks where the logs end", "asks for ids", "messages wait for an id"],
)
def test_what_is_awaited_shortens_a_turn(parts: dict[str, Any], waits_s: float) -> None:
    consumer = Consumer()
    reader_of(consumer, ValidatorBuilder(), ReaderLine(ASSIGNED), NotedHealth(), **parts).step()
    assert consumer.waited_s == [waits_s]


def test_a_reader_that_has_nothing_to_read_waits_for_a_command_and_for_no_record() -> None:
    consumer = Consumer()
    reader_of(consumer, ValidatorBuilder(), ReaderLine(), NotedHealth()).step()
    assert consumer.waited_s == [0.0]


def test_a_line_may_have_any_descriptor() -> None:
    line = ReaderLine()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    beyond = fcntl.fcntl(line.fileno(), fcntl.F_DUPFD_CLOEXEC, 1024)
    try:
        line.fileno = lambda: beyond  # type: ignore[method-assign]
        reader_of(Consumer(), ValidatorBuilder(), line, NotedHealth()).step()
    finally:
        os.close(beyond)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_the_scout_finds_at_first_is_sent_soon() -> None:
    consumer = Consumer()
    reader_of(consumer, ValidatorBuilder(), ReaderLine(), NotedHealth(), scout=NoScout()).step()
    assert consumer.waited_s == [POLL_S_WHILE_ASKING]


@pytest.mark.parametrize("before_s", [0.0, 3600.0, -3600.0], ids=["right before", "ahead before", "behind before"])
def test_a_reader_ends_after_the_wall_clock_was_set_back(before_s: float) -> None:
    """librdkafka waits by it: waits that ran then last longer by as much."""
    ahead_s = [0.0, before_s, before_s - SET_BACK_S, before_s - SET_BACK_S - 1]
    to_look = ahead_s if before_s >= 0 else ahead_s[:2]  # by the constructor first, then in each turn
    watchdog = ClientWatchdog(
        new_client=lambda: False, clock_ahead_s=lambda: to_look.pop(0) if len(to_look) > 1 else to_look[0]
    )
    watchdog.watch("admin", lambda: True)
    reader = reader_of(Consumer(), ValidatorBuilder(), ReaderLine(ASSIGNED), NotedHealth(), client_watchdog=watchdog)
    with pytest.raises(ClientLost) as lost:
        reader.run(lambda: False)
    assert lost.value.clients == ["admin", "consumer"]
    assert len(to_look) == 1, "not before it was set back by more than what is put up with"


def test_many_small_steps_back_end_no_reader() -> None:
    """Each prolongs the waits that run by so little that it is put up with."""
    ahead_s = 0.0
    watchdog = ClientWatchdog(new_client=lambda: True, clock_ahead_s=lambda: ahead_s)
    watchdog.watch("admin", lambda: True)
    for _ in range(10 * REMEMBERED_CHECKS):
        watchdog.check()
        watchdog.look_at_clock()
        ahead_s -= SET_BACK_S / (2 * REMEMBERED_CHECKS)
    assert watchdog.lost == []
