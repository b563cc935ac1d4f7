"""Finds the partitions that the configured topics name, and where both views begin to read them.

One child runs the scout, on a thread beside its work loop, since looking takes round trips. Partitions of the first
look begin where `start` says: at the log's beginning, at the last stable offset (`latest`: one moment, for both views),
or at the first record after a moment. Partitions that appear later are read from their beginning. topic_policies.py
says which topics must not be read.

A partition that the cluster did not have at the complete look before is new: nothing was written to it until then
(`as_of` of its start), and it is given the time until the next look to get a leader.

A recreated topic is named at the look that finds its new id, and begun at the next: brokers learn of a deletion one
after another, and one that has not learnt of it may still serve the old records. Partitions that a complete look misses
are forgotten, so that they are found again if they come back; whether they were deleted, the ledger decides.

Each look lists all topics. Their ids are asked for where a look finds a partition that is not known, and else only as
often as costs a thousandth of the time, but at least every 10 s, since an answer lists every partition once more. A
recreated topic may thus be named some seconds late. That moves no watermark: readers confirm its old id no more, so its
partitions hold it.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

import msgspec
import structlog
from confluent_kafka import OFFSET_END, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from txninsightd.cluster.topic_ids import TopicIds, work_s
from txninsightd.cluster.topic_policies import TopicPolicies
from txninsightd.config import Config
from txninsightd.vocabulary import Discovery, PartitionRef, PartitionStart

ANSWER_WITHIN_S = 5.0
STOPPED_AFTER_S = 2 * ANSWER_WITHIN_S
"""A failure that took so long is the process's own: it was stopped meanwhile, and the cluster is not to blame."""

SHARE_OF_WORK = 1000
ASK_IDS_EVERY_S_AT_MOST = 10.0
"""Between two questions for the ids of known topics passes so many times their work, but no more than this."""

MOST_NAMED = 10
"""Partitions of a topic that one problem names."""

log = structlog.get_logger()


class PartitionScout:
    """Looks every `discovery.every_s` seconds, once `start` has said which partitions are known.

    `now` is the steady clock, by which looks are dated; `wall_clock` is asked what so many seconds ago was.
    """

    def __init__(
        self, admin: AdminClient, config: Config, now: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self._admin = admin
        self._config = config
        self._now = now
        self._wall_clock = wall_clock
        self._known: set[PartitionRef] = set()
        self._ids: dict[str, str] = {}
        # None: the first look is still to come.
        self._at_first_look: set[PartitionRef] | None = None
        # Of each partition that there is: the complete look before the one that listed it first; 0: there was none.
        self._absent_at: dict[PartitionRef, float] = {}
        self._looked_at = 0.0
        self._new: set[PartitionRef] = set()
        self._topic_ids = TopicIds(admin)
        self._policies = TopicPolicies(admin, now)
        self._ask_ids_at = 0.0
        self._discoveries: SimpleQueue[Discovery] = SimpleQueue()
        self._stop = threading.Event()
        self._problems: list[str] = []

    def start(self, known: Iterable[PartitionRef], ids: Mapping[str, str], looked: bool) -> None:
        """Begin to look; `known` are the partitions that are read already, `ids` those of their topics.

        `looked`: there was a first look before, by this scout or a predecessor.
        """
        self._known = {PartitionRef(ref.topic, ref.partition) for ref in known}
        self._ids = dict(ids)
        self._at_first_look = set() if self._known or looked else None
        context = copy_context()  # so that the thread's log lines carry the process's name
        threading.Thread(target=context.run, args=(self._run,), name="scout", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def next_discovery(self) -> Discovery | None:
        """The oldest discovery that was not given yet."""
        return None if self._discoveries.empty() else self._discoveries.get()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._discoveries.put(self._look())
            self._stop.wait(self._config.discovery.every_s)

    def _look(self) -> Discovery:
        asked_at = self._now()
        try:
            return self.look(asked_at)
        except KafkaException as failure:
            text = f"the cluster does not answer: {failure.args[0].str()}"
        except Exception as failure:  # any failure: the thread must go on, and /readyz must show it
            text = f"looking for partitions failed: {failure!r}"
        log.warning("discovery_failed", error=text)
        return Discovery(asked_at, found=[], present={}, problems=[text], complete=False)

    def look(self, asked_at: float) -> Discovery:
        """Ask the cluster once. Raises KafkaException when it does not answer."""
        self._problems = []
        topics = self._topics()
        wanted = {name: meta for name, meta in topics.items() if self._config.topic_for(name) is not None}
        self._name_missing(topics)
        self._note_new(wanted)
        refusals = self._policies.refusals(wanted)
        self._problems += refusals.values()
        present = self._present({name: meta for name, meta in wanted.items() if name not in refusals})
        refs = {PartitionRef(name, partition) for name, partitions in present.items() for partition in partitions}
        # Ask for ids first, then for offsets. A topic that is recreated in between is found under its old id: the
        # readers meet another id, send nothing of it and suspend it, and the next look finds the new id.
        ids = self._ids_of(wanted, all_known=refs <= self._known)
        recreated = self._forget_recreated(ids)
        # Kept even without a start: at the next look, these partitions still belong to the first one.
        if self._at_first_look is None:
            self._at_first_look = set(refs)
        found = self._starts({p for p in refs - self._known if p.topic in ids and p.topic not in recreated})
        self._known.update(PartitionRef(f.topic, f.partition) for f in found)
        unconfirmed = self._unconfirmed(wanted, refs, refusals)
        # A partition without a start is not read, and could carry events: such a look must not move the watermark.
        complete = refs <= self._known and not unconfirmed
        if complete:
            self._forget(self._known - refs)
            self._looked_at = asked_at
        found = [
            msgspec.structs.replace(f, topic_id=ids[f.topic], as_of=self._absent_at[PartitionRef(f.topic, f.partition)])
            for f in found
        ]
        return Discovery(asked_at, found, present, self._problems, ids, complete)

    def _ids_of(self, topics: Mapping[str, Any], all_known: bool) -> dict[str, str]:
        """The topics' ids; none while it is not time to ask for those of known topics."""
        now = self._now()
        if all_known and 0 <= self._ask_ids_at - now < ASK_IDS_EVERY_S_AT_MOST:
            return {}
        wait_s = SHARE_OF_WORK * work_s(len(topics), sum(len(meta.partitions) for meta in topics.values()))
        ids = self._topic_ids.of(topics)
        # Without one of them, the next look asks again.
        self._ask_ids_at = now + min(wait_s, ASK_IDS_EVERY_S_AT_MOST) if len(ids) == len(topics) else now
        return ids

    def _topics(self) -> dict[str, Any]:
        """All topics of the cluster. Asks once more if this process was stopped during the question."""
        asked_at = self._now()
        try:
            topics: dict[str, Any] = self._admin.list_topics(timeout=ANSWER_WITHIN_S).topics
        except KafkaException:
            if self._now() - asked_at < STOPPED_AFTER_S:
                raise
            topics = self._admin.list_topics(timeout=ANSWER_WITHIN_S).topics
        return topics

    def _note_new(self, topics: Mapping[str, Any]) -> None:
        """Note which of all partitions, also of those that must not be read, were not there at the look before."""
        listed = {PartitionRef(name, partition) for name, meta in topics.items() for partition in meta.partitions}
        new = listed - self._absent_at.keys()
        self._absent_at = {ref: self._absent_at.get(ref, self._looked_at) for ref in listed}
        self._new = new if self._looked_at else set()

    def _forget_recreated(self, ids: Mapping[str, str]) -> list[str]:
        recreated = [name for name, topic_id in ids.items() if self._ids.get(name, topic_id) != topic_id]
        for name in recreated:
            log.warning("topic_recreated", topic=name, old_id=self._ids[name], new_id=ids[name])
            self._problems.append(f"topic {name} was deleted and created again: the new one is begun in a moment")
        self._ids.update(ids)
        self._forget({ref for ref in self._known if ref.topic in recreated})
        return recreated

    def _forget(self, refs: set[PartitionRef]) -> None:
        """If they come back, they are read from their beginning."""
        self._known -= refs
        if self._at_first_look is not None:
            self._at_first_look -= refs

    def _present(self, topics: Mapping[str, Any]) -> dict[str, list[int]]:
        for name, meta in topics.items():
            leaderless = [
                p.id for p in meta.partitions.values() if p.leader < 0 and PartitionRef(name, p.id) not in self._new
            ]
            if leaderless:
                self._problems.append(f"topic {name}: no leader for partitions {_some(leaderless)}")
        return {name: sorted(meta.partitions) for name, meta in topics.items()}

    def _unconfirmed(
        self, topics: Mapping[str, Any], refs: set[PartitionRef], refusals: Mapping[str, str]
    ) -> set[PartitionRef]:
        """Known partitions that are missing although their topic exists: the answer is incomplete."""
        missing = {ref for ref in self._known - refs if ref.topic in topics}
        # Partitions of a topic that is known to be compacted stay missing; those of a topic with an unknown policy only
        # until the policy is learnt.
        return {ref for ref in missing if ref.topic not in refusals or not self._policies.knows(ref.topic)}

    def _name_missing(self, topics: dict[str, Any]) -> None:
        for entry in self._config.topics:
            if entry.name is not None and entry.name not in topics:
                self._problems.append(f"topic {entry.name} does not exist")
            elif entry.pattern is not None and not any(entry.matches(name) for name in topics):
                self._problems.append(f"no topic matches the pattern {entry.pattern}")

    def _starts(self, refs: set[PartitionRef]) -> list[PartitionStart]:
        first = {ref for ref in refs if self._at_first_look is not None and ref in self._at_first_look}
        start = self._config.start
        found = self._ask(refs - first, OffsetSpec.earliest())
        if start.kind == "earliest":
            return found + self._ask(first, OffsetSpec.earliest())
        if start.kind == "latest":
            return found + self._ask(first, OffsetSpec.latest())
        moment_ms = int((self._wall_clock() - start.ago_s) * 1000)
        at_moment = self._ask(first, OffsetSpec.for_timestamp(moment_ms), IsolationLevel.READ_UNCOMMITTED)
        # There is no record since that moment. A consumer would take this answer as the end at its assignment, which
        # differs between the views; so both begin at the last stable offset of one moment.
        beyond_end = {PartitionRef(f.topic, f.partition) for f in at_moment if f.start_offset == OFFSET_END}
        found += [f for f in at_moment if f.start_offset != OFFSET_END]
        return found + self._ask(beyond_end, OffsetSpec.latest())

    def _ask(
        self, refs: set[PartitionRef], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> list[PartitionStart]:
        """Offsets of these partitions; those without an answer are left for the next look."""
        if not refs:
            return []
        wanted = {TopicPartition(ref.topic, ref.partition): spec for ref in sorted(refs)}
        found = []
        failures: dict[tuple[str, str], list[int]] = {}
        for tp, future in self._admin.list_offsets(
            wanted, isolation_level=isolation, request_timeout=ANSWER_WITHIN_S
        ).items():
            try:
                offset = future.result().offset
            except KafkaException as failure:
                if PartitionRef(tp.topic, tp.partition) not in self._new:
                    failures.setdefault((tp.topic, failure.args[0].str()), []).append(tp.partition)
                continue
            # OFFSET_END (-1) answers a question about a moment; a hanging broker gives -1001, and no error.
            if offset >= 0 or offset == OFFSET_END:
                found.append(PartitionStart(tp.topic, tp.partition, offset))
            else:
                failures.setdefault((tp.topic, "the broker did not answer in time"), []).append(tp.partition)
        self._problems += [f"topic {t}: {why}: partitions {_some(which)}" for (t, why), which in failures.items()]
        return found


def _some(partitions: list[int]) -> str:
    """The partitions in words, briefly even if they are thousands."""
    named = ", ".join(map(str, partitions[:MOST_NAMED]))
    left = len(partitions) - MOST_NAMED
    return named if left <= 0 else f"{named} and {left} more"
