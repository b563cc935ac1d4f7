"""The marker `broker` for all that is here, and Kafka's jars."""

from pathlib import Path

import pytest

from txninsightd.tools.stack.jars import ensure_jars

ROOT = Path(__file__).parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("broker")


@pytest.fixture(scope="session")
def kafka_libs() -> Path:
    """The broker's jars, fetched once into the cache of the checkout."""
    return ensure_jars(ROOT / ".run" / "kafka")
