"""What the fixtures of tests/broker hand to tests: brokers, topics with fresh names, and daemons that read them."""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.harness.daemon import Daemon
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker

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


def new_broker(
    data_dir: Path, libs: Path, *, heap: str = "512m", properties: Mapping[str, str] | None = None
) -> Broker:
    """A broker at free ports. Not started yet."""
    return Broker(data_dir, libs, *machine.free_ports(2), heap=heap, properties=properties)


def fresh_name(name: str) -> str:
    """A name that no other test gets, in this process or beside it."""
    return f"{name}-{os.getpid()}-{next(_serial)}"
