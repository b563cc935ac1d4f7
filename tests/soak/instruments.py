"""What the daemon's users would notice: how long it is until they see something, and whether it answers meanwhile.

`Pulse` asks /healthz every 50 ms (or as told), which tells how long the aggregator's event loop stands still. How long
the aggregator waited for a CPU meanwhile, and how late `Pulse` wakes up itself, tell how much of it is the machine's.
`Probes` runs one business transaction after the other, of a type of its own, and notes by its own clock when the API
shows each of its states; what the API shows, the gauges and counters of the very next scrape must show too, since both
are read from the same state.
"""

import http.client
import json
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import Producer

from tests.harness.daemon import Daemon
from tests.harness.kafka import new_transactional_producer, retried
from tests.harness.metrics import total
from tests.harness.processes import waited_for_cpu_s
from tests.harness.waiting import HANG_GUARD_S
from tests.soak.load import value

PULSE_EVERY_S = 0.05
LIVE_EVERY_S = 0.005
SETTLED_EVERY_S = 0.02
MOST_PAUSE_S = 2.0
PROBE_TYPE = "probe"
EVENTS_A_PROBE = 4


class Instrument(threading.Thread):
    """A thread with a connection of its own, until it is told to stop; `failure` is what ended it before."""

    patience_s = HANG_GUARD_S
    """How long it waits for an answer."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.requests = 0
        self.daemon_asked = daemon
        self._connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=self.patience_s)

    def run(self) -> None:
        """The thread's work."""
        try:
            while not self.stopping.is_set():
                self.step()
        except BaseException as failure:
            self.failure = failure
        finally:
            self._connection.close()

    def step(self) -> None:
        """One measurement, and the wait for the next one."""
        raise NotImplementedError

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        self.requests += 1
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def end(self) -> None:
        """Stop, and wait for it. Raises what ended it before."""
        self.stopping.set()
        self.join(HANG_GUARD_S)
        if self.failure is not None:
            raise self.failure


class Pulse(Instrument):
    """Round trips of /healthz: when each began (monotonic), how long it took, and how late this thread woke up.

    `own_s`: how long it took, less what the main thread of `aggregator` (a process id) waited for a CPU meanwhile.
    `reconnects`: with a new connection for each, which belongs to the round trip.
    """

    def __init__(
        self, daemon: Daemon, aggregator: int, every_s: float = PULSE_EVERY_S, reconnects: bool = False
    ) -> None:
        super().__init__(daemon)
        self._aggregator = aggregator
        self._every_s = every_s
        self._reconnects = reconnects
        self.own_s = array("d")
        self.began_at = array("d")
        self.took_s = array("d")
        self.late_s = array("d")

    def step(self) -> None:
        """One request, a beat after the one before began (or at once, if that took longer)."""
        due_at = max(time.monotonic(), self.began_at[-1] + self._every_s if self.began_at else 0.0)
        self.stopping.wait(due_at - time.monotonic())
        waited_s = waited_for_cpu_s(self._aggregator)
        began_at = time.monotonic()
        if self._reconnects:
            self._connection.close()
        status, _ = self.get("/healthz")
        ended_at = time.monotonic()
        waited_s = waited_for_cpu_s(self._aggregator) - waited_s
        if status != 200:
            raise AssertionError(f"/healthz answered {status}")
        self.began_at.append(began_at)
        self.took_s.append(ended_at - began_at)
        self.own_s.append(max(0.0, ended_at - began_at - waited_s))
        self.late_s.append(began_at - due_at)


class Probe(NamedTuple):
    """One probe's latencies in seconds. `closed_s` and `settled_s` count from the return of the commit.

    `commit_s` is how long the commit's call took; `live_s` counts from the moment before its open was produced.
    """

    live_s: float
    commit_s: float
    closed_s: float
    settled_s: float


class Probes(Instrument):
    """Probes one after the other, each with an open, a step and a close in one Kafka transaction over the topics.

    `contradictions`: what a scrape did not show though the API had shown it. `resolution_s`: of each wait for a state,
    the time between the last answers without and with it, by which a latency may be too long.
    """

    def __init__(self, daemon: Daemon, bootstrap: str, name: str, topics: list[str]) -> None:
        super().__init__(daemon)
        self.done: list[Probe] = []
        self.began = 0
        self.contradictions: list[str] = []
        self.resolution_s: dict[str, list[float]] = {"live": [], "settled": []}
        self._name = name
        self._topics = topics
        self._producer: Producer = new_transactional_producer(bootstrap, name)
        self._draw = Random(name)

    def step(self) -> None:
        """One probe, to its settlement, and a pause."""
        txn_id = f"{self._name}-{self.began}"
        self.began += 1
        self.done.append(self._probe(txn_id))
        self.stopping.wait(self._draw.uniform(0, MOST_PAUSE_S))

    def _probe(self, txn_id: str) -> Probe:
        self._producer.begin_transaction()
        opened_at = self._write(txn_id, "transaction_open")
        live_at = self._await(txn_id, "live", LIVE_EVERY_S, lambda seen: True)["live"]
        self._expect("txninsight_transactions", 1, state="open")
        self._write(txn_id, "step_open")
        self._write(txn_id, "step_done")
        self._write(txn_id, "transaction_close")
        closing_at = time.monotonic()
        retried(self._producer.commit_transaction)
        committed_at = time.monotonic()
        seen_at = self._await(txn_id, "settled", SETTLED_EVERY_S, lambda seen: bool(seen["settled"]))
        self._expect("txninsight_transactions_finished_total", self.began, outcome="closed")
        self._expect("txninsight_transaction_duration_seconds_count", self.began)
        return Probe(
            live_at - opened_at,
            committed_at - closing_at,
            seen_at["closed"] - committed_at,
            seen_at["settled"] - committed_at,
        )

    def _write(self, txn_id: str, kind: str) -> float:
        """Produce one event; gives the moment before."""
        step = "probing" if kind.startswith("step") else None
        text, topic = value(kind, txn_id, PROBE_TYPE, step), self._topics[0 if step is None else 1]
        began_at = time.monotonic()
        self._producer.produce(topic, text, txn_id)
        self._producer.poll(0)
        return began_at

    def _await(self, txn_id: str, what: str, every_s: float, arrived: Callable[[dict[str, Any]], bool]) -> Any:
        """When (monotonic) the API first showed it at all, closed, and settled, up to `arrived`."""
        deadline = time.monotonic() + HANG_GUARD_S
        seen_at: dict[str, float] = {}
        before = None
        for answered_at, seen in self._polled(txn_id, every_s):
            if seen is not None:
                seen_at.setdefault("live", answered_at)
                if seen["state"] == "closed":
                    seen_at.setdefault("closed", answered_at)
                if seen["settled"]:
                    seen_at.setdefault("settled", answered_at)
                if arrived(seen):
                    self.resolution_s[what].append(answered_at - (before or answered_at))
                    return seen_at
            if answered_at > deadline:
                raise AssertionError(f"{txn_id} is not {what} after {HANG_GUARD_S:.0f} s: {seen}")
            before = answered_at
        return seen_at

    def _polled(self, txn_id: str, every_s: float) -> Iterator[tuple[float, dict[str, Any] | None]]:
        """When the API answered, and what it knew of the transaction."""
        while True:
            asked_at = time.monotonic()
            status, body = self.get(f"/api/v1/transactions/{txn_id}")
            answered_at = time.monotonic()
            yield answered_at, json.loads(body) if status == 200 else None
            time.sleep(max(0.0, asked_at + every_s - time.monotonic()))

    def _expect(self, metric: str, value: float, **labels: str) -> None:
        said = total(self.daemon_asked.metrics(), metric, txn_type=PROBE_TYPE, **labels)
        if said != value:
            self.contradictions.append(f"{metric} of probes {labels} is {said:.0f} where the API tells of {value:.0f}")


@contextmanager
def running(*instruments: Instrument) -> Iterator[None]:
    """They run for so long."""
    for instrument in instruments:
        instrument.start()
    try:
        yield
    finally:
        for instrument in instruments:
            instrument.end()
