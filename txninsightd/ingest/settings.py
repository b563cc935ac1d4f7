"""librdkafka's settings for the readers, and which of them are the daemon's own.

Both views need to be told where they are, precisely: no auto-commit, no silent reset (`auto.offset.reset=error`: what
is gone must become a gap, not a jump), and an end-of-partition event for each new end. The fetch settings keep a fast
reader from waiting (`fetch.queue.backoff.ms` is 1000 by default) and bound what is prefetched.
"""

from collections.abc import Mapping
from typing import Any

from confluent_kafka import libversion

from txninsightd.vocabulary import View

OLDEST_LIBRDKAFKA = 0x020D02FF
"""2.13.2. Versions 2.2.0 to 2.13.0 moved the position past an end of partition: what is open would look aborted."""


class UnusableClient(Exception):
    """The installed Kafka client gives false verdicts, or refuses its settings."""


def require_safe_client() -> None:
    """Raises UnusableClient where the installed librdkafka is older than the fix that verdicts rest on."""
    version, number = libversion()
    if number < OLDEST_LIBRDKAFKA:
        raise UnusableClient(f"librdkafka {version} gives false verdicts: install confluent-kafka >= 2.13.2")


SOCKET_TIMEOUT_MS = 10_000
"""How long a connection that died without a word (a broker's host without power) goes unnoticed; librdkafka's own 60 s
would be as long a blindness."""

RECONNECT_WITHIN_MS = 2_000
"""How much longer than an outage we are blind at the most; librdkafka's own 10 s would be five times that."""

GROUP = "txninsightd"
"""Nobody joins it: under it, and the view's name, lag tools are told how far a restart would not go back."""


def client_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    """What all clients need: our defaults, and over it the operator's properties, as plain values."""
    plain = {name: str(value) if isinstance(value, str) else value for name, value in client.items()}
    return {"socket.timeout.ms": SOCKET_TIMEOUT_MS, "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS, **plain}


def admin_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    """The operator's properties without those that only a consumer knows."""
    return {name: value for name, value in client_settings(client).items() if name not in CONSUMER_ONLY}


CONSUMER_ONLY = frozenset(
    {
        "check.crcs",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.id",
        "group.instance.id",
        "heartbeat.interval.ms",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "session.timeout.ms",
    }
)


PREFETCH_BYTES = 67_108_864


def consumer_settings(client: Mapping[str, Any], view: View, prefetch_bytes: int = PREFETCH_BYTES) -> dict[str, Any]:
    """A reader's settings: our defaults, the operator's properties over them, and what only we may decide last."""
    return {
        "check.crcs": True,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": prefetch_bytes // 1024,
        "topic.metadata.refresh.interval.ms": 30_000,
        **client_settings(client),
        "group.id": f"{client.get('group.id', GROUP)}-{view}",
        "isolation.level": "read_uncommitted" if view is View.MONITOR else "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
    }
