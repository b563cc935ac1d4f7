"""Runs the ledger and the plain model side by side over the same messages, and holds them equal at every step."""

import gc
from collections import Counter
from collections.abc import Iterator
from types import FunctionType, ModuleType

from tests.harness.core.core import BOUNDS, Core
from tests.harness.core.manners import AT_ONCE, Manner, as_records, patience
from tests.harness.core.reference import Ended, Life, Plain, last_activity, state_of
from tests.harness.core.worlds import IN_S, PAY_IN_S, Message, Sent, World, nows
from txninsightd.core.finished import Finished
from txninsightd.core.histogram import Histogram
from txninsightd.core.transaction import Ending, PendingClose, Transaction
from txninsightd.core.verdicts import Sighted
from txninsightd.vocabulary import Anomaly, Coverage


def new_core(world: World) -> Core:
    return Core(world.rules, world.start_at)


def end_of(finished: Finished) -> Ended:
    """A settled transaction in the plain model's words."""
    kpis = finished.kpis
    return Ended(
        outcome=finished.outcome,
        txn_type=finished.txn.txn_type,
        attempts=finished.attempts,
        duration_s=kpis.duration_s,
        status=kpis.status,
        step_durations=sorted(kpis.step_durations, key=_as_figure),  # type: ignore[arg-type]
        step_gaps=sorted(kpis.step_gaps, key=_as_figure),  # type: ignore[arg-type]
        anomalies=set(kpis.anomalies),
        commit_delay_s=finished.commit_delay_s,
        late_events=finished.late_events,
        replayed=finished.txn.replayed,
    )


def _as_figure(figure: tuple[str | None, float]) -> str:
    return f"Figure(step={figure[0]!r}, seconds={figure[1]!r})"


class SideBySide:
    """A ledger and a plain model that get the same messages, the ledger in its own `manner`."""

    def __init__(self, world: World, manner: Manner = AT_ONCE) -> None:
        self.core = new_core(world)
        self.manner = manner
        self.plain = Plain(world.rules, world.start_at)
        self.finished: list[tuple[str, Ended]] = []
        self.timed_out: Counter[bool] = Counter()
        self.past_time = 0
        self.compared = 0

    def give(self, message: Message, now: float = 0.0) -> None:
        """Hand one message to both."""
        with patience(self.manner.patient):
            for part in self.manner.messages(message, self.core):
                self.core.apply(part, now)
                for plain in as_records(part, self.core):
                    self.plain.receive(plain)

    def tick(self, now: float) -> None:
        """Let both see the clock."""
        self.core.tick(now)
        self.plain.tick(now)

    def run(self, arrived: list[Sent], settle_every: int = 1, ticking: bool = False) -> None:
        """Play all messages, with a comparison after each."""
        now = 0.0
        for i, (now, message) in enumerate(nows(arrived)):
            self.give(message, now)
            if not self.core.ledger.agenda:
                self.compare_live()
            if ticking:
                self.tick(now)
            if i % settle_every == 0:
                self.settle(now)
                self.compare_live()
        self.settle(now)
        self.compare_live()
        self.compare_figures()

    # Live transactions

    def compare_live(self) -> None:
        core, plain = self.core, self.plain
        assert core.live.keys() == plain.lives.keys()
        for txn_id, life in plain.lives.items():
            self._compare_one(txn_id, life)
        assert set(core.stuck) == {t for t, life in plain.lives.items() if life.cause is not None}
        assert core.caught_up == plain.caught_up
        self._compare_gauges()

    def _compare_one(self, txn_id: str, life: Life) -> None:
        self.compared += 1
        txn, seen = self.core.live[txn_id], self.plain.judge(life)
        verdicts = {(s.event.ref, s.event.offset): s.verdict for s in seen}
        assert {(j.event.ref, j.event.offset): j.verdict for j in self.core.life(txn)} == verdicts
        stuck = (life.cause, life.since)
        assert (txn_id, txn.state, (txn.cause, txn.since)) == (txn_id, state_of(seen), stuck)
        if not self.manner.patient:
            assert list(txn.causes) == life.causes
        assert txn.partial == self.plain.partial(life.sightings)
        assert txn.last_at == last_activity(life.sightings)
        assert txn.opened_at == self.plain.opened_at(seen)

    def _compare_gauges(self) -> None:
        gauges = self.core.figures.gauges
        live, stuck, partial, opened = self.plain.gauges()
        assert gauges.live == live
        assert gauges.stuck == stuck
        assert gauges.partial == partial
        assert {(t, s): n for t, seconds in gauges.opened_seconds.items() for s, n in seconds.items()} == opened

    # Settled ones

    def settle(self, now: float) -> None:
        """Let the ledger settle, and check that it may, that it must, and what comes of it."""
        due = {t for t, life in self.plain.lives.items() if self.plain.must_settle(life)}
        settled = self.core.settle(now)
        names = [f.txn.txn_id for f in settled]
        assert len(set(names)) == len(names)
        # A tick lets pass what has waited for too long, if the ledger knows by then that it waits.
        assert self.manner.patient or due <= set(names)
        for finished in settled:
            life = self.plain.lives[finished.txn.txn_id]
            assert self.plain.may_settle(life)
            self.timed_out[self.plain.timed_out_only(life)] += 1
            self.past_time += self.plain.timed_out(life)
            ended = self.plain.end(life)
            assert (life.txn_id, end_of(finished)) == (life.txn_id, ended)
            self.finished.append((life.txn_id, ended))

    # Counters and histograms

    def compare_figures(self) -> None:
        figures, plain = self.core.figures, self.plain
        # Counted when they are evaluated, under the type that is known by then.
        assert sum(figures.opened.values()) == plain.opened.total()
        if not self.manner.patient:
            assert _without_zeros(figures.opened) == plain.opened
            assert _without_zeros(figures.stuck) == +plain.stuck
            changes = [(c.txn_id, c.txn_type, c.before, c.cause, c.since) for c in self.core.stuck_changes]
            assert sorted(changes, key=_by_text) == sorted(plain.changes, key=_by_text)
        assert _without_zeros(figures.records) == +plain.records
        finished = Counter((_label(e.txn_type), e.outcome.value, _label(e.status)) for _, e in self.finished)
        assert _without_zeros(figures.finished) == finished
        replayed = Counter((_label(e.txn_type), e.outcome.value) for _, e in self.finished if e.replayed)
        assert _without_zeros(figures.replayed) == replayed
        assert _without_zeros(figures.objective_missed) == Counter(
            _label(e.txn_type) for _, e in self.finished if not e.replayed and self._missed_its_objective(e)
        )
        anomalies = Counter(anomaly.value for _, e in self.finished for anomaly in e.anomalies)
        anomalies[Anomaly.LATE_EVENT.value] = plain.late_events
        assert _without_zeros(figures.anomalies) == +anomalies
        assert self.timed_out[True] <= figures.settled_by_timeout <= self.past_time
        self._compare_histograms()

    def _missed_its_objective(self, ended: Ended) -> bool:
        longest_s = {"pay": PAY_IN_S}.get(ended.txn_type or "", IN_S)
        return ended.duration_s is not None and ended.duration_s > longest_s

    def _compare_histograms(self) -> None:
        figures = self.core.figures
        durations = [((_label(e.txn_type),), e.duration_s) for _, e in self.finished if e.duration_s is not None]
        delays = [((_label(e.txn_type),), e.commit_delay_s) for _, e in self.finished if e.commit_delay_s is not None]
        steps = [((_label(e.txn_type), _label(f.step)), f.seconds) for _, e in self.finished for f in e.step_durations]
        gaps = [((_label(e.txn_type), _label(f.step)), f.seconds) for _, e in self.finished for f in e.step_gaps]
        assert _told({(t,): h for t, h in figures.durations.items()}) == _counted(durations)
        assert _told({(t,): h for t, h in figures.commit_delays.items()}) == _counted(delays)
        assert _told(figures.step_durations) == _counted(steps)
        assert _told(figures.step_gaps) == _counted(gaps)

    def conserved(self) -> None:
        """Every sighting counts once: in a life that ended, in a live one, or as late."""
        live = sum(len(life.sightings) for life in self.plain.lives.values())
        ended = sum(len(f.life) for f in self.core.archive.lingering.values())
        retried = any(Anomaly.LATE_RETRY in e.anomalies for _, e in self.finished)
        if not retried:  # a second life takes the first one's place in the archive
            late = self.core.figures.anomalies[Anomaly.LATE_EVENT.value]
            assert live + ended + late == self.plain.sighted


def all_decided(core: Core) -> bool:
    """Whether both views have passed the same, in each partition."""
    return all(p.monitor_offset == p.validator_offset for p in core.partitions.values())


LIVE_ONLY = (Transaction, PendingClose, Ending, Sighted, Coverage)
"""What only live transactions, and partitions with undecided records, need."""


def no_leftovers(core: Core) -> None:
    """Nothing but the archive is left once all is decided and settled."""
    assert not core.live
    assert not core.stuck
    # What lingers in the archive is not followed: the collector does not track a Finished.
    assert not [o for o in reachable_from(core.ledger) if isinstance(o, LIVE_ONLY)]
    assert not [p for p in core.partitions.values() if p.undecided_records()]
    gauges = core.figures.gauges
    assert not gauges.live
    assert not gauges.stuck
    assert not gauges.partial
    assert not gauges.opened_seconds


def reachable_from(root: object) -> Iterator[object]:
    """Every object that this one keeps in memory; types and modules are not followed."""
    known, waiting = {id(root)}, [root]
    while waiting:
        found = waiting.pop()
        yield found
        for referred in gc.get_referents(found):
            if id(referred) not in known and not isinstance(referred, type | ModuleType | FunctionType):
                known.add(id(referred))
                waiting.append(referred)


def _by_text(change: tuple[object, ...]) -> str:
    return repr(tuple(change))


def _label(value: str | None) -> str:
    return value or "unspecified"


def _without_zeros(counter: Counter) -> dict:  # type: ignore[type-arg]
    return {key: count for key, count in counter.items() if count}


def _told(histograms: dict) -> dict:  # type: ignore[type-arg]
    return {label: (list(h.counts), round(h.sum, 6)) for label, h in histograms.items() if sum(h.counts)}


def _counted(values: list) -> dict:  # type: ignore[type-arg]
    found: dict = {}  # type: ignore[type-arg]
    for label, value in values:
        found.setdefault(label, Histogram(BOUNDS)).observe(value)
    return _told(found)
