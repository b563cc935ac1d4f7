"""Real brokers for the tests below: one for the whole session, and own ones for tests that break theirs.

Tests take fresh topics (`topic`) and so never see each other's records. A test that stops, kills or fills a broker
takes one from `own_broker`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, OwnBroker, Start, fresh_name, new_broker
from txninsightd.tools.stack.broker import Broker, create_topics


@pytest.fixture(scope="session")
def broker(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that all tests share: do not stop it. It may stall without being fenced (test_client_watchdog.py)."""
    patient = {"broker.session.timeout.ms": "60000"}
    with new_broker(tmp_path_factory.mktemp("broker"), kafka_libs, properties=patient) as running:
        yield running


@pytest.fixture
def own_broker(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """Makes started brokers that are this test's own, and stops them after it."""
    made: list[Broker] = []

    def make(*, heap: str = "512m", properties: Mapping[str, str] | None = None) -> Broker:
        made.append(new_broker(tmp_path_factory.mktemp("own-broker"), kafka_libs, heap=heap, properties=properties))
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
        fresh = fresh_name(name)
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
