"""The line between parent and aggregator: whole messages, with the descriptors that belong to them."""

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from txninsightd import daemon
from txninsightd.supervise.control import REPORT_EVERY_S, Reporter, control_pair, receive, send
from txninsightd.vocabulary import (
    Attach,
    ChildrenStatus,
    ChildStatus,
    FromAggregator,
    FromParent,
    Reload,
    Report,
    Stop,
    View,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    parent, aggregator = control_pair()
    yield parent, aggregator
    parent.close()
    aggregator.close()


def test_messages_arrive_one_by_one_in_order(pair: Pair) -> None:
    parent, aggregator = pair
    sent: list[FromParent] = [ChildrenStatus([ChildStatus("monitor-0", True, 3)]), Stop()]
    for message in sent:
        assert send(parent, message)
    heard = [msgspec.msgpack.decode(receive(aggregator)[0], type=FromParent) for _ in sent]
    assert heard == sent


def test_a_descriptor_arrives_with_its_message(pair: Pair) -> None:
    parent, aggregator = pair
    readable, writable = os.pipe()
    send(parent, Stop())
    send(parent, Attach("monitor-1"), readable)
    os.close(readable)
    assert receive(aggregator)[1] is None
    body, received = receive(aggregator)
    assert msgspec.msgpack.decode(body, type=FromParent) == Attach("monitor-1")
    assert received is not None
    os.write(writable, b"through")
    assert os.read(received, 100) == b"through"
    assert not os.get_inheritable(received)
    os.close(received)
    os.close(writable)


def test_a_line_that_came_without_its_descriptor_is_not_the_order_to_stop(pair: Pair) -> None:
    parent, aggregator = pair
    stopping = asyncio.Event()
    unused: Any = None
    for message, stops in ((Attach("monitor-1"), False), (Reload(), False), (Stop(), True)):
        send(parent, message)
        daemon.take_control_message(aggregator, unused, stopping)
        assert stopping.is_set() == stops


def test_nothing_there_is_not_the_end(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        receive(pair[1])


def test_what_was_said_before_the_end_is_still_heard(pair: Pair) -> None:
    parent, aggregator = pair
    send(parent, Stop())
    parent.close()
    assert receive(aggregator)[0] != b""
    assert receive(aggregator) == (b"", None)
    assert receive(aggregator) == (b"", None)


def test_sending_to_a_dead_aggregator_says_so(pair: Pair) -> None:
    parent, aggregator = pair
    aggregator.close()
    assert not send(parent, Stop())


def test_the_largest_message_that_is_ever_sent_passes(pair: Pair) -> None:
    parent, aggregator = pair
    children_status = ChildrenStatus([ChildStatus(f"{view}-{i}", True, 10**9) for view in View for i in range(64)])
    assert send(parent, children_status)
    assert msgspec.msgpack.decode(receive(aggregator)[0], type=FromParent) == children_status


# --- Reports ----------------------------------------------------------------------------------------------------------


def reported(parent: socket.socket) -> list[FromAggregator]:
    """All that the aggregator has said."""
    heard = []
    while True:
        try:
            heard.append(msgspec.msgpack.decode(receive(parent)[0], type=FromAggregator))
        except BlockingIOError:
            return heard


def test_a_report_is_sent_when_it_is_new_and_not_too_often(pair: Pair) -> None:
    parent, aggregator = pair
    moment = 100.0
    reporter = Reporter(aggregator, lambda: moment)
    reporter.report("restoring", serving=False)
    reporter.report("1 open")  # serving is news that does not wait
    reporter.report("2 open")
    assert reported(parent) == [Report(False, "restoring"), Report(True, "1 open")]
    moment += REPORT_EVERY_S
    reporter.report("3 open")
    moment += REPORT_EVERY_S
    reporter.report("3 open")
    assert reported(parent) == [Report(True, "3 open")]


def test_a_parent_that_does_not_listen_costs_nothing_and_is_told_the_news_later(pair: Pair) -> None:
    parent, aggregator = pair
    moment = 100.0
    reporter = Reporter(aggregator, lambda: moment)
    aggregator.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for number in range(1000):
        moment += REPORT_EVERY_S
        reporter.report(f"{number} open")
    assert 0 < len(reported(parent)) < 1000
    moment += REPORT_EVERY_S
    reporter.report("999 open")
    assert reported(parent) == [Report(True, "999 open")]
