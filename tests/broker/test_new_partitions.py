"""New topics and partitions appear while the daemon watches: it stays ready, and its views stay fresh."""

import threading
import time
from typing import NamedTuple

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, Start, fresh_name
from tests.harness.kafka import add_partitions, publish
from txninsightd.tools.stack.broker import Broker, create_topics

LOOK_EVERY_S = 0.05
SECTIONS = {"state": {"retry_grace_s": 0.5}}


class Sample(NamedTuple):
    """`seen`: up to which moment the view that is behind has read everything, as /metrics has it."""

    ready: int
    missing: list[str]
    seen: float


class Sampler:
    """Looks at /readyz and /metrics every 50 ms while the `with` lasts."""

    def __init__(self, daemon: Daemon) -> None:
        self.samples: list[Sample] = []
        self._daemon = daemon
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            ready, now = self._daemon.status("/readyz"), time.time()
            missing = self._daemon.missing() if ready != 200 else []
            metrics = self._daemon.metrics()
            ages_s = [metrics["txninsight_view_age_seconds", (("view", view),)] for view in ("monitor", "validator")]
            self.samples.append(Sample(ready, missing, now - max(ages_s)))


def await_partitions(daemon: Daemon, topic: str, count: int) -> None:
    """Wait until both views have read so many partitions of a topic up to this moment."""
    moment = time.time()

    def read() -> bool:
        own = [p for p in daemon.get("/api/v1/partitions") if p["topic"] == topic]
        return len(own) == count and all(
            p[f"{view}_as_of"] and p[f"{view}_as_of"] > moment for p in own for view in ("monitor", "validator")
        )

    daemon.await_that(read, f"{count} partitions of {topic} are read")


def test_new_topics_and_partitions_do_not_blind_it(broker: Broker, topic: MakeTopic, start: Start) -> None:
    family = fresh_name("family")
    first = topic(1, name=family)
    daemon = start(first, topics=[{"pattern": f"{family}.*"}]).await_ready()
    known_at = time.time()
    # Once this one is read, the scout has looked since then.
    second = topic(1, name=family)
    await_partitions(daemon, second, 1)
    with Sampler(daemon) as sampler:
        third = f"{family}-third"
        create_topics(broker.bootstrap, {third: 2})
        publish(broker.bootstrap, third, [("a", '{"event": "transaction_open", "txn_id": "a"}')])
        await_partitions(daemon, third, 2)
        add_partitions(broker, second, 3)
        await_partitions(daemon, second, 3)
    assert [sample for sample in sampler.samples if sample.ready != 200] == []
    assert min(sample.seen for sample in sampler.samples) > known_at
    assert daemon.transactions().keys() == {"a"}
    assert daemon.stop() == 0
