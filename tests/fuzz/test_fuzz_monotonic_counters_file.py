"""The file of exposed values: whatever stands in it, it is read, or ignored with a warning; it never stops a start.

Nor does it ever stop a scrape after that: what was read is shown beside all the metrics that there are.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import msgspec
import pytest
import structlog
from hypothesis import strategies as st
from prometheus_client.core import Metric, Sample
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from tests.harness.core.worlds import Chooser
from tests.harness.mutation import edited, mutated, some_edits
from tests.harness.properties import choosers, fuzz
from txninsightd.core.figures import Figures
from txninsightd.expose import monotonic_counters_file
from txninsightd.expose.catalogue import Definition, MetricType
from txninsightd.expose.monotonic_counters import COUNTED, MonotonicCounters, StateOrigin

WORDS = [
    monotonic_counters_file.MAGIC,
    b"\xc0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xcb\x7f\xf8" + bytes(6),
]


class Scraped(Collector):
    """All counters and histograms that there are, with a series each, as a scrape shows them."""

    def __init__(self, monotonic_counters: MonotonicCounters) -> None:
        self._monotonic_counters = monotonic_counters

    def collect(self) -> Iterator[Metric]:
        return self._monotonic_counters.without_resets(map(family, COUNTED.values()))


def family(definition: Definition) -> Metric:
    metric = definition.family()
    labels = dict.fromkeys(definition.labels, "order")
    if definition.type is MetricType.HISTOGRAM:
        metric.samples = [
            Sample(f"{definition.name}_bucket", {**labels, "le": "1.0"}, 1.0),
            Sample(f"{definition.name}_bucket", {**labels, "le": "+Inf"}, 2.0),
            Sample(f"{definition.name}_count", labels, 2.0),
            Sample(f"{definition.name}_sum", labels, 4.0),
        ]
    else:
        metric.samples = [Sample(definition.name, labels, 3.0)]
    return metric


def scrape(monotonic_counters: MonotonicCounters) -> bytes:
    registry = CollectorRegistry()
    registry.register(Scraped(monotonic_counters))
    return generate_latest(registry)


def numbers(text: bytes) -> dict[str, float]:
    """The samples of an exposition, by name and labels; it must be one that Prometheus can read."""
    families = list(text_string_to_metric_families(text.decode()))
    return {f"{s.name}{s.labels}": s.value for family in families for s in family.samples}


@cache
def sound() -> bytes:
    """A file that was written after a scrape."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "exposed"
        scrape(MonotonicCounters(path, "one", StateOrigin.EMPTY))
        return path.read_bytes()


def with_checksum(body: bytes) -> bytes:
    return monotonic_counters_file.MAGIC + crc32(body).to_bytes(monotonic_counters_file.CHECKSUM_BYTES, "big") + body


def starts_and_shows(content: bytes, began: StateOrigin, session: str) -> None:
    with TemporaryDirectory() as directory, structlog.testing.capture_logs():
        path = Path(directory) / "exposed"
        path.write_bytes(content)
        monotonic_counters = MonotonicCounters(path, session, began)
        monotonic_counters.restore_label_values(Figures((1.0,), most_label_values=10))
        shown = scrape(monotonic_counters)
        assert scrape(monotonic_counters) == shown
        later = numbers(scrape(MonotonicCounters(path, session, StateOrigin.CHECKPOINT)))
        assert all(later[name] >= value for name, value in numbers(shown).items())


begins = st.sampled_from(list(StateOrigin))
sessions = st.sampled_from(["one", "two"])


@fuzz(40, 2000, content=st.binary(max_size=100), began=begins, session=sessions)
def test_any_bytes(content: bytes, began: StateOrigin, session: str) -> None:
    starts_and_shows(content, began, session)
    starts_and_shows(with_checksum(content), began, session)


@fuzz(60, 5000, c=choosers(), began=begins, session=sessions, repaired=st.booleans())
def test_changed_bytes(c: Chooser, began: StateOrigin, session: str, repaired: bool) -> None:
    content = sound()
    if repaired:
        start = len(monotonic_counters_file.MAGIC) + monotonic_counters_file.CHECKSUM_BYTES
        content = with_checksum(mutated(c, content[start:], [content], WORDS))
    else:
        content = mutated(c, content, [content], WORDS)
    starts_and_shows(content, began, session)


@fuzz(120, 3000, c=choosers(), began=begins, session=sessions)
def test_changed_values(c: Chooser, began: StateOrigin, session: str) -> None:
    start = len(monotonic_counters_file.MAGIC) + monotonic_counters_file.CHECKSUM_BYTES
    body = msgspec.msgpack.decode(sound()[start:])
    changed = edited(body, some_edits(c, body))
    starts_and_shows(with_checksum(msgspec.msgpack.encode(changed)), began, session)


FOUND = {
    "a sample without a name": lambda family: family[1].__setitem__(0, []),
    "a sample of another name": lambda family: family[1].__setitem__(0, ["_x\n", "order"]),
    "a label too many": lambda family: family[1][0].append("x"),
    "a count that is no number": lambda family: family[2].__setitem__(0, float("nan")),
    "a base without end": lambda family: family.__setitem__(3, [float("inf")] * len(family[2])),
}


@pytest.mark.parametrize("change", FOUND.values(), ids=FOUND.keys())
def test_what_was_found_once(change: Callable[[Any], Any], tmp_path: Path) -> None:
    start = len(monotonic_counters_file.MAGIC) + monotonic_counters_file.CHECKSUM_BYTES
    session, families = msgspec.msgpack.decode(sound()[start:])
    change(families["txninsight_transactions_opened"])
    refused(tmp_path / "exposed", with_checksum(msgspec.msgpack.encode([session, families])))


def test_a_label_that_is_not_utf_8_was_found_once(tmp_path: Path) -> None:
    start = len(monotonic_counters_file.MAGIC) + monotonic_counters_file.CHECKSUM_BYTES
    refused(tmp_path / "exposed", with_checksum(sound()[start:].replace(b"order", b"ord\xa7r")))


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with structlog.testing.capture_logs() as logged:
        MonotonicCounters(path, "one", StateOrigin.CHECKPOINT)
    assert [entry["event"] for entry in logged] == ["exposed_values_ignored"]
