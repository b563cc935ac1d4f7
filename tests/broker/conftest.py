"""Real brokers for the tests below: one for the whole session, and own ones for tests that break theirs.

Tests take fresh topics (`topic`) and so never see each other's records; whoever stops, kills or fills a broker takes
one from `own_broker`.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.harness.daemon import Daemon
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, create_topics

ROOT = Path(__file__).parents[2]
_serial = itertools.count()


class OwnBroker(Protocol):
    """Starts a broker for one test; `properties` are added to its server.properties."""

    def __call__(self, *, heap: str = "512m", properties: Mapping[str, str] | None = None) -> Broker: ...


class MakeTopic(Protocol):
    """Creates a topic with a fresh name on the session's broker (or on `on`) and returns the name."""

    def __call__(
        self, partitions: int = 1, *, name: str = "t", config: Mapping[str, str] | None = None, on: Broker | None = None
    ) -> str: ...


class Start(Protocol):
    """Starts a daemon on a topic; `sections` of its config come over the module's usual ones."""

    def __call__(self, topic: str, **sections: Any) -> Daemon: ...


@pytest.fixture(scope="session")
def broker(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that all tests share: do not stop it. It may stall without being fenced (test_lifeline.py)."""
    patient = {"broker.session.timeout.ms": "60000"}
    with _new_broker(tmp_path_factory.mktemp("broker"), kafka_libs, properties=patient) as running:
        yield running


@pytest.fixture
def own_broker(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """Makes started brokers that are this test's own, and stops them after it."""
    made: list[Broker] = []

    def make(*, heap: str = "512m", properties: Mapping[str, str] | None = None) -> Broker:
        made.append(_new_broker(tmp_path_factory.mktemp("own-broker"), kafka_libs, heap, properties))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> MakeTopic:
    """Makes topics with fresh names: `topic(3)` has three partitions."""

    def make(
        partitions: int = 1, *, name: str = "t", config: Mapping[str, str] | None = None, on: Broker | None = None
    ) -> str:
        where: Broker = on or request.getfixturevalue("broker")
        fresh = f"{name}-{os.getpid()}-{next(_serial)}"
        create_topics(where.bootstrap, {fresh: partitions}, config)
        return fresh

    return make


@pytest.fixture
def start(request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts daemons that read one topic, with the module's SECTIONS of the config and more; all end after the test."""
    usual: dict[str, Any] = request.module.SECTIONS
    started: list[Daemon] = []

    def make(topic: str, **sections: Any) -> Daemon:
        state = {**usual["state"], **sections.pop("state", {})}
        sections = {"topics": [topic], **usual, **sections, "state": state}
        started.append(Daemon(tmp_path_factory.mktemp("daemon"), broker.bootstrap, sections))
        return started[-1].start()

    yield make
    for daemon in started:
        daemon.end()


def _new_broker(data_dir: Path, libs: Path, heap: str = "512m", properties: Mapping[str, str] | None = None) -> Broker:
    port, controller_port = machine.free_ports(2)
    return Broker(data_dir, libs, port, controller_port, heap=heap, properties=properties)
