"""Scenarios: their form, their defaults, and their validation.

A scenario is a YAML file with the input (topics, types, flows, failures, noise). Beside each failure stands what the
daemon must report for its transactions, and why. `scenario.schema.json` describes the form in full. A validation error
names file, line and key, and says what was expected there.

`daemon_config` returns the sections of the daemon's config under which the scenario's truth holds.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml
from jsonschema import Draft202012Validator

from txninsightd.tools.simulation.delays import Delay, constant, delay_from
from txninsightd.tools.simulation.validation_errors import BadScenario as BadScenario
from txninsightd.tools.simulation.validation_errors import KeyPath, describe_error, error_line, lines_of

Per = Literal["transaction", "event", "close", "none"]


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The expected result of a transaction. Only the given keys count. `reason` explains it in words."""

    reason: str
    state: str | msgspec.UnsetType = msgspec.UNSET
    stuck: str | msgspec.UnsetType | None = msgspec.UNSET
    causes: list[str] | msgspec.UnsetType = msgspec.UNSET
    attempts: int | msgspec.UnsetType = msgspec.UNSET
    outcome: str | msgspec.UnsetType | None = msgspec.UNSET
    partial: bool | msgspec.UnsetType = msgspec.UNSET
    anomalies: list[str] | msgspec.UnsetType = msgspec.UNSET
    late_events: int | msgspec.UnsetType = msgspec.UNSET
    has_duration: bool | msgspec.UnsetType = msgspec.UNSET


class _Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """A failure to inject into a transaction. `after_events`: where half-way is; None draws it at random each time."""

    expected: list[Expected]


class Stuck(_Failure, frozen=True, tag="stuck"):
    """Stops after some of its events; goes on after `wakes_after_s`, if given."""

    after_events: int | None = None
    wakes_after_s: Delay | None = None


class Slow(_Failure, frozen=True, tag="slow"):
    """Repeats its steps, an event every `pace_s`, until `lasts_s` has passed; then closes, or not."""

    lasts_s: Delay
    pace_s: Delay
    closes: bool = True


class Abort(_Failure, frozen=True, tag="abort"):
    """The whole Kafka transaction is aborted, at its end or half-way, then retried `retries` times."""

    at: Literal["end", "half"] = "end"
    after_events: int | None = None
    retries: int = 0
    timestamps: Literal["same", "new"] = "new"
    retry_after_s: Delay = constant(0.5)
    gives_up: bool = False


class CloseAbort(_Failure, frozen=True, tag="close_abort"):
    """Only the Kafka transaction of the close is aborted, then retried `retries` times."""

    retries: int = 0
    timestamps: Literal["same", "new"] = "new"
    retry_after_s: Delay = constant(0.5)


class EventAbort(_Failure, frozen=True, tag="event_abort"):
    """The Kafka transaction of one event is aborted, then retried at once or never."""

    of: Literal["open", "step_open", "step_done"]
    retried: bool
    timestamps: Literal["same", "new"] = "new"


class Crash(_Failure, frozen=True, tag="crash"):
    """Its producer dies with an open Kafka transaction, half-way or after writing the close.

    Another producer may retry after `retry_after_s` (half-way only).
    """

    at: Literal["half", "close"]
    after_events: int | None = None
    retry_after_s: Delay | None = None


class Duplicate(_Failure, frozen=True, tag="duplicate"):
    """One event is written twice."""

    of: Literal["open", "step_open", "step_done", "close"]


class Missing(_Failure, frozen=True, tag="missing"):
    """One event is never written; or neither the open nor the close (`ends`)."""

    of: Literal["open", "step_open", "step_done", "ends"]


class OutOfOrder(_Failure, frozen=True, tag="out_of_order"):
    """Another producer writes the last step's done `by_s` after the close, with an earlier timestamp."""

    by_s: Delay


class EventAfterClose(_Failure, frozen=True, tag="event_after_close"):
    """The last step's done happens after the close, and is written in the close's Kafka transaction."""


class Skew(_Failure, frozen=True, tag="skew"):
    """The clock of one event's machine is ahead (`by_s` > 0) or behind (< 0)."""

    of: Literal["open", "step_open", "step_done", "close"]
    by_s: float


class LateEvent(_Failure, frozen=True, tag="late_event"):
    """The last step's done is written again, `after_s` after the commit of the close."""

    after_s: Delay


Failure = (
    Stuck
    | Slow
    | Abort
    | CloseAbort
    | EventAbort
    | Crash
    | Duplicate
    | Missing
    | OutOfOrder
    | EventAfterClose
    | Skew
    | LateEvent
)


class Rules(msgspec.Struct, frozen=True):
    """The daemon's thresholds under which the truth holds, in seconds."""

    idle_after_s: float
    overdue_after_s: float
    commit_pending_after_s: float
    settle_lateness_s: float
    settle_max_s: float
    retry_grace_s: float
    future_tolerance_s: float


class TypeThresholds(msgspec.Struct, frozen=True):
    """Overrides of one type."""

    idle_after_s: float | None = None
    overdue_after_s: float | None = None
    commit_pending_after_s: float | None = None


class Topic(msgspec.Struct, frozen=True):
    """A topic. `mapping` has the form of the daemon's config and decides what values look like."""

    partitions: int
    mapping: dict[str, Any] = {}
    ts_format: Literal["epoch", "rfc3339"] = "epoch"


class Outliers(msgspec.Struct, frozen=True):
    """With this probability a step lasts `factor` times as long."""

    probability: float
    factor: float


class Step(msgspec.Struct, frozen=True):
    """One step: the pause before it, and how long it lasts. `topic` None: the type's topic."""

    name: str
    pause_s: Delay
    lasts_s: Delay
    topic: str | None = None
    outliers: Outliers | None = None


class TxnType(msgspec.Struct, frozen=True):
    """One type of business transaction. `statuses` are values of the close's status with their weights."""

    topic: str
    steps: list[Step]
    close_after_s: Delay
    open_topic: str | None = None
    close_topic: str | None = None
    statuses: dict[str, float] = {}
    outliers: Outliers | None = None
    thresholds: TypeThresholds = TypeThresholds()


class Arrivals(msgspec.Struct, frozen=True):
    """When transactions of a flow begin: at a mean rate, within a window, at most `count`."""

    rate_per_s: float
    from_s: float = 0.0
    until_s: float | None = None
    count: int | None = None


class Kafka(msgspec.Struct, frozen=True):
    """How a flow is written: how many producers, and what one Kafka transaction holds (`none`: plain producers)."""

    per: Per
    producers: int
    concurrent: int | None = None
    commit_after_s: Delay = Delay("uniform", 0.005, 0.02)


class Flow(msgspec.Struct, frozen=True):
    """A stream of transactions. `mix` is a deck of cards: the number of healthy ones and of each failure."""

    types: dict[str, float]
    arrivals: Arrivals
    kafka: Kafka
    mix: dict[str, int]


class Noise(msgspec.Struct, frozen=True):
    """Records that are not our events, from a plain producer, in turn."""

    topic: str
    records: list[str]
    arrivals: Arrivals


class Healthy(msgspec.Struct, frozen=True):
    """The expected results of transactions without a failure."""

    expected: list[Expected]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A whole scenario. Times are in seconds; `epoch` is the virtual time of its beginning."""

    name: str
    description: str
    rules: Rules
    topics: dict[str, Topic]
    types: dict[str, TxnType]
    flows: dict[str, Flow]
    healthy: Healthy
    failures: dict[str, Failure] = {}
    noise: dict[str, Noise] = {}
    seed: int = 1
    epoch: float = 1_750_000_000.0
    duration_s: float | None = None
    transactions: int | None = None
    colocated: bool = False
    transaction_timeout_s: float = 60.0
    timeout_check_s: float = 10.0
    observe_after_s: float = 15.0
    margin_s: float = 2.0
    value_bytes: int = 1_048_576

    def expected_of(self, failure: str | None) -> list[Expected]:
        """The expected results of a transaction with this failure; any of them may occur."""
        return (self.healthy if failure is None else self.failures[failure]).expected

    def thresholds(self, txn_type: str) -> tuple[float, float, float]:
        """A type's idle_after_s, overdue_after_s and commit_pending_after_s."""
        own = self.types[txn_type].thresholds
        return (
            _first(own.idle_after_s, self.rules.idle_after_s),
            _first(own.overdue_after_s, self.rules.overdue_after_s),
            _first(own.commit_pending_after_s, self.rules.commit_pending_after_s),
        )


def _first(value: float | None, default: float) -> float:
    return default if value is None else value


def daemon_config(scenario: Scenario) -> dict[str, Any]:
    """The sections of the daemon's config that the scenario decides."""
    rules = scenario.rules
    own = {name: msgspec.to_builtins(t.thresholds) for name, t in scenario.types.items()}
    return {
        "topics": [
            {"name": name, "mapping": topic.mapping} if topic.mapping else {"name": name}
            for name, topic in scenario.topics.items()
        ],
        "events": {"colocated": scenario.colocated, "future_tolerance_s": rules.future_tolerance_s},
        "state": {
            "settle_lateness_s": rules.settle_lateness_s,
            "settle_max_s": rules.settle_max_s,
            "retry_grace_s": rules.retry_grace_s,
        },
        "stuck": {
            "idle_after_s": rules.idle_after_s,
            "overdue_after_s": rules.overdue_after_s,
            "commit_pending_after_s": rules.commit_pending_after_s,
        },
        "transaction_types": {
            name: {key: value for key, value in keys.items() if value is not None}
            for name, keys in own.items()
            if any(value is not None for value in keys.values())
        },
        "limits": {"value_bytes": scenario.value_bytes},
        "discovery": {"every_s": 1},  # idleness is known only up to the last discovery of partitions
    }


# --- Reading ----------------------------------------------------------------------------------------------------------


def load_scenario(path: Path) -> Scenario:
    """Read and validate a scenario file. Raises BadScenario, which names each error by file, line and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadScenario([f"{path}: cannot be read: {error.strerror}; expected a scenario file"]) from None
    except UnicodeDecodeError as error:
        raise BadScenario([f"{path}: expected a scenario file, found no UTF-8 text (byte {error.start})"]) from None
    return parse_scenario(text, str(path))


def parse_scenario(text: str, name: str) -> Scenario:
    """Validate a scenario's text; errors mention `name` as its file. Raises BadScenario."""
    try:
        lines, repeated = lines_of(text, name)
        document = yaml.safe_load(text)
    except RecursionError:
        raise BadScenario([f"{name}:1: expected YAML, found an anchor inside itself, or nesting without end"]) from None
    problems = [error_line(name, lines, path, "expected once, found again") for path in repeated]
    errors = sorted(_validator().iter_errors(document), key=lambda e: e.json_path)
    problems += [error_line(name, lines, path, words) for error in errors for path, words in describe_error(error)]
    if problems:
        raise BadScenario(problems)
    scenario = msgspec.convert(document, Scenario, dec_hook=_custom, strict=True)
    contradictions = [error_line(name, lines, path, words) for path, words in _contradictions(scenario)]
    if contradictions:
        raise BadScenario(contradictions)
    return scenario


def _custom(wanted: type, value: Any) -> Any:
    if wanted is Delay:
        return delay_from(value)
    raise NotImplementedError(wanted)


def _validator() -> Draft202012Validator:
    schema = files("txninsightd.tools").joinpath("scenario.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


# --- Checks beyond the schema -----------------------------------------------------------------------------------------

FITS: dict[type, tuple[Per, ...]] = {
    Slow: ("event", "none"),
    Abort: ("transaction",),
    CloseAbort: ("close", "event"),
    EventAbort: ("event",),
    Crash: ("transaction", "close", "event"),
    OutOfOrder: ("transaction", "close", "event"),
    EventAfterClose: ("transaction", "close", "event"),
}
"""The `kafka.per` values that a failure needs; failures that are not listed accept any."""


def _contradictions(scenario: Scenario) -> Iterator[tuple[KeyPath, str]]:
    if scenario.duration_s is None and scenario.transactions is None:
        yield (), "expected the key 'duration_s' or 'transactions', or both: else it would never end"
    for name, txn_type in scenario.types.items():
        yield from _unknown_topics(scenario, name, txn_type)
    for name, flow in scenario.flows.items():
        yield from _flow_faults(scenario, ("flows", name), flow)
    for name, noise in scenario.noise.items():
        if noise.topic not in scenario.topics:
            yield ("noise", name, "topic"), _one_of("topics", scenario.topics)
    for name, failure in scenario.failures.items():
        if isinstance(failure, OutOfOrder) and failure.by_s.longest > scenario.rules.settle_lateness_s - 1.0:
            yield ("failures", name, "by_s"), "expected at most settle_lateness_s - 1: later than that it may be late"


def _one_of(section: str, known: dict[str, Any]) -> str:
    return f"expected a name from '{section}': {', '.join(known)}"


def _unknown_topics(scenario: Scenario, name: str, txn_type: TxnType) -> Iterator[tuple[KeyPath, str]]:
    for key in ("topic", "open_topic", "close_topic"):
        topic = getattr(txn_type, key)
        if topic is not None and topic not in scenario.topics:
            yield ("types", name, key), _one_of("topics", scenario.topics)
    for i, step in enumerate(txn_type.steps):
        if step.topic is not None and step.topic not in scenario.topics:
            yield ("types", name, "steps", i, "topic"), _one_of("topics", scenario.topics)


def _flow_faults(scenario: Scenario, path: KeyPath, flow: Flow) -> Iterator[tuple[KeyPath, str]]:
    for name in flow.types:
        if name not in scenario.types:
            yield (*path, "types", name), _one_of("types", scenario.types)
    for name in flow.mix:
        if name == "healthy":
            continue
        failure = scenario.failures.get(name)
        if failure is None:
            # The slice drops its leading "expected ".
            yield (*path, "mix", name), "expected 'healthy' or " + _one_of("failures", scenario.failures)[9:]
        elif flow.kafka.per not in FITS.get(type(failure), (flow.kafka.per,)):
            fits = " or ".join(FITS[type(failure)])
            yield (*path, "mix", name), f"expected a failure that goes with per: {flow.kafka.per}; this needs {fits}"
        elif isinstance(failure, Duplicate) and failure.of == "close" and flow.kafka.per == "none":
            yield (*path, "mix", name), "expected a transactional flow: a plain second close may count or be late"
    if not sum(flow.mix.values()):
        yield (*path, "mix"), "expected at least one card, as in 'healthy: 1'"
    if flow.kafka.concurrent is not None and flow.kafka.per != "none":
        yield (*path, "kafka", "concurrent"), "expected with per: none only: else each transaction needs its producer"
