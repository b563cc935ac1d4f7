"""The aggregator: the only reader of all lines, and the owner of all business state.

It applies each message to the pipeline in the order of arrival: the ledger decides, and the sinks take the facts. It
does so in slices (lines.py), between which everything else is served. It tells readers what to read: new partitions as
they are found, and a restarted reader its share from the applied positions. It never waits for another process: a slow
or dead reader costs nothing here.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from txninsightd.aggregate.checkpoint import Checkpoints, Then
from txninsightd.aggregate.lines import Lines, Loop
from txninsightd.aggregate.offset_commits import OffsetCommits
from txninsightd.aggregate.readers import Readers
from txninsightd.aggregate.recovery import CORRECTED
from txninsightd.aggregate.rule_reload import RuleReload
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.aggregate.strict import or_end
from txninsightd.aggregate.wall_time import WallTime
from txninsightd.core.facts import Fact, PartitionsFound
from txninsightd.core.ledger import EVALUATED_A_STEP
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Rules
from txninsightd.core.snapshot import dump
from txninsightd.core.topics import present_in
from txninsightd.core.transaction import UNSEEN
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import (
    Assign,
    CheckpointHealth,
    ChildStatus,
    CommitOffsets,
    Coverage,
    Discovery,
    FromChild,
    KnownPartitions,
    Line,
    PartitionRef,
    PartitionStart,
    Pause,
    ReaderRole,
    Reloads,
    Seen,
    Sightings,
    UpdateReaderSettings,
    View,
)

MOST_WAITING_RUNS = 100_000
"""A validator this far ahead of its monitor in a partition is told to pause there."""

BLIND_AFTER_S = 15.0
LEAST_SUSPENSION_S = 1.0

log = structlog.get_logger()


class Aggregator:
    """`readers`: the children that read, and what; `scout`: the child that looks for partitions. Others only send.

    `store`: where checkpoints are kept; None: nowhere.

    `fallbacks`: how many checkpoints were passed over for the one that the pipeline is from. `multiproc_dir`: where the
    readers write their health, for the metrics. `wall_time` converts the readers' moments. `beat` tells the parent that
    the loop makes progress; `heartbeat_ages_s` returns how long ago each child did so. `dropped_log_lines`: how
    many lines of the log each process has dropped. `noters`: each gives what an operator should know although all is
    ready.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        loop: Loop,
        readers: Mapping[str, ReaderRole],
        scout: str,
        now: Callable[[], float],
        discover_every_s: float,
        store: CheckpointStore | None = None,
        checkpoint_every_s: float = 10.0,
        fallbacks: int = 0,
        multiproc_dir: Path | None = None,
        beat: Callable[[], None] = lambda: None,
        heartbeat_ages_s: Callable[[], Mapping[str, float]] = dict,
        wall_time: WallTime | None = None,
        dropped_log_lines: Callable[[], Mapping[str, int]] = dict,
        noters: Sequence[Callable[[], list[str]]] = (),
    ) -> None:
        self.ledger = pipeline.ledger
        self.figures = pipeline.figures
        self._pipeline = pipeline
        self.started_at = now()
        self.now = now
        self.multiproc_dir = multiproc_dir
        self.beat = beat
        self.heartbeat_ages_s = heartbeat_ages_s
        self.dropped_log_lines = dropped_log_lines
        self._noters = noters
        self.children_status: list[ChildStatus] = []
        self.reloads = Reloads()
        self._wall_time = wall_time if wall_time is not None else WallTime()
        self._lines = Lines(loop, self._take_in, self._settle, self._attached, beat)
        self._readers = Readers(readers)
        self._scout = scout
        self._discover_every_s = discover_every_s
        # The partitions in which the validator is paused.
        self._paused: set[PartitionRef] = set()
        # What was restored is read once the broker has confirmed that the topics are still the same
        # (docs/decisions/topic_id_gate.md).
        self._not_begun = set(self.ledger.partitions)
        self._not_durable: set[PartitionRef] = set()
        self._checkpoints: Checkpoints | None = None
        if store is not None:
            self._checkpoints = Checkpoints(store, lambda: dump(pipeline), loop, now, checkpoint_every_s, fallbacks)
            self._checkpoints.on_begin = self._commit_offsets
        self._offset_commits = OffsetCommits(now)
        self._problems: list[str] = []
        self._discovered_at = 0.0
        self._decode = msgspec.msgpack.Decoder(FromChild).decode
        self._rule_reload = RuleReload(pipeline, loop, now, self.warming_up, self._after_slice)

    # --- Lines --------------------------------------------------------------------------------------------------------

    def attach(self, child: str, line: Line) -> None:
        """A child has started. Take in what its predecessor left in its line; then send a reader what it is to read."""
        self._lines.attach(child, line)

    def _attached(self, child: str, line: Line) -> None:
        # A new scout does not know what its predecessor found.
        if child == self._scout:
            known = [ref for ref, p in self.ledger.partitions.items() if not p.void]
            looked = self.ledger.watermark.discovered_at != UNSEEN
            line.send(KnownPartitions(known, self.ledger.topics.ids, looked))
        view = self._readers.view_of(child)
        if view is not None:
            self._assign(child, self._positions(view))
        # A validator ignores a pause of a partition that it does not read, so each gets all of them.
        for ref in self._paused if view is View.VALIDATOR else ():
            if self.ledger.partitions[ref].void:
                continue  # its name may be another topic's by now
            line.send(Pause(ref.topic, ref.partition, True))

    @property
    def drained(self) -> bool:
        """Whether every line has come to its end."""
        return not self._lines.open

    # --- Messages -----------------------------------------------------------------------------------------------------

    def _take_in(self, frame: bytes) -> Iterator[None]:
        for portion in self.ledger.in_portions(self._decode(frame)):
            before = len(self.ledger.agenda)
            # Converted only now: the clock may have been stepped since the portion before.
            self._apply(self._wall_time.message(portion))
            yield
            # As much as this has brought is this line's work: else transactions could come faster than they are
            # evaluated. What others have brought is worked off with what settles.
            steps = (len(self.ledger.agenda) - before) // EVALUATED_A_STEP + 1
            yield from islice(self._pipeline.evaluating(self.now()), max(steps, 1))

    def _apply(self, message: FromChild) -> None:
        facts = self._pipeline.apply(message, self.now())
        if isinstance(message, Seen):
            self._keep_outage(message)
        if isinstance(message, Sightings | Coverage):
            self._pause_or_resume(PartitionRef(message.topic, message.partition, message.incarnation))
        elif isinstance(message, Discovery):
            self._discovered(message, facts)

    def _keep_outage(self, message: Seen) -> None:
        """Write a checkpoint after an outage of the broker: nothing else remembers it over a restart."""
        if self._checkpoints is not None and any(topic.outages for topic in message.topics):
            self._checkpoints.request()

    def _discovered(self, message: Discovery, facts: list[Fact]) -> None:
        """Partitions were looked for; `facts`: what the ledger made of it, recreated topics retired already."""
        if message.problems != self._problems:
            log.info("discovery_problems", problems=message.problems)
        self._problems = message.problems
        # An incomplete look says nothing of what is missing in it.
        if message.complete:
            self._discovered_at = max(self._discovered_at, message.asked_at)
        starts = [start for fact in facts if isinstance(fact, PartitionsFound) for start in fact.starts]
        new = {PartitionRef(s.topic, s.partition, s.incarnation) for s in starts}
        # Those of the checkpoint that was restored; new ones wait until a checkpoint holds them.
        waiting = self._not_begun - self._not_durable
        present = present_in(message) if waiting else {}
        self._begin({ref for ref in waiting if ref.partition in present.get(ref.topic, ())})
        if new:
            log.info("partitions_found", count=len(new), topics=sorted({ref.topic for ref in new}))
            self._begin_once_durable(new)

    def _begin_once_durable(self, refs: set[PartitionRef]) -> None:
        """Let new partitions be read once a checkpoint says where they begin: a restart must not decide that again."""
        self._not_begun |= refs
        if self._checkpoints is None:
            self._begin(refs)
            return
        self._not_durable |= refs

        def then(_: OSError | None) -> None:
            # Also if the checkpoint failed: the daemon reads on, and says so (docs/decisions/checkpoint.md).
            self._not_durable -= refs
            self._begin(refs)

        self._checkpoints.request(then)

    def _begin(self, refs: set[PartitionRef]) -> None:
        """Let these partitions be read."""
        self._not_begun -= refs
        for child in self._lines.open if refs else ():
            view = self._readers.view_of(child)
            if view is not None:
                starts = self._positions(view)
                self._assign(child, [s for s in starts if PartitionRef(s.topic, s.partition, s.incarnation) in refs])

    def _positions(self, view: View) -> list[PartitionStart]:
        """Where each partition that is begun stands in a view."""
        monitor = view is View.MONITOR
        return [
            PartitionStart(
                topic=p.ref.topic,
                partition=p.ref.partition,
                start_offset=p.monitor_offset if monitor else p.validator_offset,
                as_of=self._wall_time.steady(_seen(p, p.as_of(view))),
                incarnation=p.ref.incarnation,
                topic_id=p.topic_id,
            )
            for p in self._begun()
        ]

    def _begun(self) -> Iterator[PartitionState]:
        """The partitions that are read."""
        return (p for p in self.ledger.partitions.values() if not p.void and p.ref not in self._not_begun)

    def _assign(self, child: str, starts: list[PartitionStart]) -> None:
        share = self._readers.share(child, starts)
        if share:
            self._lines.open[child].send(Assign(share))

    def _pause_or_resume(self, ref: PartitionRef) -> None:
        """Keep the validator from running ahead of the monitor in memory."""
        runs = self.ledger.partitions[ref].waiting_runs
        paused = ref in self._paused
        # Resumed at half only: a consumer that pauses discards what it has prefetched, so it must not pause often.
        if not paused and runs > MOST_WAITING_RUNS:
            self._paused.add(ref)
        elif paused and runs < MOST_WAITING_RUNS // 2:
            self._paused.discard(ref)
        else:
            return
        line = self._lines.open.get(self._readers.name_for(View.VALIDATOR, ref.topic, ref.partition))
        # Without a line the validator is being restarted; `attach` sends it the pauses.
        if line is not None:
            line.send(Pause(ref.topic, ref.partition, not paused))

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> CheckpointHealth:
        """The state of checkpoints."""
        return self._checkpoints.health if self._checkpoints is not None else CheckpointHealth(0.0, 0, 0.0, 0, 0, 0.0)

    def forget(self, txn_id: str) -> bool:
        """End a live transaction; returns whether there was one. A failure half-way ends the process."""
        return bool(or_end(self._pipeline.forget, txn_id, self.now()))

    async def durable(self) -> None:
        """Wait until all that has been applied by now is on disk. Raises OSError when it cannot be written."""
        if self._checkpoints is None:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(failure: OSError | None) -> None:
            # The caller may have given up waiting.
            if not done.done():
                done.set_result(None) if failure is None else done.set_exception(failure)

        self._checkpoints.request(then)
        await done

    def close(self) -> bool:
        """The last checkpoint; nothing may be applied after it. Says whether it is written."""
        return self._checkpoints is None or self._checkpoints.close()

    def _commit_offsets(self) -> Then:
        """A checkpoint begins: once it is on disk, readers commit its positions to Kafka, for lag tools."""
        # Taken now: once the checkpoint is on disk, they will have moved on.
        due = self._offset_commits.due(self._begun())

        def then(failure: OSError | None) -> None:
            for child, line in self._lines.open.items() if failure is None else ():
                view = self._readers.view_of(child)
                if view is None:
                    continue
                share = self._readers.share(child, due[view])
                if share:
                    line.send(CommitOffsets(share))
                    self._offset_commits.sent(view, share)

        return then

    # --- What happened ------------------------------------------------------------------------------------------------

    def _settle(self) -> Iterator[None]:
        return self._pipeline.settling(self.now())

    def adopt(self, rules: Rules, most_label_values: int, checkpoint_every_s: float) -> None:
        """Go by these rules, name so many values of a label, and write the state as often as this."""
        if self._checkpoints is not None:
            self._checkpoints.write_every(checkpoint_every_s)
        self._pipeline.name_labels(most_label_values, rules.stuck_by_type)
        self._rule_reload.want(rules)

    def update_settings(self, command: UpdateReaderSettings) -> None:
        """Send all readers these settings; those that attach later were started with them."""
        for child, line in self._lines.open.items():
            if self._readers.view_of(child) is not None:
                line.send(command)

    def _after_slice(self) -> None:
        self.beat()
        self._lines.schedule()

    def tick(self) -> None:
        """What the wall clock brings; called about once a second."""
        self.beat()
        self._follow_clock()
        self._rule_reload.tick()
        self._pipeline.tick(self.now())
        self._lines.schedule()
        self._lines.flush()
        if self._checkpoints is not None:
            self._checkpoints.tick()

    def _follow_clock(self) -> None:
        """If the wall clock was stepped, correct all that was learnt under the wrong one."""
        suspended_s, step_s = self._wall_time.suspended_s(), self._wall_time.follow()
        if suspended_s > LEAST_SUSPENSION_S:
            log.warning("host_suspended", seconds=round(suspended_s, 3))
        if not step_s:
            return
        log.warning("clock_stepped", seconds=round(step_s, 3), effect=CORRECTED)
        self._pipeline.clock_stepped(step_s, self.now())
        self.ledger.our_clock = self._wall_time.our_clock()
        self.started_at += step_s
        self._discovered_at += step_s if self._discovered_at else 0.0
        if self._checkpoints is not None:
            self._checkpoints.clock_stepped(step_s)

    @property
    def clock_steps(self) -> int:
        """How often the wall clock was stepped while this process ran."""
        return self._wall_time.steps

    # --- Readiness ----------------------------------------------------------------------------------------------------

    def children(self) -> list[ChildStatus]:
        """The children as the parent last told."""
        return self.children_status

    def missing(self) -> list[str]:
        """What keeps the daemon from telling the truth just now, in words."""
        # The first one stands in the status line, so what tells most comes first.
        missing = [f"{child.name} is down" for child in self.children_status if not child.up]
        missing += self._problems
        if not self._discovered_at:
            if not self._problems:
                missing.append("the topics' partitions are not known yet")
        elif self.now() - self._discovered_at > BLIND_AFTER_S + self._discover_every_s:
            missing.append(f"no complete look for partitions for {self.now() - self._discovered_at:.0f} s")
        if self._checkpoints is not None and self._checkpoints.problem is not None:
            missing.append(self._checkpoints.problem)
        if self.warming_up():
            missing.append("warming up: what was written while the daemon did not read is being read")
        return missing + self._blindness()

    def notes(self) -> list[str]:
        """What an operator should know although it keeps no figure from being right, in words."""
        return [note for noter in self._noters for note in noter()]

    def warming_up(self) -> bool:
        """Whether both views are still on their way to where the topics ended when the aggregator began."""
        return self.ledger.warming_up

    def status(self) -> str:
        """How things are, in one line for the operator."""
        gauges, missing = self.figures.gauges, self.missing()
        line = f"{sum(gauges.live.values()):,} open, {sum(gauges.stuck.values()):,} stuck"
        if missing:
            line += f"; not ready: {missing[0]}"
        if len(missing) > 1:
            line += f", and {len(missing) - 1} more (GET /readyz)"
        return "; ".join([line, *self.notes()])

    def _blindness(self) -> list[str]:
        now, missing = self.now(), []
        for view in View:
            as_of = self.ledger.watermark.seen_by(view)
            if as_of == UNSEEN:
                as_ofs = [p.as_of(view) for p in self.ledger.watermark.present()]
                unseen = as_ofs.count(UNSEEN)
                missing.append(f"the {view} has not caught up yet on {unseen} of {len(as_ofs)} partitions")
            elif now - as_of > BLIND_AFTER_S:
                missing.append(f"the {view} has seen nothing newer than {now - as_of:.0f} s")
        return missing


def _seen(partition: PartitionState, as_of: float) -> float:
    """The `as_of` to assign a partition with: 0 while the view has seen nothing of it.

    With another one, a reader that does not find the new partition at once would report an outage since then.
    """
    return as_of if as_of > partition.absent_at else 0.0
