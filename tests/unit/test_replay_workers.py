"""The second pass with producers that only note what they are told: order, concurrency, stops and failures."""

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from txninsightd.tools.events_file import Action, Control, PlainEvents, Record, read_lines
from txninsightd.tools.replaying import dispatcher as dispatching
from txninsightd.tools.replaying.cluster import Refusal
from txninsightd.tools.replaying.counts import Counts, Totals
from txninsightd.tools.replaying.dispatcher import Dispatcher, Rewrite
from txninsightd.tools.replaying.plan import ProducerSession, Timeline, TsPaths, survey
from txninsightd.tools.replaying.publisher import ScheduledLine
from txninsightd.tools.replaying.workers import RETIRING_AT_ONCE, Worker, WorkerPool
from txninsightd.vocabulary import KEPT_TIME_HEADER

HANG_S = 30.0


@dataclass
class Noting:
    """A producer that notes. `before` is called before each line and may wait, refuse or fail."""

    session: ProducerSession
    log: list[tuple[str, str]]
    before: Callable[[ProducerSession, str], None]
    items: list[ScheduledLine] = field(default_factory=list)

    def open(self) -> None:
        self._note("open")

    def publish(self, batch: Sequence[ScheduledLine]) -> Counts:
        counts = Counts()
        for each in batch:
            self.items.append(each)
            if isinstance(each.line, Control):
                self._note(each.line.action)
                counts.commits += each.line.action is Action.COMMIT
            else:
                self._note(each.line.key or "")
                counts.records += 1
        return counts

    def finish(self) -> Counts:
        self._note("finish")
        return Counts()

    def _note(self, what: str) -> None:
        self.before(self.session, what)
        self.log.append((self.session.producer, what))


class Stage:
    """A dispatcher and its pool over a few lines."""

    def __init__(
        self, *lines: dict[str, Any], before: Callable[[ProducerSession, str], None] = lambda *_: None
    ) -> None:
        self.text = [json.dumps(line).encode() for line in lines]
        self.log: list[tuple[str, str]] = []
        self.items: list[ScheduledLine] = []
        self.totals = Totals()
        self.stopping = threading.Event()
        self.before = before
        self.alive: list[int] = []

    def perform(
        self, speed: float = math.inf, rewrite: Rewrite | None = None, queued: int = 2, start_in_s: float = 0.0
    ) -> dispatching.Progress:
        found = survey(read_lines(self.text, PlainEvents("t")), TsPaths())

        def create_worker(session: ProducerSession, predecessor: Worker | None) -> Worker:
            self.alive.append(threading.active_count())
            publisher = Noting(session, self.log, self.before, self.items)
            return Worker(publisher, self.totals, self.stopping, queued, predecessor)

        pool = WorkerPool(create_worker)
        dispatcher = Dispatcher(found, Timeline(found.first_at, speed), pool, self.stopping, lambda _: None)
        try:
            dispatcher.start_first()
            lines = read_lines(self.text, PlainEvents("t"))
            dispatcher.run(lines, rewrite or Rewrite(TsPaths()), time.monotonic() + start_in_s)
        finally:
            pool.finish()
        return dispatcher.progress

    def of(self, producer: str) -> list[str]:
        return [what for name, what in self.log if name == producer]


def record(at: float, key: str, producer: str = "p", **more: Any) -> dict[str, Any]:
    return {"at": at, "producer": producer, "topic": "t", "key": key} | more


def control(at: float, action: str, producer: str = "p") -> dict[str, Any]:
    return {"at": at, "producer": producer, "kafka": action}


@pytest.mark.parametrize("speed", [math.inf, 1000.0])
def test_each_producer_does_its_lines_in_order(speed: float) -> None:
    lines = [record(n / 10, f"{n}", f"p{n % 3}") for n in range(2000)]
    stage = Stage(*lines)
    progress = stage.perform(speed)
    for p in range(3):
        assert stage.of(f"p{p}") == ["open", *(str(n) for n in range(2000) if n % 3 == p), "finish"]
    assert stage.totals.sum.records == 2000
    assert (progress.line, progress.at) == (2000, 199.9)


def test_a_producer_that_waits_delays_no_other() -> None:
    others_done = threading.Event()

    def before(session: ProducerSession, what: str) -> None:
        if (session.producer, what) == ("slow", "commit"):
            assert others_done.wait(HANG_S)
        if what == "last":
            others_done.set()

    slow = [control(0, "begin", "slow"), record(0, "x", "slow"), control(0, "commit", "slow")]
    stage = Stage(*slow, record(0.1, "a"), record(0.2, "last"), before=before)
    stage.perform(speed=10)
    assert stage.of("slow") == ["open", "begin", "x", "commit", "finish"]
    assert stage.totals.sum.errors == 0


def test_workers_start_before_their_first_line_and_leave_after_their_last() -> None:
    opened, first_left = threading.Event(), threading.Event()

    def before(session: ProducerSession, what: str) -> None:
        if session.producer == "late":
            opened.set()
        if (session.producer, what) == ("early", "finish"):
            first_left.set()
        if (session.producer, what) == ("early", "1"):
            assert opened.wait(HANG_S)
        if (session.producer, what) == ("late", "3"):
            assert first_left.wait(HANG_S)

    stage = Stage(record(0, "1", "early"), record(1, "2", "late"), record(1.1, "3", "late"), before=before)
    stage.perform(speed=2)
    assert stage.totals.sum.errors == 0
    assert stage.of("early") == ["open", "1", "finish"]


def test_a_successor_waits_for_the_crash_of_its_predecessor() -> None:
    sessions = [[control(n, "begin"), record(n, f"{n}"), control(n, "crash")] for n in range(20)]
    stage = Stage(*(line for session in sessions for line in session))
    stage.perform()
    assert stage.of("p") == [each for n in range(20) for each in ("open", "begin", f"{n}", "crash", "finish")]


def test_only_a_few_are_on_their_way_out_at_once() -> None:
    stage = Stage(*(record(n, "k", f"p{n}") for n in range(3000)))
    before = threading.active_count()
    stage.perform()
    assert stage.totals.sum.records == 3000
    assert max(stage.alive) - before <= RETIRING_AT_ONCE + 1


def test_only_a_few_are_started_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "EARLY_AT_ONCE", 3)
    stage = Stage(*(record(n / 100, "k", f"p{n}") for n in range(50)))
    before = threading.active_count()
    stage.perform(speed=1)
    assert stage.totals.sum.records == 50
    assert stage.alive[0] == before
    assert stage.alive[2] <= before + 3


def test_misplaced_lines_are_left_out_as_the_survey_said() -> None:
    stage = Stage(
        record(0, "stray"),
        control(1, "begin"),
        control(2, "begin"),
        record(3, "good"),
        control(4, "commit"),
        control(5, "abort"),
        record(6, "stray"),
        {"at": 7, "producer": "p"},
        record(8, "plain", "q"),
    )
    stage.perform()
    assert stage.of("p") == ["open", "begin", "good", "commit", "finish"]
    assert stage.of("q") == ["open", "plain", "finish"]


def test_a_stop_leaves_the_rest_unpublished_and_says_where() -> None:
    stage: Stage

    def before(_: ProducerSession, what: str) -> None:
        if what == "500":
            stage.stopping.set()

    stage = Stage(*(record(n, f"{n}") for n in range(100_000)), before=before)
    progress = stage.perform(queued=1)
    sum_ = stage.totals.sum
    assert 500 < progress.line < 100_000
    assert sum_.records + sum_.unpublished == progress.line
    assert stage.of("p")[-1] == "finish"


def test_a_stop_ends_the_wait_for_a_far_line() -> None:
    stage: Stage

    def before(_: ProducerSession, what: str) -> None:
        if what == "near":
            stage.stopping.set()

    stage = Stage(record(0, "near"), record(10_000, "far"), before=before)
    assert stage.perform(speed=1).line == 1
    assert stage.of("p") == ["open", "near", "finish"]


def test_a_producer_that_is_refused_at_first_ends_the_replay() -> None:
    def before(_: ProducerSession, what: str) -> None:
        if what == "open":
            raise Refusal("no")

    stage = Stage(record(0, "k"), before=before)
    with pytest.raises(Refusal):
        stage.perform(speed=1)
    assert stage.totals.sum == Counts()


def test_a_producer_that_is_refused_later_counts_its_lines_as_errors() -> None:
    def before(session: ProducerSession, what: str) -> None:
        if (session.producer, what) == ("p", "open"):
            raise Refusal("no")

    stage = Stage(control(0, "begin"), record(0, "k"), control(0, "commit"), record(0, "q", "q"), before=before)
    stage.perform()
    sum_ = stage.totals.sum
    assert (sum_.records, sum_.delivery_errors, sum_.transaction_errors) == (1, 1, 2)
    assert sum_.reasons == {"no": 3}


def test_an_unexpected_failure_is_counted_and_delays_no_other_producer() -> None:
    def before(_: ProducerSession, what: str) -> None:
        if what == "7":
            raise RuntimeError("boom")

    stage = Stage(*(record(n, f"{n}") for n in range(5000)), record(5000, "other", "q"), before=before)
    stage.perform()
    assert stage.of("q") == ["open", "other", "finish"]
    assert stage.totals.sum.delivery_errors > 4000
    assert stage.totals.sum.reasons["unexpected error: RuntimeError('boom')"] == stage.totals.sum.errors


def test_shifted_values() -> None:
    stage = Stage(record(0, "k", value={"ts": 5}), record(0, "k", raw="eyJ0cyI6NX0="), record(0, "k"))
    stage.perform(rewrite=Rewrite(TsPaths(), shift_s=100))
    assert [(each.line.payload, each.timestamp_ms) for each in stage.items if isinstance(each.line, Record)] == [
        (b'{"ts":105}', 0),
        (b'{"ts":5}', 0),
        (None, 0),
    ]


def test_kept_times() -> None:
    stage = Stage(record(1.5, "k", value={"ts": 5}), record(2, "k", headers={"a": "b"}))
    stage.perform(rewrite=Rewrite(TsPaths(), keep_time=True, epoch=1000.0))
    assert [
        (each.line.payload, each.line.headers, each.timestamp_ms)
        for each in stage.items
        if isinstance(each.line, Record)
    ] == [
        (b'{"ts": 5}', {KEPT_TIME_HEADER: "1"}, 1_001_500),
        (None, {"a": "b", KEPT_TIME_HEADER: "1"}, 1_002_000),
    ]


def test_due_times_follow_the_largest_at_so_far() -> None:
    stage = Stage(record(10, "a"), record(30, "b"), record(20, "c"), record(40, "d"))
    stage.perform(speed=1000.0)
    dues = [each.due for each in stage.items]
    assert None not in dues
    offsets = [round((due or 0) - (dues[0] or 0), 6) for due in dues]
    assert offsets == [0, 0.02, 0.02, 0.03]
