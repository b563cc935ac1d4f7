"""How a slice of the aggregator's work is shared between what comes in and what settles."""

from collections.abc import Iterator

import pytest

from tests.harness.core.by_hand import A, cover
from tests.harness.manual_loop import ManualLoop
from txninsightd.aggregate import lines
from txninsightd.aggregate.lines import Lines
from txninsightd.supervise.channel import Channel, descriptor_pair

MESSAGES = 40


class Work:
    """What each message costs, and what it makes ripe, on a clock of its own."""

    def __init__(self, message_s: float, settling_s: float, ripe: int) -> None:
        self.time = 0.0
        self.applied = 0
        self.waiting = 0
        self.most_waiting = 0
        self._message_s = message_s
        self._settling_s = settling_s
        self._ripe = ripe

    def apply(self, _: bytes) -> Iterator[None]:
        self.time += self._message_s
        self.applied += 1
        self.waiting += self._ripe
        self.most_waiting = max(self.most_waiting, self.waiting)
        yield

    def settle(self) -> Iterator[None]:
        while self.waiting:
            self.time += self._settling_s
            self.waiting -= 1
            yield


@pytest.mark.parametrize("message_s", [0.0001, 0.001, 0.01, 0.1], ids="each message takes {} s".format)
def test_what_settles_does_not_pile_up_however_long_messages_take(
    monkeypatch: pytest.MonkeyPatch, message_s: float
) -> None:
    """Settling takes as long as taking in: more than it does."""
    ripe = 10
    work = Work(message_s, message_s / ripe, ripe)
    monkeypatch.setattr(lines, "perf_counter", lambda: work.time)
    loop = ManualLoop()
    of_aggregator = Lines(loop, work.apply, work.settle, lambda child, line: None, lambda: None)
    ours, theirs = descriptor_pair()
    of_aggregator.attach("monitor-0", Channel(ours))
    child = Channel(theirs)
    for i in range(MESSAGES):
        child.send(cover(A, i, i + 1, [i], 1.0))
    loop.run_once()
    assert work.applied == MESSAGES
    assert not work.waiting
    a_slice = lines.LINES_S + message_s
    assert work.most_waiting <= ripe * (2 + a_slice / message_s)
