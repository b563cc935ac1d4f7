"""What a checkpoint costs at many open transactions: how long the event loop stands still, and how long a start takes.

    python -m tests.bench.checkpoint [--open 1000000] [--out FILE]

In one process, with a real loop and the real store: the ledger is filled with open transactions of four events each; a
probe on the loop, due every millisecond, notes how late it comes round while nothing happens, and while a forked child
writes a checkpoint. Then the newest checkpoint is read back, as at a start. Sizes in bytes, times in seconds.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import uvloop

from txninsightd import logs
from txninsightd.aggregate.assembly import make_pipeline
from txninsightd.aggregate.checkpoint import Checkpoints
from txninsightd.aggregate.recovery import recover
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.config import Config
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.snapshot import VERSION, dump
from txninsightd.supervise.process_setup import GC_THRESHOLDS
from txninsightd.vocabulary import Coverage, Discovery, Kind, PartitionStart, Sightings

BATCH = 5_000
PROBE_EVERY_S = 0.001
CHECKPOINTS = 5
QUIET_S = 3.0
TOPICS = ("a", "b")
KINDS = {"a": (Kind.TRANSACTION_OPEN, Kind.STEP_OPEN), "b": (Kind.STEP_DONE, Kind.STEP_OPEN)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="What a checkpoint costs.")
    parser.add_argument("--open", type=int, default=1_000_000, metavar="N", help="open transactions (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result there, as JSON")
    options = parser.parse_args()
    logs.setup("error", "auto")
    gc.set_threshold(*GC_THRESHOLDS)
    with tempfile.TemporaryDirectory() as directory:
        result = uvloop.run(measure(Path(directory), options.open))
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


async def measure(directory: Path, count: int) -> dict[str, Any]:
    """Fill a ledger, write checkpoints beside a probe, and read the last one back."""
    store = CheckpointStore(directory, VERSION)
    pipeline = filled(count)
    idle = await lateness(asyncio.sleep(QUIET_S))
    checkpoints = Checkpoints(store, lambda: dump(pipeline), asyncio.get_running_loop(), time.time, 3600.0)
    stalls, durations = [], []
    for _ in range(CHECKPOINTS):
        stalls.append(await lateness(written(checkpoints)))
        durations.append(checkpoints.health.duration_s)
    resident = resident_bytes()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    recovered = recover(store, lambda: make_pipeline(Config(), time.time()), time.time(), lambda: None)
    return {
        "open": len(recovered.pipeline.ledger.live),
        "checkpoint_bytes": checkpoints.health.bytes,
        "resident_bytes": resident,
        "latest_of_the_idle_loop_s": round(idle, 4),
        "latest_of_the_loop_while_writing_s": [round(s, 4) for s in stalls],
        "writing_s": [round(s, 2) for s in durations],
        "reading_s": round(time.perf_counter() - begun, 2),
        "reading_cpu_s": round(time.process_time() - begun_cpu, 2),
        "load_average": os.getloadavg()[0],
    }


async def written(checkpoints: Checkpoints) -> None:
    """One checkpoint, from the question to the answer."""
    done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    checkpoints.request(done.set_result)
    failure = await done
    if failure is not None:
        sys.exit(str(failure))


async def lateness(work: Awaitable[None]) -> float:
    """The longest that a probe on the loop came late while the work was done, in seconds."""
    latest = 0.0

    async def probe() -> None:
        nonlocal latest
        while True:
            due = time.perf_counter() + PROBE_EVERY_S
            await asyncio.sleep(PROBE_EVERY_S)
            latest = max(latest, time.perf_counter() - due)

    probing = asyncio.ensure_future(probe())
    await asyncio.sleep(0)
    await work
    probing.cancel()
    return latest


def filled(count: int) -> Pipeline:
    """A pipeline with so many open transactions of four events each, over two partitions."""
    pipeline = make_pipeline(Config(), time.time())
    found = [PartitionStart(topic, 0, 0, topic_id=topic) for topic in TOPICS]
    ids = {topic: topic for topic in TOPICS}
    discovery = Discovery(time.time(), found, {topic: [0] for topic in TOPICS}, [], ids, complete=True)
    pipeline.apply(discovery, time.time())
    offsets = dict.fromkeys(TOPICS, 0)
    for start in range(0, count, BATCH):
        names = [f"order-{i:012d}" for i in range(start, min(count, start + BATCH))]
        for topic in TOPICS:
            offsets[topic] += give(pipeline, topic, offsets[topic], names)
        pipeline.settle(time.time())
    return pipeline


def give(pipeline: Pipeline, topic: str, offset: int, names: list[str]) -> int:
    """Two events of each transaction to one topic, committed; gives how many that were."""
    txn_ids = [name for name in names for _ in KINDS[topic]]
    count, now = len(txn_ids), time.time()
    signatures = [(int(kind), "pay", "order", None, False, False) for kind in KINDS[topic]]
    numbers = list(range(len(signatures))) * len(names)
    offsets, times = list(range(offset, offset + count)), [now + i * 1e-6 for i in range(count)]
    pipeline.apply(
        Sightings(
            *(topic, 0, offset + count, now, 0.0, now, signatures, offsets, txn_ids, numbers, times, times, []),
            *({"ok": count}, -1, 0.0),
        ),
        now,
    )
    pipeline.apply(Coverage(topic, 0, offset, offset + count, now, 0.0, [offset, offset + count], [], -1), now)
    return count


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
