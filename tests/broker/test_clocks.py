"""The wall clock of the daemon's host is stepped by an hour and back, under load: nothing is called stuck by that.

Broker and producers have the true time; the daemon's processes have a clock of their own (harness/clock_shim.py). Each
case steps it another way, with and without an end of the daemon in between. Transactions are opened and closed all the
while, 40 fresh ones are open at the first step, and one really is stuck from before: it is the only one that may ever
be shown so, and it counts once.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.harness.background import Background, repeated
from tests.harness.business_events import closes, event, opens, wholes
from tests.harness.clock_shim import HOUR_S, WallClock, wall_clock
from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic
from tests.harness.kafka import Writer
from txninsightd.tools.stack.broker import Broker

LOOK_EVERY_S = 0.05
WRITE_EVERY_S = 0.1
SOON_S = 50.0
"""A guard against hanging: ten times what a step may take to be noticed and got over."""

ROUGHLY_S = 1.0
FRESH = 40
TYPE = "clocked"
STUCK, STUCK_FOR_S = "stuck-before", 600.0
SECTIONS: dict[str, Any] = {
    "stuck": {"idle_after_s": 300},
    "state": {"checkpoint_every_s": 1, "settle_lateness_s": 1, "retry_grace_s": 1, "linger_s": 3600},
    "supervise": {"backoff_initial_s": 0.1, "backoff_max_s": 0.2},
}


class Business(Background):
    """A producer with the true time, which opens transactions all the while and closes every other one."""

    def __init__(self, broker: Broker, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._writer = Writer(broker)

    def run(self) -> None:
        for i in itertools.count():
            if self.stopping.wait(WRITE_EVERY_S):
                return
            self._writer.write(self._topic, *opens([f"open-{i}"], TYPE), partition=i % 2)
            self._writer.write(self._topic, *wholes([f"whole-{i}"], TYPE), partition=i % 2)


class Clocked:
    """A daemon under a clock that is stepped, and all that it was ever seen to call stuck."""

    def __init__(self, daemon: Daemon, clock: WallClock, broker: Broker, topic: str) -> None:
        self.daemon = daemon
        self._clock = clock
        self.seen_stuck: set[tuple[str, str]] = set()
        self.most: dict[str, float] = {"txninsight_stuck_transactions": 0, "txninsight_stuck_total": 0}
        self._writer = Writer(broker)
        self._topic = topic
        self._serial = itertools.count()

    def begin(self) -> None:
        """The one that is really stuck, and fresh ones."""
        old = event("transaction_open", STUCK, TYPE, STUCK_FOR_S)
        self._writer.write(self._topic, old, timestamp=int((time.time() - STUCK_FOR_S) * 1000))
        self._await(lambda: self.daemon.total("txninsight_stuck_total") == 1, "the old one is stuck")
        self.look()
        self._writer.write(self._topic, *opens([f"fresh-{i}" for i in range(FRESH)], TYPE))
        self.await_news()

    def look(self) -> None:
        """Note what is called stuck just now, if the daemon answers."""
        with suppress(OSError, HTTPException):
            samples = self.daemon.metrics()
            for name in self.most:
                values = (value for (found, _), value in samples.items() if found == name)
                self.most[name] = max(self.most[name], sum(values))
            # Not `|=`: two threads look.
            self.seen_stuck.update((t["txn_id"], t["cause"]) for t in self.daemon.transactions(state="stuck").values())

    # --- What is done -------------------------------------------------------------------------------------------------

    def step(self, ahead_s: float) -> None:
        """Step the clock while it runs: that is counted, and it is soon as able as before."""
        steps = self._steps()
        self._clock.set_ahead(ahead_s)
        self._await(lambda: self._steps() > steps, "the step is counted")
        self._await_able()

    def end(self) -> None:
        """kill -9 of everything, after a checkpoint that was begun under the present clock."""
        written = len(self.daemon.log(event="checkpoint_written"))
        # The first one may have been under way before.
        self._await(lambda: len(self.daemon.log(event="checkpoint_written")) >= written + 2, "a checkpoint")
        self.daemon.kill()

    def start(self, ahead_s: float) -> None:
        """Start it again, with a clock that stepped while it was down."""
        self._clock.set_ahead(ahead_s)
        self.daemon.start()
        self._await_able()

    def await_news(self) -> None:
        """Write a transaction, and wait until it was opened in one view, closed in both, settled and counted."""
        txn_id = f"probe-{next(self._serial)}"
        probe_type = f"{TYPE}-{txn_id}"
        self._writer.write(self._topic, *opens([txn_id], probe_type))
        self._await_total("txninsight_transactions_opened_total", txn_type=probe_type)
        self._writer.write(self._topic, *closes([txn_id], probe_type))
        self._await(lambda: self.daemon.transaction(txn_id)["state"] == "closed", f"{txn_id} is closed")
        self._await_total("txninsight_transactions_finished_total", txn_type=probe_type, outcome="closed")

    def await_stuck(self) -> None:
        """What is stuck is shown so again: soon, not only once it has waited for as long a second time."""
        self._await(lambda: list(self.daemon.transactions(state="stuck")) == [STUCK], "it is shown stuck")

    # --- How it is told -----------------------------------------------------------------------------------------------

    def _await_able(self) -> None:
        stepped_at = time.time()
        self._await(lambda: self.daemon.status("/readyz") == 200, "it is ready again")
        self.await_news()
        if not self._clock.ahead_s:
            self._await(lambda: self._as_of_lies_within(stepped_at), "both views have seen what was written since")

    def _as_of_lies_within(self, began: float) -> bool:
        """Whether each view has seen all up to a moment between `began` and now, by the true clock."""
        seen = [p[f"{view}_as_of"] for p in self.daemon.get("/api/v1/partitions") for view in ("monitor", "validator")]
        return all(began < as_of <= time.time() + ROUGHLY_S for as_of in seen)

    def _await_total(self, name: str, **labels: str) -> None:
        self._await(lambda: self.daemon.total(name, **labels) == 1, f"{name} {labels}")

    def _await(self, condition: Callable[[], object], what: str) -> None:
        self.daemon.await_that(condition, what, SOON_S)

    def _steps(self) -> float:
        return self.daemon.total("txninsight_clock_steps_total")


@pytest.fixture
def clocked(broker: Broker, topic: MakeTopic, tmp_path: Path) -> Iterator[Clocked]:
    """A daemon with the right time, one transaction stuck, business all the while; looked at until the test's end."""
    with ExitStack() as ends:
        clock, name = ends.enter_context(wall_clock(tmp_path)), topic(2)
        daemon = Daemon(tmp_path, broker.bootstrap, {"topics": [name], **SECTIONS})
        daemon.environment |= clock.environment
        ends.callback(daemon.end)
        daemon.start().await_ready()
        found = Clocked(daemon, clock, broker, name)
        found.begin()
        ends.enter_context(Business(broker, name))
        ends.enter_context(repeated(found.look, LOOK_EVERY_S))
        yield found


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_the_clock_is_stepped_by_an_hour_and_back(clocked: Clocked, ahead_s: float) -> None:
    """While it runs; with a checkpoint under the wrong clock and a start under the right one; the other way round."""
    clocked.step(ahead_s)
    clocked.step(0)
    clocked.await_stuck()
    assert_only_one_was_stuck(clocked)
    clocked.step(ahead_s)
    clocked.end()
    clocked.start(0)
    clocked.await_stuck()
    assert_only_one_was_stuck(clocked)
    clocked.end()
    clocked.start(ahead_s)
    clocked.step(0)
    clocked.await_stuck()
    assert_only_one_was_stuck(clocked)
    assert clocked.daemon.stop() == 0
    replaced = {line["process"] for line in clocked.daemon.log(event="kafka_client_lost")}
    assert replaced == {"monitor-0", "validator-0"}, "set back, Kafka clients may hang"


def assert_only_one_was_stuck(clocked: Clocked) -> None:
    clocked.look()
    assert clocked.seen_stuck == {(STUCK, "idle")}
    assert clocked.most == {"txninsight_stuck_transactions": 1, "txninsight_stuck_total": 1}
