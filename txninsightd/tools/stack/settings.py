"""The local stack's ports and paths, read from the environment that the Makefile sets.

`make up` keeps the data of Kafka, the daemon, Prometheus and Alertmanager over `make down`. The demo has its own data,
empty at each start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from txninsightd.tools.stack import StackError, jars, machine
from txninsightd.tools.stack.broker import Broker


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a local stack; `run_dir` is absolute."""

    run_dir: Path
    scenario: Path
    kafka_port: int = 19092
    controller_port: int = 19093
    http_port: int = 9840
    prometheus_port: int = 19090
    alertmanager_port: int = 19094
    receivers_port: int = 19095
    grafana_port: int = 13000
    speedup: int = 30
    heap: str = "512m"
    is_demo: bool = False
    has_grafana: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, is_demo: bool = False) -> Self:
        """Read the variables that the Makefile exports; all are optional. Grafana is used if it is installed."""
        return cls(
            run_dir=Path(environment.get("RUN_DIR", ".run")).absolute(),
            scenario=Path(environment.get("SCENARIO", "scenarios/demo.yaml")).absolute(),
            kafka_port=_port(environment, "KAFKA_PORT", cls.kafka_port),
            controller_port=_port(environment, "KAFKA_CONTROLLER_PORT", cls.controller_port),
            http_port=_port(environment, "HTTP_PORT", cls.http_port),
            prometheus_port=_port(environment, "PROMETHEUS_PORT", cls.prometheus_port),
            alertmanager_port=_port(environment, "ALERTMANAGER_PORT", cls.alertmanager_port),
            receivers_port=_port(environment, "RECEIVERS_PORT", cls.receivers_port),
            grafana_port=_port(environment, "GRAFANA_PORT", cls.grafana_port),
            speedup=_speedup(environment, cls.speedup),
            heap=environment.get("KAFKA_HEAP", cls.heap),
            is_demo=is_demo,
            has_grafana=machine.grafana() is not None,
        )

    @property
    def ports(self) -> dict[str, int]:
        """All ports of the stack, by the variable that sets them."""
        return {
            "KAFKA_PORT": self.kafka_port,
            "KAFKA_CONTROLLER_PORT": self.controller_port,
            "HTTP_PORT": self.http_port,
            "PROMETHEUS_PORT": self.prometheus_port,
            "ALERTMANAGER_PORT": self.alertmanager_port,
            "RECEIVERS_PORT": self.receivers_port,
            **({"GRAFANA_PORT": self.grafana_port} if self.has_grafana else {}),
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
    def prometheus_url(self) -> str:
        """Prometheus' base URL."""
        return f"http://{machine.HOST}:{self.prometheus_port}"

    @property
    def alertmanager_url(self) -> str:
        """Alertmanager's base URL."""
        return f"http://{machine.HOST}:{self.alertmanager_port}"

    @property
    def receivers_url(self) -> str:
        """The base URL of the local receivers for PagerDuty and Slack."""
        return f"http://{machine.HOST}:{self.receivers_port}"

    @property
    def grafana_url(self) -> str:
        """Grafana's base URL."""
        return f"http://{machine.HOST}:{self.grafana_port}"

    @property
    def log_dir(self) -> Path:
        """The log files, one per supervised program."""
        return self.run_dir / "log"

    @property
    def record(self) -> Path:
        """The alerts that the local receivers got since the stack started."""
        return self.log_dir / "alerts.jsonl"

    @property
    def demo_dir(self) -> Path:
        """The demo's files: events, truth, and the data of all programs."""
        return self.run_dir / "demo"

    @property
    def data_dir(self) -> Path:
        """The programs' data."""
        return self.demo_dir if self.is_demo else self.run_dir

    @property
    def state_dir(self) -> Path:
        """The daemon's checkpoints, kept as long as Kafka's data."""
        return self.data_dir / "state"

    @property
    def monitoring_dir(self) -> Path:
        """The adapted files of Prometheus, Alertmanager and Grafana."""
        return self.run_dir / "monitoring"

    @property
    def daemon_config(self) -> Path:
        """The daemon's configuration file."""
        return self.run_dir / "txninsight.yaml"

    def broker(self) -> Broker:
        """The stack's broker; fetches its jars if needed."""
        libs = jars.ensure_jars(self.run_dir / "kafka")
        return Broker(self.data_dir / "kafka-data", libs, self.kafka_port, self.controller_port, heap=self.heap)


def _port(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise StackError(f"{variable}={text} is not a port: give a number from 1 to 65535")
    return int(text)


def _speedup(environment: Mapping[str, str], default: int) -> int:
    text = environment.get("SPEEDUP", str(default))
    if not text.isdecimal() or int(text) < 1:
        raise StackError(f"SPEEDUP={text} is not a whole number from 1 up: 30 makes alerts 30 times as fast as shipped")
    return int(text)
