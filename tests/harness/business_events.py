"""What is written while the alerts are tried: ordinary business that never stops, and single events made to order."""

import itertools
import json
import threading
import time
from typing import Any

from tests.harness.background import Background
from tests.harness.kafka import Writer
from txninsightd.tools.stack.broker import Broker

PULSE_EVERY_S = 1.0
PULSE = "pulse"


def event(kind: str, txn_id: str, txn_type: str, age_s: float = 0.0, **more: Any) -> str:
    """The value of a record; `age_s` is how long ago its own timestamp lies."""
    return json.dumps({"event": kind, "txn_id": txn_id, "txn_type": txn_type, "ts": time.time() - age_s, **more})


def opens(txn_ids: list[str], txn_type: str, age_s: float = 0.0) -> list[str]:
    """One transaction_open each."""
    return [event("transaction_open", txn_id, txn_type, age_s) for txn_id in txn_ids]


def closes(txn_ids: list[str], txn_type: str) -> list[str]:
    """One transaction_close each."""
    return [event("transaction_close", txn_id, txn_type) for txn_id in txn_ids]


def wholes(txn_ids: list[str], txn_type: str, took_s: float = 0.0) -> list[str]:
    """Each transaction opened `took_s` ago, and closed now."""
    return opens(txn_ids, txn_type, took_s) + closes(txn_ids, txn_type)


class Pulse(Background):
    """Ordinary business: a transaction of type `pulse` in each topic, again and again, until the topic is silenced."""

    def __init__(self, broker: Broker, topics: list[str]) -> None:
        super().__init__()
        self._topics = set(topics)
        self._changing = threading.Lock()
        self._writer = Writer(broker)

    def silence(self, topic: str) -> None:
        """Write nothing more to this topic."""
        with self._changing:
            self._topics.discard(topic)

    def resume(self, topic: str) -> None:
        """Write to this topic again."""
        with self._changing:
            self._topics.add(topic)

    def run(self) -> None:
        for i in itertools.count():
            if self.stopping.wait(PULSE_EVERY_S):
                return
            with self._changing:
                for topic in self._topics:
                    self._writer.write(topic, *wholes([f"{PULSE}-{i}"], PULSE, took_s=0.1))
