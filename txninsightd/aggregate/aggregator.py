"""The aggregator: the only reader of all lines, and the owner of all business state.

It applies each message to the pipeline in the order of arrival: the ledger decides, and the sinks take the facts. It
tells readers what to read: new partitions as they are found, and a restarted reader its share from the applied
positions. It never waits for another process: a slow or dead reader costs nothing here.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from txninsightd.aggregate.checkpoint import Checkpoints, Then
from txninsightd.aggregate.readers import Readers
from txninsightd.aggregate.rule_reload import Loop, RuleReload
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.aggregate.strict import or_end
from txninsightd.core.facts import Fact, PartitionsFound
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Rules
from txninsightd.core.snapshot import dump
from txninsightd.core.transaction import UNSEEN
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

log = structlog.get_logger()


class Aggregator:
    """`readers`: the children that read, and what; `scout`: the child that looks for partitions. Others only send.

    `store`: where checkpoints are kept; None: nowhere.

    `fallbacks`: how many checkpoints were passed over for the one that the pipeline is from. `multiproc_dir`: where the
    readers write their health, for the metrics. `beat` tells the parent that the loop makes progress;
    `heartbeat_ages_s` returns how long ago each child did so.
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
    ) -> None:
        self.ledger = pipeline.ledger
        self.figures = pipeline.figures
        self._pipeline = pipeline
        self.started_at = now()
        self.now = now
        self.multiproc_dir = multiproc_dir
        # A message, or a change of rules, that touches very many may take longer than the parent waits for a beat.
        self.beat = self.ledger.on_progress = beat
        self.heartbeat_ages_s = heartbeat_ages_s
        self.children_status: list[ChildStatus] = []
        self.reloads = Reloads()
        self._loop = loop
        self._readers = Readers(readers)
        self._scout = scout
        self._discover_every_s = discover_every_s
        self._lines: dict[str, Line] = {}
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
        self._problems: list[str] = []
        self._discovered_at = 0.0
        self._decode = msgspec.msgpack.Decoder(FromChild).decode
        self._rule_reload = RuleReload(pipeline, loop, now, self.warming_up, self._after_slice)

    # --- Lines --------------------------------------------------------------------------------------------------------

    def attach(self, child: str, line: Line) -> None:
        """A child has started. Take in what its predecessor left in its line; then send a reader what it is to read."""
        self._end(child)
        self._lines[child] = line
        self._loop.add_reader(line.fileno(), self._readable, child, line)
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
        return not self._lines

    def _end(self, child: str) -> None:
        """Take in all that a child has sent, so that the applied positions are final, and detach its line."""
        line = self._lines.get(child)
        if line is None:
            return
        # Until nothing more has arrived, or the line has ended: then it is detached, and must not be read again.
        while self._lines.get(child) is line and self._readable(child, line):
            pass
        self._detach(child, line)

    def _detach(self, child: str, line: Line) -> None:
        # `_end` comes here again when the line has ended by itself.
        if self._lines.get(child) is line:
            self._loop.remove_reader(line.fileno())
            del self._lines[child]
            line.close()

    def _readable(self, child: str, line: Line) -> int:
        """Take in what has arrived on one line; gives how many messages that was."""
        # About a megabyte at most, so that no line keeps the others, or HTTP, waiting for long.
        frames = line.receive()
        for frame in frames:
            self.beat()
            self._apply(self._decode(frame))
        self.settle()
        # No event signals room in the pipe: frames that it did not take are tried again here, and at each tick.
        line.flush()
        if line.closed:
            self._detach(child, line)
        return len(frames)

    # --- Messages -----------------------------------------------------------------------------------------------------

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
        present = {topic: set(partitions) for topic, partitions in message.present.items()} if waiting else {}
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
        for child in self._lines if refs else ():
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
                # UNSEEN is minus infinity; in messages 0 stands for what is not known.
                as_of=max(p.monitor_as_of if monitor else p.validator_as_of, 0.0),
                incarnation=p.ref.incarnation,
                topic_id=p.topic_id,
            )
            for p in self.ledger.partitions.values()
            if not p.void and p.ref not in self._not_begun
        ]

    def _assign(self, child: str, starts: list[PartitionStart]) -> None:
        share = self._readers.share(child, starts)
        if share:
            self._lines[child].send(Assign(share))

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
        line = self._lines.get(self._readers.name_for(View.VALIDATOR, ref.topic, ref.partition))
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

    def close(self) -> None:
        """The last checkpoint; nothing may be applied after it."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _commit_offsets(self) -> Then:
        """A checkpoint begins: once it is on disk, readers commit its positions to Kafka, for lag tools."""
        # Taken now: once the checkpoint is on disk, they will have moved on.
        positions = {view: self._positions(view) for view in View}

        def then(failure: OSError | None) -> None:
            for child, line in self._lines.items() if failure is None else ():
                view = self._readers.view_of(child)
                share = self._readers.share(child, positions[view]) if view is not None else []
                if share:
                    line.send(CommitOffsets(share))

        return then

    # --- What happened ------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Emit what is final: the end of a round of messages."""
        self._pipeline.settle(self.now())

    def adopt(self, rules: Rules, most_label_values: int, checkpoint_every_s: float) -> None:
        """Go by these rules, name so many values of a label, and write the state as often as this."""
        if self._checkpoints is not None:
            self._checkpoints.write_every(checkpoint_every_s)
        self._pipeline.name_labels(most_label_values, rules.stuck_by_type)
        self._rule_reload.want(rules)

    def update_settings(self, command: UpdateReaderSettings) -> None:
        """Send all readers these settings; those that attach later were started with them."""
        for child, line in self._lines.items():
            if self._readers.view_of(child) is not None:
                line.send(command)

    def _after_slice(self) -> None:
        self.beat()
        self.settle()

    def tick(self) -> None:
        """What the wall clock brings; called about once a second."""
        self.beat()
        self._rule_reload.tick()
        self._pipeline.tick(self.now())
        self.settle()
        # A line that turns out broken here is detached once its end is read.
        for line in self._lines.values():
            line.flush()
        if self._checkpoints is not None:
            self._checkpoints.tick()

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

    def warming_up(self) -> bool:
        """Whether both views are still on their way to where the topics ended when the aggregator began."""
        return self.ledger.warming_up

    def status(self) -> str:
        """How things are, in one line for the operator."""
        gauges, missing = self.figures.gauges, self.missing()
        line = f"{sum(gauges.live.values()):,} open, {sum(gauges.stuck.values()):,} stuck"
        if missing:
            line += f"; not ready: {missing[0]}"
        return line if len(missing) < 2 else f"{line}, and {len(missing) - 1} more (GET /readyz)"

    def _blindness(self) -> list[str]:
        present = [p for p in self.ledger.partitions.values() if not p.gone]
        missing = []
        for view in View:
            as_ofs = [p.monitor_as_of if view is View.MONITOR else p.validator_as_of for p in present]
            seen, now = min(as_ofs, default=self.now()), self.now()
            if seen == UNSEEN:
                unseen = as_ofs.count(UNSEEN)
                missing.append(f"the {view} has not caught up yet on {unseen} of {len(present)} partitions")
            elif now - seen > BLIND_AFTER_S:
                missing.append(f"the {view} has seen nothing newer than {now - seen:.0f} s")
            elif seen - now > BLIND_AFTER_S:
                ahead_s = seen - now
                missing.append(f"the clock was set back: the {view} sees nothing new for another {ahead_s:.0f} s")
        return missing
