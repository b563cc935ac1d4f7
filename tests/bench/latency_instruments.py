"""Markers and scrapes: when was a record written, and which scrape was the first that counted it?

A marker is a transaction of a type of its own. Markers are written to one partition, so they are counted in the order
of their writing: a scrape that shows n of them shows the first n.
"""

import itertools
import re
import time
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import Producer

from tests.harness.background import Background
from tests.harness.business_events import wholes
from tests.harness.daemon import Daemon
from tests.harness.kafka import QUIET
from tests.soak.instruments import Instrument

MARKER = "marker"
OPENED = "txninsight_transactions_opened_total"
MARKER_EVERY_S = 0.1


class Look(NamedTuple):
    """A scrape: when it was answered (monotonic), and how many markers it counted."""

    at: float
    markers: int


class Scrapes(Instrument):
    """Asks /metrics every `every_s` seconds. `took_s`: of each request; `looks`: what it saw."""

    patience_s = 600.0

    def __init__(self, daemon: Daemon, every_s: float) -> None:
        super().__init__(daemon)
        self.every_s = every_s
        self.took_s = array("d")
        self.looks: list[Look] = []
        self._page = b""

    def step(self) -> None:
        """One request, and the wait for the next one."""
        began_at = time.monotonic()
        status, self._page = self.get("/metrics")
        if status != 200:
            raise AssertionError(f"/metrics answered {status}")
        now = time.monotonic()
        self.took_s.append(now - began_at)
        self.looks.append(Look(now, int(_sum(self._page, OPENED, MARKER))))
        self.stopping.wait(began_at + self.every_s - now)

    def sum(self, series: str) -> float:
        """The sum over a metric, markers aside, in the latest answer. `series`: its name, or a pattern from finished().

        Raises what ended the thread.
        """
        if self.failure is not None:
            raise self.failure
        page = self._page
        return _sum(page, series) - _sum(page, series, MARKER)


class Markers(Background):
    """Writes a marker every 100 ms. `written_at`: when each was handed to the producer (monotonic)."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        super().__init__()
        self.written_at: list[float] = []
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0}, logger=QUIET)
        self._topic = topic

    def run(self) -> None:
        due = time.monotonic()
        for number in itertools.count():
            due += MARKER_EVERY_S
            if self.stopping.wait(max(0.0, due - time.monotonic())):
                break
            self.written_at.append(time.monotonic())
            for event in wholes([f"{MARKER}-{number}"], MARKER):
                self._producer.produce(self._topic, event, partition=0)
            self._producer.poll(0)
        self._producer.flush()

    def latencies(self, looks: Sequence[Look]) -> list[float]:
        """Of each marker that was counted, in seconds; those that were not, until the last look."""
        found, number = [], 0
        for look in looks:
            seen, number = self.written_at[number : look.markers], max(number, look.markers)
            found += [look.at - at for at in seen]
        return found + [max(0.0, looks[-1].at - at) for at in self.written_at[number:]]


def finished(**labels: str) -> str:
    """A pattern for the settled transactions with these labels (in the order of the catalogue)."""
    wanted = "".join(f'[^}}]*{name}="{value}"' for name, value in labels.items())
    return rf"txninsight_transactions_finished_total(?=\{{{wanted})"


def _sum(page: bytes, series: str, txn_type: str | None = None) -> float:
    """The sum over the samples whose name (and what follows) matches the pattern, and of a type if one is given."""
    wanted = rf'(?=[^}}]*txn_type="{txn_type}")' if txn_type is not None else ""
    pattern = rf"^{series}\{{{wanted}[^}}]*\}} (\S+)"
    return sum(float(value) for value in re.findall(pattern.encode(), page, re.MULTILINE))
