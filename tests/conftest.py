"""What tests of several folders share: the markers that say where and beside what a test may run, and Kafka's jars.

`make test` runs in two parts. In the first, two or more workers share the tests, file by file, since the tests of a
file often share what takes long to make; each worker has a broker of its own. In the second part, the files in ALONE
run one after the other: what they check is true of an amount of time, and depends on what runs beside
them.

Hypothesis decides the same on every machine, and gives no example a deadline: a busy machine is slow now and then.
"""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.harness.paths import RUN_DIR
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.jars import ensure_jars

pytest.register_assert_rewrite(
    "tests.harness.core.side_by_side", "tests.harness.core.by_hand", "tests.harness.core.orders"
)

settings.register_profile(
    "txninsightd",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
settings.load_profile("txninsightd")

HERE = Path(__file__).parent
WITH_A_BROKER = (HERE / "broker", HERE / "monitoring" / "end_to_end", HERE / "monitoring" / "test_queries.py")
ALONE = (
    HERE / "broker" / "test_blindness.py",
    HERE / "broker" / "test_broker_faults.py",
    HERE / "broker" / "test_campaign.py",
    HERE / "broker" / "test_heartbeats.py",
    HERE / "broker" / "test_scenarios.py",
    HERE / "monitoring" / "end_to_end",
    HERE / "systemd",
)
"""Thresholds, heartbeats and watchdogs of a few seconds, or what is true at one moment of a scenario."""


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach what tests start, and give each worker ports that no other one draws.

    A shell starts its background jobs with SIGINT ignored, which their children inherit. A port is not always in use
    while its test counts on it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker:
        ports = machine.TEST_PORTS
        machine.TEST_PORTS = range(ports.start + int(worker.removeprefix("gw")), ports.stop, count)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of those folders and files."""
    for item in items:
        if _is_in(WITH_A_BROKER, item):
            item.add_marker("broker")
        if _is_in(ALONE, item):
            item.add_marker("alone")


def _is_in(places: tuple[Path, ...], item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(place) for place in places)


@pytest.fixture(scope="session")
def kafka_libs() -> Path:
    """The broker's jars, fetched once into the cache of the checkout."""
    return ensure_jars(RUN_DIR / "kafka")
