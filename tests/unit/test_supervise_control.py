"""The line between parent and aggregator: whole messages, with the descriptors that belong to them."""

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from txninsightd.supervise.control import control_pair, hear, tell
from txninsightd.vocabulary import Attach, ChildStatus, Family, FromParent, Stop, View

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    parent, aggregator = control_pair()
    yield parent, aggregator
    parent.close()
    aggregator.close()


def test_messages_arrive_one_by_one_in_order(pair: Pair) -> None:
    parent, aggregator = pair
    sent: list[FromParent] = [Family([ChildStatus("monitor-0", True, 3)]), Stop()]
    for message in sent:
        assert tell(parent, message)
    heard = [msgspec.msgpack.decode(hear(aggregator)[0], type=FromParent) for _ in sent]
    assert heard == sent


def test_a_descriptor_arrives_with_its_message(pair: Pair) -> None:
    parent, aggregator = pair
    readable, writable = os.pipe()
    tell(parent, Stop())
    tell(parent, Attach(View.MONITOR, 1), readable)
    os.close(readable)
    assert hear(aggregator)[1] is None
    body, received = hear(aggregator)
    assert msgspec.msgpack.decode(body, type=FromParent) == Attach(View.MONITOR, 1)
    assert received is not None
    os.write(writable, b"through")
    assert os.read(received, 100) == b"through"
    assert not os.get_inheritable(received)
    os.close(received)
    os.close(writable)


def test_nothing_there_is_not_the_end(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        hear(pair[1])


def test_what_was_said_before_the_end_is_still_heard(pair: Pair) -> None:
    parent, aggregator = pair
    tell(parent, Stop())
    parent.close()
    assert hear(aggregator)[0] != b""
    assert hear(aggregator) == (b"", None)
    assert hear(aggregator) == (b"", None)


def test_telling_the_dead_says_so(pair: Pair) -> None:
    parent, aggregator = pair
    aggregator.close()
    assert not tell(parent, Stop())


def test_the_largest_message_that_is_ever_sent_passes(pair: Pair) -> None:
    parent, aggregator = pair
    family = Family([ChildStatus(f"{view}-{i}", True, 10**9) for view in View for i in range(64)])
    assert tell(parent, family)
    assert msgspec.msgpack.decode(hear(aggregator)[0], type=FromParent) == family
