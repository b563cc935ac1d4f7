"""Prometheus, Alertmanager and the receivers as processes, on the very files that ship, made faster by one factor.

Addresses and the paths of secrets are changed besides, and nothing else. All processes die with the thread that began
them, and are ended in order before that. Nothing sleeps for luck: who waits asks the program itself.
"""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from txninsightd.tools.stack import alerting, machine
from txninsightd.tools.stack.time_scale import scale_prometheus, scale_rules

MONITORING = Path(__file__).parents[2] / "monitoring"
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


class Refused(AssertionError):
    """A program did not take a question; the message says why."""


class Program:
    """A process with its output in a file; it runs within `with`, and dies with the thread that began it."""

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
        self.await_that(self._is_ready, f"{self._name} is ready")
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(HANG_GUARD_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def await_that(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds, as long as the program lives."""
        assert self._process is not None
        deadline = time.monotonic() + HANG_GUARD_S
        while not condition():
            assert self._process.poll() is None, f"{self._name} ended with {self._process.returncode}: {self.output}"
            assert time.monotonic() < deadline, f"never: {what}: {self.output}"
            time.sleep(LOOK_EVERY_S)

    def ask(self, path: str, **query: Any) -> Any:
        """The JSON that a GET gives. Raises Refused with the reason."""
        url = f"http://{machine.HOST}:{self.port}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=HANG_GUARD_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{query}: {error.read().decode()}") from error

    @property
    def _output(self) -> Path:
        return self.directory / f"{self._name}.out"

    def _is_ready(self) -> bool:
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
    """The shipped files, sending to the local receivers at a port, with every wait divided by `factor`."""

    def __init__(self, directory: Path, port: int, receivers_port: int, factor: float = FACTOR) -> None:
        super().__init__("alertmanager", directory, port)
        url = f"http://{machine.HOST}:{receivers_port}"
        self._config = alerting.install(MONITORING / "alertmanager", directory / "alertmanager", url, factor)

    @property
    def command(self) -> list[str]:
        return alerting.command(self._config, self.directory / "alertmanager-data", self.port)

    def alerts(self, alert: str, **labels: str) -> list[dict[str, Any]]:
        """The active ones of this name that have these labels, inhibited ones included."""
        wanted = {"alertname": alert, **labels}.items()
        return [each for each in self.ask("/api/v2/alerts") if wanted <= each["labels"].items()]


class AnyPrometheus(Program):
    """With the config file prometheus.yml and its data in a folder of its own within `directory`."""

    def __init__(self, name: str, directory: Path, port: int) -> None:
        super().__init__(name, directory, port)
        self.home = directory / name
        self.home.mkdir()

    @property
    def command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.home / 'data'}",
            f"--web.listen-address={machine.HOST}:{self.port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]

    @property
    def config(self) -> Path:
        """The config file."""
        return self.home / "prometheus.yml"


class Prometheus(AnyPrometheus):
    """The shipped files, scraping these targets (ports); `cluster` is the external label."""

    def __init__(self, cluster: str, directory: Path, port: int, alertmanager: Alertmanager) -> None:
        super().__init__(f"prometheus-{cluster}", directory, port)
        self._cluster = cluster
        self._alertmanager = f"{machine.HOST}:{alertmanager.port}"
        (self.home / "rules").mkdir()
        for file in RULES.glob("*.yml"):
            scaled = scale_rules(yaml.safe_load(file.read_text()), FACTOR)
            (self.home / "rules" / file.name).write_text(yaml.safe_dump(scaled, sort_keys=False))
        self.target([])

    def target(self, ports: Iterable[int]) -> None:
        """Write the config with these targets. A running Prometheus needs `reload` to know."""
        document = scale_prometheus(yaml.safe_load((MONITORING / "prometheus" / "prometheus.yml").read_text()), FACTOR)
        document["global"]["external_labels"]["cluster"] = self._cluster
        document["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [self._alertmanager]}]}]
        (job,) = document["scrape_configs"]
        job["static_configs"] = [{"targets": [f"{machine.HOST}:{port}" for port in ports]}]
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))

    def reload(self) -> None:
        """Have it read its config again."""
        self.send(signal.SIGHUP)

    def query(self, expression: str) -> list[Sample]:
        """What an instant query gives."""
        rows = self.ask("/api/v1/query", query=expression)["data"]["result"]
        return [Sample(row["metric"], float(row["value"][1])) for row in rows]

    def states(self, alert: str, instance: str) -> set[str]:
        """pending, firing: how an alert of a daemon stands."""
        found = self.query(f'ALERTS{{alertname="{alert}",instance="{instance}"}}')
        return {sample.labels["alertstate"] for sample in found}
