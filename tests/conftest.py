"""What tests of several folders share: the marker `broker` for all that start a Kafka, and its jars."""

from pathlib import Path

import pytest

from txninsightd.tools.stack.jars import ensure_jars

HERE = Path(__file__).parent
WITH_A_BROKER = (HERE / "broker", HERE / "monitoring" / "end_to_end", HERE / "monitoring" / "test_queries.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of those folders and files."""
    for item in items:
        if any(item.path.is_relative_to(ref) for ref in WITH_A_BROKER):
            item.add_marker("broker")


@pytest.fixture(scope="session")
def kafka_libs() -> Path:
    """The broker's jars, fetched once into the cache of the checkout."""
    return ensure_jars(HERE.parent / ".run" / "kafka")
