"""The readers' consumers: librdkafka's settings, and which of them the operator cannot change.

Both views need precise positions: no auto-commit, no silent reset (`auto.offset.reset=error`: lost offsets must become
a gap, not a jump), and an end-of-partition event for each new end. The fetch settings keep a fast reader from waiting
(`fetch.queue.backoff.ms` is 1000 by default) and bound what is prefetched. A fetch of idle partitions is answered after
`fetch.wait.max.ms`, and lists them all: at 100 it costs a reader of 5,000 partitions 4.1% of a core, at librdkafka's
500 1.5%, at 1000 0.9%. Records arrive at once. But a partition that is assigned meanwhile waits for the next fetch; so
does the end of a partition behind a marker or aborted records, which librdkafka reports with the answer that follows.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer

from txninsightd.vocabulary import View

GROUP = "txninsightd"
"""No consumer joins this group. Positions are committed under it (and the view's name) for lag tools: they show how far
back a restart would begin."""

PREFETCH_BYTES = 67_108_864


def consumer_settings(common: Mapping[str, Any], view: View, prefetch_bytes: int = PREFETCH_BYTES) -> dict[str, Any]:
    """The defaults of readers, then `common` (the settings of all clients), then what only the daemon may decide."""
    return {
        "check.crcs": True,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 1000,
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": prefetch_bytes // 1024,
        "topic.metadata.refresh.interval.ms": 30_000,
        **common,
        "group.id": f"{common.get('group.id', GROUP)}-{view}",
        "isolation.level": "read_uncommitted" if view is View.MONITOR else "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
    }


def asking_settings(common: Mapping[str, Any], view: View) -> dict[str, Any]:
    """For a consumer that never reads, and only asks where a view's partitions end."""
    reading = consumer_settings(common, view)
    return {**common, **{name: reading[name] for name in ("group.id", "isolation.level", "enable.auto.commit")}}


def consumer_factory(settings: Mapping[str, Any], logger: logging.Logger) -> Callable[[], Consumer]:
    """Makes consumers with these settings."""
    return lambda: Consumer(dict(settings), logger=logger)
