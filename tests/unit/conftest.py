"""Fixtures that several modules below use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.supervised import DUMMY_CHILDREN, StartSupervised, Supervised


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[StartSupervised]:
    """Starts a parent over dummy children, of which one has a fault, or another program; all end after the test."""
    started: list[Supervised] = []

    def make(fault: str, program: str = DUMMY_CHILDREN, **environment: str) -> Supervised:
        started.append(Supervised(fault, tmp_path, environment, program))
        return started[-1]

    yield make
    for each in started:
        each.end()
