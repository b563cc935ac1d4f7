"""Where the local stack listens and keeps its files: read from the environment that the Makefile sets.

`make up` keeps Kafka's data and the daemon's state over `make down`; the demo has its own, empty at each start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from txninsightd.tools.stack import StackError, jars, machine
from txninsightd.tools.stack.broker import Broker


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that tells one local stack from another; `run_dir` is absolute."""

    run_dir: Path
    scenario: Path
    kafka_port: int = 19092
    controller_port: int = 19093
    http_port: int = 9840
    heap: str = "512m"
    is_demo: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, is_demo: bool = False) -> Self:
        """Read KAFKA_PORT, KAFKA_CONTROLLER_PORT, HTTP_PORT, KAFKA_HEAP, RUN_DIR and SCENARIO; all may be absent."""
        return cls(
            run_dir=Path(environment.get("RUN_DIR", ".run")).absolute(),
            scenario=Path(environment.get("SCENARIO", "scenarios/demo.yaml")).absolute(),
            kafka_port=_port(environment, "KAFKA_PORT", cls.kafka_port),
            controller_port=_port(environment, "KAFKA_CONTROLLER_PORT", cls.controller_port),
            http_port=_port(environment, "HTTP_PORT", cls.http_port),
            heap=environment.get("KAFKA_HEAP", cls.heap),
            is_demo=is_demo,
        )

    @property
    def ports(self) -> dict[str, int]:
        """Every port of the stack, by the variable that sets it."""
        return {
            "KAFKA_PORT": self.kafka_port,
            "KAFKA_CONTROLLER_PORT": self.controller_port,
            "HTTP_PORT": self.http_port,
        }

    @property
    def bootstrap(self) -> str:
        """Kafka's host:port."""
        return f"{machine.HOST}:{self.kafka_port}"

    @property
    def url(self) -> str:
        """The daemon's base URL."""
        return f"http://{machine.HOST}:{self.http_port}"

    @property
    def log_dir(self) -> Path:
        """One log file for each supervised program."""
        return self.run_dir / "log"

    @property
    def demo_dir(self) -> Path:
        """What the demo makes: events, truth, Kafka's data."""
        return self.run_dir / "demo"

    @property
    def state_dir(self) -> Path:
        """The daemon's checkpoints: kept as long as the records that they are about."""
        return (self.demo_dir if self.is_demo else self.run_dir) / "state"

    @property
    def daemon_config(self) -> Path:
        """The daemon's configuration file."""
        return self.run_dir / "txninsight.yaml"

    def broker(self) -> Broker:
        """The stack's broker; fetches its jars if they are not there yet."""
        libs = jars.ensure_jars(self.run_dir / "kafka")
        data_dir = (self.demo_dir if self.is_demo else self.run_dir) / "kafka-data"
        return Broker(data_dir, libs, self.kafka_port, self.controller_port, heap=self.heap)


def _port(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise StackError(f"{variable}={text} is not a port: give a number from 1 to 65535")
    return int(text)
