"""The queue between a reader and the aggregator: whole messages, no blocking, and nothing lost by a kill -9."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from tests.harness.paths import ROOT
from txninsightd.supervise.channel import Channel, descriptor_pair
from txninsightd.vocabulary import Assign, Coverage, FromChild, PartitionStart, Pause, ToReader

Pair = tuple[Channel, Channel]
HANG_GUARD_S = 60.0

WRITER = """
import os, sys
from txninsightd.supervise.channel import Channel
from txninsightd.vocabulary import Pause
line = Channel(int(sys.argv[1]))
sent = 0
while line.depth == 0:
    line.send(Pause("t", sent, True))
    sent += 1
line.send(Pause("never whole", 0, True))
print(sent, flush=True)
sys.stdin.read()
"""
"""Writes until the pipe is full, says how many messages that took (the last is perhaps not whole), and waits."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = (Channel(descriptor) for descriptor in descriptor_pair())
    yield one, other
    for end in (one, other):
        if not end.closed:
            end.close()


def coverage(offset: int, runs: int = 1) -> Coverage:
    return Coverage("t", 0, offset, offset + 1, 1.5, 1.0, list(range(2 * runs)), [], -1)


def receive_all(line: Channel) -> list[bytes]:
    """Everything until the other end is gone."""
    frames = []
    while not line.closed:
        assert select.select([line.fileno()], [], [], HANG_GUARD_S)[0], "the line hangs"
        frames += line.receive()
    return frames


def test_messages_go_both_ways_in_order(pair: Pair) -> None:
    reader, aggregator = pair
    for offset in range(3):
        reader.send(coverage(offset))
    aggregator.send(Assign([PartitionStart("t", 1, 7)]))
    aggregator.send(Pause("t", 1, True))
    up = msgspec.msgpack.Decoder(FromChild)
    down = msgspec.msgpack.Decoder(ToReader)
    assert [up.decode(frame) for frame in aggregator.receive()] == [coverage(offset) for offset in range(3)]
    assert [down.decode(frame) for frame in reader.receive()] == [
        Assign([PartitionStart("t", 1, 7)]),
        Pause("t", 1, True),
    ]


def test_nothing_there_is_not_the_end(pair: Pair) -> None:
    assert pair[0].receive() == []
    assert not pair[0].closed


def test_a_full_pipe_fills_the_outbox_and_never_blocks(pair: Pair) -> None:
    reader, aggregator = pair
    sent = 0
    while reader.depth < 5:
        reader.send(coverage(sent, runs=50_000))
        sent += 1
    depths, received = [], 0
    while reader.depth:
        received += len(aggregator.receive())
        reader.flush()
        depths.append(reader.depth)
    assert depths == sorted(depths, reverse=True)
    while received < sent:
        received += len(aggregator.receive())
    assert received == sent


def test_a_message_larger_than_the_pipe_arrives_whole(pair: Pair) -> None:
    reader, aggregator = pair
    large = coverage(0, runs=3_000_000)
    reader.send(large)
    reader.send(coverage(1))
    assert reader.depth == 2
    frames: list[bytes] = []
    while len(frames) < 2:
        frames += aggregator.receive()
        reader.flush()
    decoder = msgspec.msgpack.Decoder(Coverage)
    assert decoder.decode(frames[0]) == large
    assert decoder.decode(frames[1]) == coverage(1)


def test_what_was_written_before_the_end_still_arrives(pair: Pair) -> None:
    reader, aggregator = pair
    for offset in range(1000):
        reader.send(coverage(offset))
    reader.close()
    assert len(receive_all(aggregator)) == 1000
    assert aggregator.closed


def test_what_the_dead_had_written_still_arrives_after_something_was_sent_to_them(pair: Pair) -> None:
    reader, aggregator = pair
    sent = 0
    while reader.depth == 0:
        reader.send(coverage(sent, runs=50))
        sent += 1
    reader.close()
    aggregator.send(Pause("t", 0, True))
    assert (aggregator.depth, aggregator.closed) == (0, False)
    assert len(receive_all(aggregator)) >= sent - 1
    assert aggregator.closed


def test_what_is_sent_to_the_dead_does_not_pile_up(pair: Pair) -> None:
    reader, aggregator = pair
    aggregator.close()
    for _ in range(3):
        reader.send(coverage(0))
        assert reader.depth == 0
    assert reader.receive() == []
    assert reader.closed


def test_a_peer_that_died_with_unread_messages_is_the_end_too(pair: Pair) -> None:
    reader, aggregator = pair
    aggregator.send(Pause("t", 1, True))
    reader.send(coverage(0))
    aggregator.close()
    assert len(receive_all(reader)) == 1
    assert reader.closed


def test_a_writer_killed_with_a_full_pipe_leaves_whole_messages_and_a_clean_end() -> None:
    ours, theirs = descriptor_pair()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(theirs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(theirs,),
        cwd=ROOT,
    )
    os.close(theirs)
    assert writer.stdin is not None
    assert writer.stdout is not None
    sent = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    line = Channel(ours)
    frames = receive_all(line)
    line.close()
    writer.stdin.close()
    writer.stdout.close()
    decoder = msgspec.msgpack.Decoder(Pause)
    assert [decoder.decode(frame).partition for frame in frames] == list(range(len(frames)))
    assert sent - 1 <= len(frames) <= sent
