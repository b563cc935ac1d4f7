"""Finds the partitions that the configured topics name, and where both views shall begin to read them.

Only the first monitor runs this, on a thread of its own beside the work loop, since looking takes round trips. What was
there at the first look begins where `start` says: at the log's beginning, at the last stable offset (`latest`: one
moment, for both views), or at the first record after a moment. What appears later is read from its beginning.
topics.py says which topics must not be read.
"""

import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

import structlog
from confluent_kafka import OFFSET_END, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from txninsightd.config import Config
from txninsightd.ingest.topics import ANSWER_WITHIN_S, TopicChecks
from txninsightd.vocabulary import Discovery, Found, Place

log = structlog.get_logger()


class PartitionScout:
    """Looks every `discovery.every_s` seconds, once it was told (`start`) which partitions are read already."""

    def __init__(self, admin: AdminClient, config: Config, now: Callable[[], float]) -> None:
        self._admin = admin
        self._config = config
        self._now = now
        self._known: set[Place] = set()
        self._at_first_look: set[Place] | None = None
        self._checks = TopicChecks(admin, now)
        self._news: SimpleQueue[Discovery] = SimpleQueue()
        self._stop = threading.Event()
        self._problems: list[str] = []

    def start(self, known: Iterable[Place]) -> None:
        """Begin to look; `known` are the partitions that are read already."""
        self._known = set(known)
        self._at_first_look = set() if self._known else None
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
        return Discovery(asked_at=0.0, found=[], present={}, problems=[text])

    def look(self, asked_at: float) -> Discovery:
        """Ask the cluster once. Raises KafkaException when it does not answer."""
        self._problems = []
        topics = self._admin.list_topics(timeout=ANSWER_WITHIN_S).topics
        wanted = {name: meta for name, meta in topics.items() if self._config.topic_for(name) is not None}
        self._name_missing(topics)
        refusals = self._checks.refusals(wanted)
        made_anew = self._checks.made_anew(wanted)
        self._problems += refusals.values()
        for name in made_anew:
            self._problems.append(f"topic {name} was deleted and made anew: restart txninsightd to read the new one")
        present: dict[str, list[int]] = {}
        for name, meta in wanted.items():
            if name not in refusals:
                present[name] = sorted(meta.partitions)
                leaderless = [p.id for p in meta.partitions.values() if p.leader < 0]
                if leaderless:
                    self._problems.append(f"topic {name}: no leader for partitions {leaderless}")
        places = {Place(name, partition) for name, partitions in present.items() for partition in partitions}
        if self._at_first_look is None:
            self._at_first_look = places
        found = self._starts(places - self._known)
        self._known.update(Place(f.topic, f.partition) for f in found)
        complete = places <= self._known
        return Discovery(asked_at if complete else 0.0, found, present, self._problems, made_anew)

    def _name_missing(self, topics: dict[str, Any]) -> None:
        for entry in self._config.topics:
            if entry.name is not None and entry.name not in topics:
                self._problems.append(f"topic {entry.name} does not exist")
            elif entry.pattern is not None and not any(entry.matches(name) for name in topics):
                self._problems.append(f"no topic matches the pattern {entry.pattern}")

    def _starts(self, places: set[Place]) -> list[Found]:
        first = {place for place in places if self._at_first_look is not None and place in self._at_first_look}
        start = self._config.start
        found = self._ask(places - first, OffsetSpec.earliest())
        if start.kind == "earliest":
            return found + self._ask(first, OffsetSpec.earliest())
        if start.kind == "latest":
            return found + self._ask(first, OffsetSpec.latest())
        moment_ms = int((self._now() - start.ago_s) * 1000)
        at_moment = self._ask(first, OffsetSpec.for_timestamp(moment_ms), IsolationLevel.READ_UNCOMMITTED)
        beyond_end = {Place(f.topic, f.partition) for f in at_moment if f.start_offset == OFFSET_END}
        found += [f for f in at_moment if f.start_offset != OFFSET_END]
        return found + self._ask(beyond_end, OffsetSpec.latest())

    def _ask(
        self, places: set[Place], spec: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> list[Found]:
        """Offsets of these partitions; those that get no answer are left for the next look."""
        if not places:
            return []
        wanted = {TopicPartition(place.topic, place.partition): spec for place in sorted(places)}
        found = []
        for tp, future in self._admin.list_offsets(
            wanted, isolation_level=isolation, request_timeout=ANSWER_WITHIN_S
        ).items():
            try:
                offset = future.result().offset
            except KafkaException as failure:
                self._problems.append(f"partition {tp.topic}/{tp.partition}: {failure.args[0].str()}")
                continue
            if offset >= 0 or offset == OFFSET_END:
                found.append(Found(tp.topic, tp.partition, offset))
            else:
                self._problems.append(f"partition {tp.topic}/{tp.partition}: the broker did not answer in time")
        return found
