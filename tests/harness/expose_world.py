"""A daemon without Kafka, processes or a clock: its ledger is fed by hand, and its HTTP server is asked for real.

A `World` is a `Source`. Each topic is a log of events and commit markers; `event` shows one to the monitor at once, and
`commit` and `abort` let the validator pass everything that it has not passed yet. Time stands still but for `wait`.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import uvloop
from yarl import URL

from txninsightd.config.model import Config
from txninsightd.core.figures import Figures
from txninsightd.core.ledger import Ledger
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Objectives, Rules
from txninsightd.expose.monotonic_counters import MonotonicCounters
from txninsightd.expose.server import HttpServer
from txninsightd.vocabulary import (
    KIND_WORDS,
    CheckpointHealth,
    ChildStatus,
    Coverage,
    Discovery,
    PartitionRef,
    PartitionStart,
    Reloads,
    Sightings,
    Thresholds,
)

BEGIN = 1_750_000_000.0
HANG_GUARD_S = 60


NO_OBJECTIVES = Objectives()


class World:
    """`topics`: how many partitions each has. Idle after 300 s, overdue 3600 s, pending close and retry 60 s."""

    def __init__(
        self,
        topics: Mapping[str, int] | None = None,
        config: Config | None = None,
        types: tuple[str, ...] = ("order",),
        multiproc_dir: Path | None = None,
        linger_s: float = 900,
        objectives: Objectives = NO_OBJECTIVES,
        monotonic_counters: MonotonicCounters | None = None,
    ) -> None:
        self.config = config or Config()
        bounds, most = self.config.metrics.duration_buckets_s, self.config.limits.label_values
        by_type = dict.fromkeys(types, Thresholds())
        rules = Rules(False, 60, 600, 60, linger_s, 86400, 100_000, 5_000_000, Thresholds(), by_type)
        rules = rules._replace(objectives=objectives)
        self.pipeline = Pipeline(Ledger(rules), Figures(bounds, most, types))
        self.started_at = self.time = BEGIN
        self.multiproc_dir = multiproc_dir
        self.monotonic_counters = monotonic_counters
        self.checkpoints = CheckpointHealth(0.0, 0, 0.0, 0, 0, 10.0)
        self.warm = True
        self.lacking: list[str] = []
        self.noted: list[str] = []
        self.dropped = {"parent": 0, "monitor-0": 0, "validator-0": 0}
        self.reloads = Reloads()
        self.clock_steps = 0
        self.saved: list[int] = []  # how many were live at each checkpoint that was asked for
        self.unwritable: OSError | None = None
        self.family = [ChildStatus("monitor-0", True, 0), ChildStatus("validator-0", False, 2)]
        self.end: dict[tuple[str, int], int] = defaultdict(int)
        self.topics = topics or {"orders": 1}
        self._discover([PartitionStart(t, p, 0) for t, count in self.topics.items() for p in range(count)])

    # --- What the server is shown -------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return self.pipeline.ledger

    @property
    def figures(self) -> Figures:
        return self.pipeline.figures

    def now(self) -> float:
        return self.time

    def warming_up(self) -> bool:
        return not self.warm

    def forget(self, txn_id: str) -> bool:
        return bool(self.pipeline.forget(txn_id, self.now()))

    async def durable(self) -> None:
        self.saved.append(len(self.ledger.live))
        if self.unwritable is not None:
            raise self.unwritable

    def missing(self) -> list[str]:
        return self.lacking

    def notes(self) -> list[str]:
        return self.noted

    def dropped_log_lines(self) -> Mapping[str, int]:
        return self.dropped

    def children(self) -> list[ChildStatus]:
        return self.family

    def heartbeat_ages_s(self) -> Mapping[str, float]:
        return {"monitor-0": 0.25, "validator-0": 12.0}

    # --- What happens -------------------------------------------------------------------------------------------------

    def event(
        self,
        kind: str,
        txn_id: str,
        step: str | None = None,
        status: str | None = None,
        txn_type: str | None = "order",
        at: tuple[str, int] = ("orders", 0),
        ts: float | None = None,
        kept_time: bool = False,
    ) -> int:
        """One event, `kind` as transaction_... or step_...; gives its offset."""
        offset = self.end[at]
        self.end[at] += 1
        signature = (int(KIND_WORDS[kind]), step, txn_type, status, False, kept_time)
        stamp = self.time if ts is None else ts
        self._sighted(at, [signature], [offset], [txn_id], [0], [stamp], [self.time], {"ok": 1})
        return offset

    def whole(self, txn_id: str, txn_type: str | None = "order", status: str = "ok", lasts_s: float = 2.0) -> None:
        """A transaction with one step that opens, closes and is committed."""
        at = self.time
        self.event("transaction_open", txn_id, txn_type=txn_type, ts=at)
        self.event("step_open", txn_id, "pay", txn_type=txn_type, ts=at + 0.2)
        self.event("step_done", txn_id, "pay", txn_type=txn_type, ts=at + 0.7)
        self.event("transaction_close", txn_id, status=status, txn_type=txn_type, ts=at + lasts_s)
        self.commit()

    def many_open(self, count: int) -> None:
        """That many transactions open, in one batch."""
        first = self.end["orders", 0]
        self.end["orders", 0] += count
        signature = (int(KIND_WORDS["transaction_open"]), None, "order", None, False, False)
        stamps = [self.time] * count
        ids, offsets = [f"many-{i}" for i in range(count)], list(range(first, first + count))
        self._sighted(("orders", 0), [signature], offsets, ids, [0] * count, stamps, stamps, {"ok": count})

    def records(self, at: tuple[str, int] = ("orders", 0), **results: int) -> None:
        """Records that are no events, by what became of them."""
        self.end[at] += sum(results.values())
        self._sighted(at, results=results)

    def commit(self, at: tuple[str, int] = ("orders", 0)) -> None:
        """The validator is given everything that it did not pass yet, and passes the marker."""
        start, end = self.ledger.partitions[PartitionRef(*at)].validator_offset, self.end[at]
        self._marker(at)
        self._covered(at, [start, end] if end > start else [])

    def abort(self, at: tuple[str, int] = ("orders", 0)) -> None:
        """The validator passes everything and is given none of it."""
        self._marker(at)
        self._covered(at, [])

    def lose(self, at: tuple[str, int] = ("orders", 0)) -> None:
        """The validator cannot read what it did not pass yet."""
        start, end = self.ledger.partitions[PartitionRef(*at)].validator_offset, self.end[at]
        self._covered(at, [], gaps=[start, end])

    def wait(self, seconds: float) -> None:
        """Time passes, and nothing happened: both views know it, and the last stable offsets have not moved."""
        self.time += seconds
        self._discover([])
        for ref, partition in self.ledger.partitions.items():
            at = (ref.topic, ref.partition)
            self._sighted(at, as_of=self.time)
            self._covered(at, [], as_of=self.time, to_offset=partition.validator_offset)

    def _discover(self, found: list[PartitionStart]) -> None:
        present = {topic: list(range(count)) for topic, count in self.topics.items()}
        self.pipeline.apply(Discovery(self.time, found, present, []), self.time)

    def _marker(self, at: tuple[str, int]) -> None:
        self.end[at] += 1
        self._sighted(at)

    def _sighted(
        self,
        at: tuple[str, int],
        signatures: list[tuple[int, str | None, str | None, str | None, bool, bool]] | None = None,
        offsets: list[int] | None = None,
        txn_ids: list[str] | None = None,
        indexes: list[int] | None = None,
        timestamps: list[float] | None = None,
        record_timestamps: list[float] | None = None,
        results: dict[str, int] | None = None,
        as_of: float = 0.0,
    ) -> None:
        self.pipeline.apply(
            Sightings(
                topic=at[0],
                partition=at[1],
                to_offset=self.end[at],
                read_at=self.time,
                as_of=as_of,
                low_timestamp=self.time if offsets else 0.0,
                signatures=signatures or [],
                offsets=offsets or [],
                txn_ids=txn_ids or [],
                signature_indexes=indexes or [],
                timestamps=timestamps or [],
                record_timestamps=record_timestamps or [],
                gaps=[],
                results=results or {},
                end_offset=self.end[at],
                outage_from=0.0,
            ),
            self.time,
        )
        self._settle()

    def _covered(
        self,
        at: tuple[str, int],
        runs: list[int],
        as_of: float = 0.0,
        gaps: list[int] | None = None,
        to_offset: int | None = None,
    ) -> None:
        start = self.ledger.partitions[PartitionRef(*at)].validator_offset
        end = self.end[at] if to_offset is None else to_offset
        covered = Coverage(*at, start, end, self.time, as_of, runs, gaps or [], end, end)
        self.pipeline.apply(covered, self.time)
        self._settle()

    def _settle(self) -> None:
        self.pipeline.tick(self.time)
        self.pipeline.settle(self.time)


# --- Asking -----------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """An HTTP answer; the body is not decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


Ask = Callable[..., Awaitable[Answer]]


def serve(world: World, asking: Callable[[Ask], Awaitable[None]]) -> None:
    """Run the server on a free port, and with it `asking`, which is handed a function (path, **headers) -> Answer."""

    async def main() -> None:
        server = HttpServer(world, world.config, world.monotonic_counters)
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as session, asyncio.timeout(HANG_GUARD_S):
                await asking(lambda path, **options: _ask(session, port, path, **options))
        finally:
            await server.stop()

    uvloop.run(main())


async def _ask(session: aiohttp.ClientSession, port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    url = URL(f"http://127.0.0.1:{port}{path}", encoded=True)
    named = {"Accept-Encoding": "identity", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with session.request(method, url, headers=named) as response:
        return Answer(response.status, dict(response.headers), await response.read())


def ask(world: World, path: str, method: str = "GET", **headers: str) -> Answer:
    """One question."""
    answers: list[Answer] = []

    async def once(asking: Ask) -> None:
        answers.append(await asking(path, method=method, **headers))

    serve(world, once)
    return answers[0]
