"""What an event costs in the core alone: encoded messages in, facts out, one process, no broker.

    .venv/bin/python -m tests.bench.core [--events N] [--runs N] [--out FILE]

Transactions of seven events come as a monitor and a validator of one partition would send them: batches of sightings
and of coverage, MessagePack as on the wire. With 500 open at a time everything stays in the processor's caches; with
50,000 it does not. The decoding of messages counts, since the aggregator pays for it. Reported is the CPU time of the
process for each event, the median of several runs; the garbage collector is set as in the daemon.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.config import Config
from txninsightd.core.pipeline import Pipeline
from txninsightd.supervise.process_setup import GC_THRESHOLDS
from txninsightd.vocabulary import Coverage, Discovery, Kind, PartitionStart, Sightings

TOPIC = "orders"
BATCH = 2_000
OPEN_AT_A_TIME = (500, 50_000)
BEGIN = 1_700_000_000.0
EVENTS_A_SECOND = 10_000
STEPS = ("pay", "ship")
LIFE = (
    (int(Kind.TRANSACTION_OPEN), None, "order", None, False, False),
    *((int(kind), step, None, None, False, False) for step in STEPS for kind in (Kind.STEP_OPEN, Kind.STEP_DONE)),
    (int(Kind.STEP_OPEN), "bill", None, None, False, False),
    (int(Kind.TRANSACTION_CLOSE), None, None, "ok", False, False),
)
"""The signatures of one transaction's events, in order."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="What an event costs in the core alone.")
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events a run (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="runs of each variant (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result there, as JSON")
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLDS)
    result: dict[str, Any] = {"events": options.events, "runs": options.runs}
    for open_at_a_time in OPEN_AT_A_TIME:
        messages = list(encoded(options.events, open_at_a_time))
        gc.freeze()
        figures = [cpu_us_an_event(messages, options.events) for _ in range(options.runs)]
        result[f"{open_at_a_time}_open"] = {"median_us": statistics.median(figures), "all_us": figures}
    result["load_average"] = os.getloadavg()[0]
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def cpu_us_an_event(messages: list[bytes], events: int) -> float:
    """Play all messages into an empty pipeline."""
    pipeline = make_pipeline(Config(), BEGIN)
    decode = msgspec.msgpack.Decoder(Sightings | Coverage | Discovery).decode
    begun = time.process_time()
    now = BEGIN
    for body in messages:
        message = decode(body)
        now = max(now, getattr(message, "as_of", BEGIN))
        pipeline.apply(message, now)
        pipeline.settle(now)
    spent = time.process_time() - begun
    check(pipeline, events)
    return round(spent / events * 1e6, 3)


def check(pipeline: Pipeline, events: int) -> None:
    """A wrong result must not look like a fast one."""
    closed = pipeline.figures.finished["order", "closed", "ok"]
    if closed != events // len(LIFE):
        sys.exit(f"{closed} transactions closed instead of {events // len(LIFE)}")


def encoded(events: int, open_at_a_time: int) -> Iterator[bytes]:
    """A whole history as messages on the wire."""
    encode = msgspec.msgpack.Encoder().encode
    yield encode(Discovery(BEGIN, [PartitionStart(TOPIC, 0, 0, topic_id="id")], {TOPIC: [0]}, [], {TOPIC: "id"}))
    whole = lives(events // len(LIFE), open_at_a_time)
    offset = 0
    for batch in batches(whole):
        end, at = offset + len(batch), BEGIN + offset / EVENTS_A_SECOND
        offsets, times = list(range(offset, end)), [at + i / EVENTS_A_SECOND for i in range(len(batch))]
        now = times[-1]
        yield encode(
            Sightings(
                *(TOPIC, 0, end, now, now, at, list(LIFE), offsets, [f"order-{txn:09d}" for txn, _ in batch]),
                *([part for _, part in batch], times, times, [], {"ok": len(batch)}, end, 0.0),
            )
        )
        yield encode(Coverage(TOPIC, 0, offset, end, now, now, [offset, end], [], end, end))
        offset = end
    last = BEGIN + offset / EVENTS_A_SECOND + 10
    yield encode(Discovery(last, [], {TOPIC: [0]}, [], {TOPIC: "id"}))
    yield encode(Sightings(TOPIC, 0, offset, last, last, last, [], [], [], [], [], [], [], {}, offset, 0.0))
    yield encode(Coverage(TOPIC, 0, offset, offset, last, last, [], [], offset, offset))


def lives(count: int, open_at_a_time: int) -> Iterator[tuple[int, int]]:
    """Transaction and part of each event, with so many open at a time: one event of each in turn."""
    for start in range(0, count, open_at_a_time):
        group = range(start, min(count, start + open_at_a_time))
        for part in range(len(LIFE)):
            for txn in group:
                yield txn, part


def batches(events: Iterator[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Events as the messages hold them."""
    batch: list[tuple[int, int]] = []
    for event in events:
        batch.append(event)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


if __name__ == "__main__":
    main()
