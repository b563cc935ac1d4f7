"""The config as one frozen object: each section owns its keys, their units and their defaults.

A key that is missing in the file has the default written here; `conf/txninsight.yaml` lists them all, and a test
keeps the two equal. The types and bounds of keys are in `config.schema.json` only, so these structs check nothing:
`load_config` builds them, or a test does.

Secrets are of type `Secret`: a library that takes a `str` takes it, but its `repr` is `'***'`, and msgspec's encoders
refuse it, so that no dump of a config contains one by accident. `Config.redacted` is the form to log. The types that
the core needs too, `Mapping`, `Thresholds` and `Objective`, are in the vocabulary.
"""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from txninsightd.redaction import REDACTED, without_marked
from txninsightd.vocabulary import Kind, Mapping, Objective, Thresholds

SECRET_WORDS = ("password", "passphrase", "secret", "key", "token", "credential", "oauthbearer.config", "jaas")
"""A librdkafka property with one of these in its name is never shown."""

SHOWN_TEXTS = frozenset(
    {
        "bootstrap.servers",
        "broker.address.family",
        "client.dns.lookup",
        "client.id",
        "client.rack",
        "debug",
        "group.id",
        "group.instance.id",
        "metadata.broker.list",
        "sasl.kerberos.principal",
        "sasl.kerberos.service.name",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.cipher.suites",
        "ssl.crl.location",
        "ssl.endpoint.identification.algorithm",
    }
)
"""The librdkafka properties whose texts are shown. Any other text may be a secret, also that of a mistyped property."""

NOT_OF_THE_FILE = frozenset({"filled_in", "hidden"})
"""Fields that say where values came from, and are no keys of the file."""

CONTROL_SOCKET = "control.sock"
"""The socket's name in the state directory."""

LONGEST_SOCKET_PATH = 107
"""Bytes that Linux takes for the path of a socket."""

ClientValue = str | int | float | bool


class Secret(str):
    """A value that must not be shown: it came from the environment or a file, or its key says so."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(REDACTED)


def names_secret(client_property: str) -> bool:
    """Tell whether the value of a librdkafka property must not be shown."""
    return any(word in client_property.lower() for word in SECRET_WORDS)


class Topic(msgspec.Struct, frozen=True):
    """One topic by name, or all topics with a whole name that a pattern matches and no pattern of `exclude` matches.

    `mapping` None: the records are events in the project's own form. Names and patterns appear in labels and messages,
    so they are plain text; `hidden` (a part was substituted) keeps the whole entry out of `repr` and `redacted`.
    """

    name: str | None = None
    pattern: str | None = None
    exclude: tuple[str, ...] = ()
    mapping: Mapping | None = None
    format: Literal["json"] = "json"
    hidden: bool = False

    def __repr__(self) -> str:
        return f"Topic({REDACTED})" if self.hidden else super().__repr__()

    def matches(self, topic: str) -> bool:
        """Tell whether this entry covers a topic. A pattern never covers an internal one (`__...`)."""
        if self.pattern is None:
            return topic == self.name
        if topic.startswith("__") or re.fullmatch(self.pattern, topic) is None:
            return False
        return not any(re.fullmatch(pattern, topic) for pattern in self.exclude)


class Start(msgspec.Struct, frozen=True):
    """Where to begin in a partition that was never read: at its earliest record, its latest, or `ago_s` seconds ago.

    `hidden`: it was substituted.
    """

    kind: Literal["earliest", "latest", "ago"] = "earliest"
    ago_s: float = 0
    hidden: bool = False

    def __repr__(self) -> str:
        return f"Start({REDACTED})" if self.hidden else super().__repr__()


class KafkaConfig(msgspec.Struct, frozen=True):
    """librdkafka properties, passed through to every client."""

    client: dict[str, ClientValue] = msgspec.field(default_factory=lambda: {"bootstrap.servers": "127.0.0.1:9092"})

    def __repr__(self) -> str:
        return f"KafkaConfig(client={self.redacted()!r})"

    def redacted(self) -> dict[str, ClientValue]:
        """Give the properties with `***` in the place of what must not be shown."""
        return {
            name: REDACTED if self._is_hidden(name) else without_marked(value) if isinstance(value, str) else value
            for name, value in self.client.items()
        }

    def secrets(self) -> list[str]:
        """The values that must not be shown."""
        return [str(value) for name, value in self.client.items() if self._is_hidden(name)]

    def _is_hidden(self, name: str) -> bool:
        value = self.client[name]
        may_be_secret = isinstance(value, str) and name not in SHOWN_TEXTS
        return may_be_secret or isinstance(value, Secret) or names_secret(name)


class ReadersConfig(msgspec.Struct, frozen=True):
    """How many processes read each view."""

    monitors: int = 1
    validators: int = 1


class HttpConfig(msgspec.Struct, frozen=True):
    """Where the API and the metrics are served: `HOST:PORT`, `[IPV6]:PORT`; port 0 is any free port.

    `allowed_hosts`: names in the URLs of clients, beside IP addresses, localhost and the machine's own names.
    """

    listen: str = "127.0.0.1:9840"
    allowed_hosts: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


class EventsConfig(msgspec.Struct, frozen=True):
    """What may be assumed of events."""

    colocated: bool = False
    future_tolerance_s: float = 60


class StateConfig(msgspec.Struct, frozen=True):
    """Where state is kept over restarts, when a transaction settles and how long it is kept."""

    directory: str = "/var/lib/txninsightd"
    checkpoint_every_s: float = 10
    linger_s: float = 900
    settle_lateness_s: float = 60
    settle_max_s: float = 600
    retry_grace_s: float = 60
    remember_s: float = 86400

    @property
    def control_socket(self) -> Path:
        """Where the daemon accepts commands of the operator."""
        return Path(self.directory, CONTROL_SOCKET)


class TypeConfig(Thresholds, frozen=True):
    """The thresholds and the objective of one transaction type."""

    objective: Objective = Objective()

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds alone."""
        return Thresholds(self.idle_after_s, self.overdue_after_s, self.commit_pending_after_s)


class MetricsConfig(msgspec.Struct, frozen=True):
    """The upper bounds of the duration histograms' buckets, ascending, without +Inf."""

    duration_buckets_s: tuple[float, ...] = (
        *(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        *(60, 120, 300, 600, 1800, 3600, 14400, 86400),
    )


class LimitsConfig(msgspec.Struct, frozen=True):
    """Bounds on what is held in memory."""

    queue_batches: int = 64
    batch_records: int = 10_000
    value_bytes: int = 1_048_576
    label_values: int = 200
    lingering: int = 100_000
    remembered_ids: int = 5_000_000
    open_transactions: int = 1_000_000
    events_per_transaction: int = 10_000
    kept_events: int = 10_000_000
    undecided_records: int = 2_000_000
    prefetch_bytes: int = 67_108_864


class SuperviseConfig(msgspec.Struct, frozen=True):
    """How exited processes are restarted, when the daemon gives up, and how long an orderly stop may take."""

    backoff_initial_s: float = 0.5
    backoff_max_s: float = 30
    give_up_after: int = 8
    give_up_window_s: float = 300
    stop_timeout_s: float = 20
    heartbeat_timeout_s: float = 10


class LogConfig(msgspec.Struct, frozen=True):
    """What is logged and how; `auto` is `console` on a terminal, else `json`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class DiscoveryConfig(msgspec.Struct, frozen=True):
    """How often new topics and partitions are looked for."""

    every_s: float = 2


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All that an operator can set. Each of `transaction_types` is complete: `stuck`, `objective`, and its own keys.

    `filled_in`: what stood for the `${...}` of the file, each value once.
    """

    kafka: KafkaConfig = KafkaConfig()
    topics: tuple[Topic, ...] = (Topic(name="business-events"),)
    start: Start = Start()
    readers: ReadersConfig = ReadersConfig()
    http: HttpConfig = HttpConfig()
    events: EventsConfig = EventsConfig()
    state: StateConfig = StateConfig()
    stuck: Thresholds = Thresholds()
    objective: Objective = Objective()
    transaction_types: dict[str, TypeConfig] = {}
    metrics: MetricsConfig = MetricsConfig()
    limits: LimitsConfig = LimitsConfig()
    supervise: SuperviseConfig = SuperviseConfig()
    log: LogConfig = LogConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    filled_in: tuple[str, ...] = ()

    def thresholds(self, txn_type: str | None) -> Thresholds:
        """Give the thresholds of a transaction type; those of `stuck` for a type without its own, and for None."""
        own = self.transaction_types.get(txn_type) if txn_type is not None else None
        return self.stuck if own is None else own.thresholds

    def topic_for(self, topic: str) -> Topic | None:
        """Give the entry that covers a topic: one that names it, else the first pattern, else None."""
        # min() keeps the first of equal ones.
        return min((entry for entry in self.topics if entry.matches(topic)), key=_patterns_last, default=None)

    def redacted(self) -> dict[str, Any]:
        """Give the whole config as plain objects for the log, with `***` in the place of secrets."""
        plain: dict[str, Any] = _without_secrets(self)
        return plain

    def secrets(self) -> list[str]:
        """Give the values that no text may show (redaction.py)."""
        return [*self.filled_in, *self.kafka.secrets()]


def _patterns_last(topic: Topic) -> bool:
    return topic.pattern is not None


def _without_secrets(value: Any) -> Any:
    if isinstance(value, KafkaConfig):
        return {"client": value.redacted()}
    if isinstance(value, Topic | Start) and value.hidden:
        return REDACTED
    if isinstance(value, msgspec.Struct):
        shown = [name for name in value.__struct_fields__ if name not in NOT_OF_THE_FILE]
        return {name: _without_secrets(getattr(value, name)) for name in shown}
    if isinstance(value, Kind):
        return value.name.lower()
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_without_secrets(item) for item in value]
    if isinstance(value, Secret):
        return REDACTED
    return without_marked(value) if isinstance(value, str) else value
