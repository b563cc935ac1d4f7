"""The settings that every Kafka client of the daemon has, and which librdkafka is safe to use."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaException, libversion

from txninsightd import host_limits

OLDEST_LIBRDKAFKA = 0x020D02FF
"""2.13.2. Versions 2.2.0 to 2.13.0 moved the position past an end of partition: open records would look aborted."""

SOCKET_TIMEOUT_MS = 10_000
"""How long a connection that died silently (a broker's host without power) goes unnoticed. librdkafka's default of 60 s
would be as long a blindness."""

RECONNECT_WITHIN_MS = 2_000
"""By how much the daemon's blindness exceeds an outage at most. librdkafka's default of 10 s is five times that."""

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


class UnusableClient(Exception):
    """The installed Kafka client gives false verdicts, or refuses its settings."""


def require_safe_client() -> None:
    """Raises UnusableClient where the installed librdkafka is older than the fix that verdicts need."""
    version, number = libversion()
    if number < OLDEST_LIBRDKAFKA:
        raise UnusableClient(f"librdkafka {version} gives false verdicts: install confluent-kafka >= 2.13.2")


@contextmanager
def refusals_named() -> Iterator[None]:
    """Around the creation of clients: raises UnusableClient where a client refuses its settings.

    What the host refuses a client (threads, descriptors) goes through as it is.
    """
    try:
        yield
    except (KafkaException, ValueError, TypeError) as refusal:
        if host_limits.limit_behind(refusal) is not None:
            raise
        raise UnusableClient(f"correct kafka.client in the configuration: {refusal}") from refusal


def client_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    """What every client needs: the daemon's defaults, then the operator's properties, as plain values."""
    plain = {name: str(value) if isinstance(value, str) else value for name, value in client.items()}
    return {"socket.timeout.ms": SOCKET_TIMEOUT_MS, "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS, **plain}


def admin_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the properties that only a consumer has."""
    return {name: value for name, value in client_settings(client).items() if name not in CONSUMER_ONLY}
