"""Finds the partitions that the configured topics name, and where both views shall begin to read them.

Only the first monitor runs this, on a thread of its own beside the work loop, since looking takes round trips. What was
there at the first look begins where `start` says: at the log's beginning, at the last stable offset (`latest`: one
moment, for both views), or at the first record after a moment. What appears later is read from its beginning.
topics.py says which topics must not be read.

A topic that was made anew is named at the look that finds its new id, and begun at the next: brokers hear of a deletion
one after another, and one that has not may still serve the old records. What a complete look misses is forgotten, so
that it is found again if it comes back; whether it was deleted, the ledger decides.
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

from txninsightd.config import Config
from txninsightd.ingest.topics import ANSWER_WITHIN_S, TopicChecks, topic_ids
from txninsightd.vocabulary import Discovery, PartitionRef, PartitionStart

STOOD_STILL_S = 2 * ANSWER_WITHIN_S
"""A failure that took so long is our own: this process was stopped meanwhile, and the cluster is not to blame."""

log = structlog.get_logger()


class PartitionScout:
    """Looks every `discovery.every_s` seconds, once it was told (`start`) which partitions are read already."""

    def __init__(self, admin: AdminClient, config: Config, now: Callable[[], float]) -> None:
        self._admin = admin
        self._config = config
        self._now = now
        self._known: set[PartitionRef] = set()
        self._ids: dict[str, str] = {}
        # None: nobody has looked yet.
        self._at_first_look: set[PartitionRef] | None = None
        self._checks = TopicChecks(admin, now)
        self._news: SimpleQueue[Discovery] = SimpleQueue()
        self._stop = threading.Event()
        self._problems: list[str] = []

    def start(self, known: Iterable[PartitionRef], ids: Mapping[str, str], looked: bool) -> None:
        """Begin to look; `known` are the partitions that are read already, `ids` those of their topics.

        `looked`: this is not the first look, whoever took that.
        """
        self._known = {PartitionRef(ref.topic, ref.partition) for ref in known}
        self._ids = dict(ids)
        self._at_first_look = set() if self._known or looked else None
        context = copy_context()  # the log lines of the thread carry the process's name, too
        threading.Thread(target=context.run, args=(self._run,), name="scout", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def news(self) -> Discovery | None:
        """What was found since the last call, oldest first."""
        return None if self._news.empty() else self._news.get()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._news.put(self._look())
            self._stop.wait(self._config.discovery.every_s)

    def _look(self) -> Discovery:
        asked_at = self._now()
        try:
            return self.look(asked_at)
        except KafkaException as failure:
            text = f"the cluster does not answer: {failure.args[0].str()}"
        except Exception as failure:  # whatever it is, the thread must go on looking, and /readyz must say so
            text = f"looking for partitions failed: {failure!r}"
        log.warning("discovery_failed", error=text)
        return Discovery(asked_at, found=[], present={}, problems=[text], complete=False)

    def look(self, asked_at: float) -> Discovery:
        """Ask the cluster once. Raises KafkaException when it does not answer."""
        self._problems = []
        topics = self._topics()
        wanted = {name: meta for name, meta in topics.items() if self._config.topic_for(name) is not None}
        self._name_missing(topics)
        refusals = self._checks.refusals(wanted)
        self._problems += refusals.values()
        # Before the offsets are asked for. A topic that is made anew in between is found under its old id: the readers
        # hear of another one, tell nothing of it and set it aside, and the next look sees the new id.
        ids = topic_ids(self._admin, wanted)
        made_anew = self._forget_made_anew(ids)
        present = self._present({name: meta for name, meta in wanted.items() if name not in refusals})
        refs = {PartitionRef(name, partition) for name, partitions in present.items() for partition in partitions}
        # Kept, also where no start could be learnt: these partitions are of the first look at the next one, too.
        if self._at_first_look is None:
            self._at_first_look = set(refs)
        found = self._starts({p for p in refs - self._known if p.topic in ids and p.topic not in made_anew})
        self._known.update(PartitionRef(f.topic, f.partition) for f in found)
        unsure = self._unsure(wanted, refs, refusals)
        # What has no start yet is not read, and could carry events: the look must not move the horizon.
        complete = refs <= self._known and not unsure
        if complete:
            self._forget(self._known - refs)
        found = [msgspec.structs.replace(f, topic_id=ids[f.topic]) for f in found]
        return Discovery(asked_at, found, present, self._problems, ids, complete)

    def _topics(self) -> dict[str, Any]:
        """All topics of the cluster. Who was stopped in the midst of the question asks once more."""
        asked_at = self._now()
        try:
            topics: dict[str, Any] = self._admin.list_topics(timeout=ANSWER_WITHIN_S).topics
        except KafkaException:
            if self._now() - asked_at < STOOD_STILL_S:
                raise
            topics = self._admin.list_topics(timeout=ANSWER_WITHIN_S).topics
        return topics

    def _forget_made_anew(self, ids: Mapping[str, str]) -> list[str]:
        made_anew = [name for name, topic_id in ids.items() if self._ids.get(name, topic_id) != topic_id]
        for name in made_anew:
            log.warning("topic_made_anew", topic=name, old_id=self._ids[name], new_id=ids[name])
            self._problems.append(f"topic {name} was deleted and made anew: the new one is begun in a moment")
        self._ids.update(ids)
        self._forget({ref for ref in self._known if ref.topic in made_anew})
        return made_anew

    def _forget(self, refs: set[PartitionRef]) -> None:
        """Should they come (back), they are read from their beginning."""
        self._known -= refs
        if self._at_first_look is not None:
            self._at_first_look -= refs

    def _present(self, topics: Mapping[str, Any]) -> dict[str, list[int]]:
        for name, meta in topics.items():
            leaderless = [p.id for p in meta.partitions.values() if p.leader < 0]
            if leaderless:
                self._problems.append(f"topic {name}: no leader for partitions {leaderless}")
        return {name: sorted(meta.partitions) for name, meta in topics.items()}

    def _unsure(
        self, topics: Mapping[str, Any], refs: set[PartitionRef], refusals: Mapping[str, str]
    ) -> set[PartitionRef]:
        """Partitions that were known, and are missing although their topic is there: half an answer."""
        missing = {ref for ref in self._known - refs if ref.topic in topics}
        # Of a topic that is known to be compacted, partitions are missing for good; of one whose policy was never
        # learnt, only until it answers.
        return {ref for ref in missing if ref.topic not in refusals or not self._checks.knows(ref.topic)}

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
        moment_ms = int((self._now() - start.ago_s) * 1000)
        at_moment = self._ask(first, OffsetSpec.for_timestamp(moment_ms), IsolationLevel.READ_UNCOMMITTED)
        # No record since that moment. A consumer would take this answer for the end at the time of its assignment,
        # which is another one in each view: so both begin at the last stable offset of one moment.
        beyond_end = {PartitionRef(f.topic, f.partition) for f in at_moment if f.start_offset == OFFSET_END}
        found += [f for f in at_moment if f.start_offset != OFFSET_END]
        return found + self._ask(beyond_end, OffsetSpec.latest())

    def _ask(
        self, refs: set[PartitionRef], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> list[PartitionStart]:
        """Offsets of these partitions; those that get no answer are left for the next look."""
        if not refs:
            return []
        wanted = {TopicPartition(ref.topic, ref.partition): spec for ref in sorted(refs)}
        found = []
        for tp, future in self._admin.list_offsets(
            wanted, isolation_level=isolation, request_timeout=ANSWER_WITHIN_S
        ).items():
            try:
                offset = future.result().offset
            except KafkaException as failure:
                self._problems.append(f"partition {tp.topic}/{tp.partition}: {failure.args[0].str()}")
                continue
            # OFFSET_END (-1) answers a question for a moment; a broker that hangs gives -1001, and no error.
            if offset >= 0 or offset == OFFSET_END:
                found.append(PartitionStart(tp.topic, tp.partition, offset))
            else:
                self._problems.append(f"partition {tp.topic}/{tp.partition}: the broker did not answer in time")
        return found
