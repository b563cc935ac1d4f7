"""Prometheus, Alertmanager and the receivers as processes, on the very files that ship, made faster by one factor.

Addresses and the paths of secrets are changed besides, and nothing else. All processes die with the thread that began
them, and are ended in order before that. Nothing sleeps for luck: who waits asks the program itself.
"""

import json
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from txninsightd.tools.stack import alerting, machine
from txninsightd.tools.stack.time_scale import scale_prometheus, scale_rules

MONITORING = Path(__file__).parents[3] / "monitoring"
RULES = MONITORING / "prometheus" / "rules"
FACTOR = 30.0
"""As fast as two busy cores bear: at 60, a hiccup of two seconds is a daemon that was down for two minutes."""
HANG_GUARD_S = 300.0
LOOK_EVERY_S = 0.1


class Sample(NamedTuple):
    """One series of an instant query's answer."""

    labels: Mapping[str, str]
    value: float


def until(condition: Callable[[], object], what: str) -> Iterator[None]:
    """`for _ in until(...)`: again and again until something holds."""
    deadline = time.monotonic() + HANG_GUARD_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        yield


def await_that(condition: Callable[[], object], what: str) -> None:
    """Wait until something holds."""
    for _ in until(condition, what):
        time.sleep(LOOK_EVERY_S)


def ask(port: int, path: str, **query: str) -> Any:
    """The JSON that a GET of a local program gives."""
    suffix = f"?{urllib.parse.urlencode(query)}" if query else ""
    with urllib.request.urlopen(f"http://{machine.HOST}:{port}{path}{suffix}", timeout=60) as answer:
        return json.load(answer)


class Program:
    """A process with its output in a file; it runs within `with`."""

    def __init__(self, name: str, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """What runs it in the foreground."""
        raise NotImplementedError

    @property
    def output(self) -> str:
        """The end of what it said."""
        return machine.last_lines(self._output.read_text(errors="replace"))

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            line = ["setpriv", "--pdeathsig", "KILL", "--", *self.command]
            self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        await_that(self._is_ready, f"{self._name} is ready")
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(HANG_GUARD_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def _output(self) -> Path:
        return self.directory / f"{self._name}.out"

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self._name} ended with {self._process.returncode}: {self.output}"
        try:
            url = f"http://{machine.HOST}:{self.port}/-/ready"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return int(answer.status) == 200
        except OSError:
            return False


class Receivers(Program):
    """The local receivers; `record` is where they write down what came."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__("receivers", directory, port)
        self.record = directory / "messages.jsonl"

    @property
    def command(self) -> list[str]:
        module = [sys.executable, "-m", "txninsightd.tools.receivers"]
        return [*module, "--port", str(self.port), "--record", str(self.record)]

    def _is_ready(self) -> bool:
        return "listening on" in self._output.read_text(errors="replace")


class Alertmanager(Program):
    """The shipped files, sending to the local receivers."""

    def __init__(self, directory: Path, port: int, receivers: Receivers) -> None:
        super().__init__("alertmanager", directory, port)
        url = f"http://{machine.HOST}:{receivers.port}"
        self._config = alerting.install(MONITORING / "alertmanager", directory / "alertmanager", url, FACTOR)

    @property
    def command(self) -> list[str]:
        return alerting.command(self._config, self.directory / "alertmanager-data", self.port)

    def alerts(self, alert: str, **labels: str) -> list[dict[str, Any]]:
        """The active ones of this name that have these labels, inhibited ones included."""
        found = ask(self.port, "/api/v2/alerts")
        wanted = {"alertname": alert, **labels}.items()
        return [each for each in found if wanted <= each["labels"].items()]


class Prometheus(Program):
    """The shipped files, scraping these targets (ports); `cluster` is the external label."""

    def __init__(self, cluster: str, directory: Path, port: int, alertmanager: Alertmanager) -> None:
        super().__init__(f"prometheus-{cluster}", directory, port)
        self._home = directory / f"prometheus-{cluster}"
        self._cluster = cluster
        self._alertmanager = f"{machine.HOST}:{alertmanager.port}"
        (self._home / "rules").mkdir(parents=True)
        for file in RULES.glob("*.yml"):
            scaled = scale_rules(yaml.safe_load(file.read_text()), FACTOR)
            (self._home / "rules" / file.name).write_text(yaml.safe_dump(scaled, sort_keys=False))
        self.target([])

    @property
    def command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._home / 'data'}",
            f"--web.listen-address={machine.HOST}:{self.port}",
            "--log.level=warn",
        ]

    def target(self, ports: Iterable[int]) -> None:
        """Write the config with these targets. A running Prometheus needs `reload` to know."""
        document = scale_prometheus(yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text()), FACTOR)
        document["global"]["external_labels"]["cluster"] = self._cluster
        document["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [self._alertmanager]}]}]
        (job,) = document["scrape_configs"]
        job["static_configs"] = [{"targets": [f"{machine.HOST}:{port}" for port in ports]}]
        self._config.write_text(yaml.safe_dump(document, sort_keys=False))

    def reload(self) -> None:
        """Have it read its config again."""
        self.send(signal.SIGHUP)

    def query(self, expression: str) -> list[Sample]:
        """What an instant query gives."""
        rows = ask(self.port, "/api/v1/query", query=expression)["data"]["result"]
        return [Sample(row["metric"], float(row["value"][1])) for row in rows]

    def states(self, alert: str, instance: str) -> set[str]:
        """pending, firing: how an alert of a daemon stands."""
        found = self.query(f'ALERTS{{alertname="{alert}",instance="{instance}"}}')
        return {sample.labels["alertstate"] for sample in found}

    @property
    def _config(self) -> Path:
        return self._home / "prometheus.yml"
