"""Prepares the cluster: reads client properties, checks that a broker answers and that the topics exist.

All checks run before the first record is published. A failed check raises `Refusal` with a text that says what to do.
Topics are created only on request.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from txninsightd.redaction import Redaction

ANSWER_TIMEOUT_S = 15.0

T = TypeVar("T")


class Refusal(Exception):
    """The replay cannot start or continue; the text says why and what to do."""


def client_properties(bootstrap: str, path: Path | None) -> dict[str, str]:
    """Read librdkafka properties from a file of `key=value` lines (# is a comment) and add the bootstrap servers."""
    properties = _read_properties(path) if path else {}
    if "transactional.id" in properties:
        raise Refusal(f"{path}: each producer has its own transactional.id: see --transactional-id-prefix")
    return properties | {"bootstrap.servers": bootstrap}


def _read_properties(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: cannot be read: {error}") from error
    properties = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not name.strip():
            raise Refusal(f"{path}, line {number}: expected a librdkafka property as key=value")
        properties[name.strip()] = value.strip()
    return properties


class Cluster:
    """Checks and prepares a cluster."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._bootstrap = properties["bootstrap.servers"]
        self._last_error = ""
        self._admin = self._client(properties)

    def prepare(
        self, topics: Mapping[str, int], *, create: Mapping[str, int] | None, config: Mapping[str, str]
    ) -> list[str]:
        """Make sure that all topics and named partitions exist; returns the names of created topics.

        `topics` maps each topic to the highest partition that the file names (-1: none). `create` maps it to its number
        of partitions at creation (-1: the broker's default); with None no topic is created. Raises Refusal.
        """
        there = self._topics()
        missing = sorted(topics.keys() - there.keys())
        if missing and create is None:
            raise Refusal(
                f"the cluster at {self._bootstrap} has no topic {', '.join(missing)}: create the missing topics, "
                "or let the replayer do it with --create-topics [--partitions N]"
            )
        for name, highest in topics.items():
            # A missing topic passes: it will be created.
            if highest >= there.get(name, highest + 1):
                raise Refusal(
                    f"the file names partition {highest} of topic {name}, which has {there[name]}: "
                    "add partitions to the topic, or replay into another cluster"
                )
        if create is not None:
            # Build the whole list first: a refusal must come before any creation.
            self._create([_new_topic(name, topics[name], create[name], config) for name in missing])
        return missing

    def _client(self, properties: Mapping[str, str]) -> AdminClient:
        settings: dict[str, Any] = {"log_level": 2, **properties, "error_cb": self._note_error}
        try:
            return AdminClient(settings)
        except (KafkaException, ValueError, TypeError) as error:
            raise refused_properties("--bootstrap or --client-config", error, properties) from error

    def _note_error(self, error: KafkaError) -> None:
        self._last_error = error.str()

    def _topics(self) -> dict[str, int]:
        """All topics with their partition counts."""
        try:
            topics = self._admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics
            return {name: len(topic.partitions) for name, topic in topics.items()}
        except KafkaException as error:
            # Delivers the cause to `_note_error`; it is more specific than the time-out.
            self._admin.poll(0)
            raise Refusal(
                f"no broker answers at {self._bootstrap} within {ANSWER_TIMEOUT_S:.0f} s "
                f"({self._last_error or reason_of(error)}): check --bootstrap, that the broker runs, "
                "and the security properties in --client-config"
            ) from error

    def _create(self, topics: list[NewTopic]) -> None:
        if not topics:
            return
        for name, created in self._admin.create_topics(topics, operation_timeout=ANSWER_TIMEOUT_S).items():
            _result(created.result, f"topic {name} cannot be created")


def _new_topic(name: str, highest: int, partitions: int, config: Mapping[str, str]) -> NewTopic:
    # -1 is the broker's default, which is unknown here.
    if -1 < partitions <= highest:
        raise Refusal(
            f"the file names partition {highest} of topic {name}, which would be created with {partitions}: "
            "give more with --partitions"
        )
    return NewTopic(name, num_partitions=partitions, config=dict(config))


def _result(call: Callable[[], T], what: str) -> T:
    try:
        return call()
    except KafkaException as error:
        raise Refusal(f"{what}: {reason_of(error)}") from error


def refused_properties(options: str, error: Exception, properties: Mapping[str, str]) -> Refusal:
    """A client refuses its properties. librdkafka quotes a value, which may be a secret behind the wrong name."""
    values = [value for name, value in properties.items() if name != "bootstrap.servers"]
    return Refusal(f"{options}: {Redaction(values).clean(reason_of(error))}")


def reason_of(error: Exception) -> str:
    """The text of a Kafka client's exception, without its wrapping."""
    inner = error.args[0] if error.args else error
    return inner.str() if isinstance(inner, KafkaError) else str(inner)
