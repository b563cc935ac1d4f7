"""The installed daemon as its user runs it: a config file, a process, its HTTP API, a signal."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from txninsightd.tools.stack import machine

HANG_GUARD_S = 120.0
LOOK_EVERY_S = 0.1

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    """A port that nobody listens on just now, and that no outgoing connection gets while its daemon is down."""
    return machine.free_ports(1)[0]


def http_status(url: str) -> int:
    """The HTTP status of a GET; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class Daemon:
    """`sections` are those of conf/txninsight.yaml; `http.listen` and the bootstrap servers are set here."""

    def __init__(self, directory: Path, bootstrap: str, sections: dict[str, Any]) -> None:
        self.directory = directory
        self.port = free_port()
        self.config_file = directory / "txninsight.yaml"
        self.log_file = directory / "txninsightd.log"
        client = {"bootstrap.servers": bootstrap, **sections.get("kafka", {}).get("client", {})}
        config = {
            **sections,
            "kafka": {"client": client},
            "http": {"listen": f"127.0.0.1:{self.port}"},
            "discovery": {"every_s": 1, **sections.get("discovery", {})},
            "state": {"directory": str(directory / "state"), **sections.get("state", {})},
            "log": {"level": "debug", "format": "json"},
        }
        self.config_file.write_text(yaml.safe_dump(config))
        self.process: subprocess.Popen[bytes] | None = None

    # --- Life ---------------------------------------------------------------------------------------------------------

    def start(self) -> "Daemon":
        """Start it; it may not be ready yet."""
        program = Path(sys.executable).with_name("txninsightd")
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [program, "--config", self.config_file], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def await_ready(self) -> "Daemon":
        """Wait until /readyz says that nothing is missing."""
        self.await_that(lambda: self.status("/readyz") == 200, "the daemon is ready")
        return self

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_GUARD_S)

    def kill(self) -> None:
        """kill -9 of the parent; nothing of the daemon is left then."""
        assert self.process is not None
        pids = self.pids()
        self.process.kill()
        self.process.wait()
        self.await_gone(pids.values())

    def reload(self, text: str | None = None, **sections: Any) -> None:
        """Write another config file, with these sections in the place of former ones (or this text), and SIGHUP."""
        former = yaml.safe_load(self.config_file.read_text()) if text is None else {}
        self.config_file.write_text(yaml.safe_dump({**former, **sections}) if text is None else text)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command of the operator's, beside the running daemon."""
        program = Path(sys.executable).with_name("txninsightd")
        line = [program, *arguments, "--config", self.config_file]
        return subprocess.run(line, capture_output=True, text=True, timeout=HANG_GUARD_S, check=False)

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(HANG_GUARD_S)
            except subprocess.TimeoutExpired:
                for pid in [*self.pids().values(), self.process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()

    def pids(self) -> dict[str, int]:
        """The living children by name, as the log tells them."""
        pids = {}
        for line in self.log():
            if line.get("event") == "child_started":
                pids[line["child"]] = line["pid"]
        return {name: pid for name, pid in pids.items() if Path(f"/proc/{pid}").exists()}

    def log(self) -> list[dict[str, Any]]:
        """The structured lines of its log."""
        lines = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    # --- Questions ----------------------------------------------------------------------------------------------------

    def status(self, path: str) -> int:
        """The HTTP status of a GET; 0 while nobody answers."""
        return http_status(f"http://127.0.0.1:{self.port}{path}")

    def missing(self) -> list[str]:
        """What /readyz says is missing, in words."""
        try:
            answer: dict[str, Any] = self.get("/readyz")
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        return list(answer["missing"])

    def get(self, path: str, **query: Any) -> Any:
        """The JSON that a GET gives."""
        suffix = f"?{urllib.parse.urlencode(query)}" if query else ""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}{suffix}", timeout=60) as answer:
            return json.load(answer)

    def transactions(self, **query: Any) -> dict[str, dict[str, Any]]:
        """All transactions by id."""
        found = self.get("/api/v1/transactions", limit=10_000, **query)
        return {t["txn_id"]: t for t in found["transactions"]}

    def transaction(self, txn_id: str) -> dict[str, Any]:
        """One transaction with its timeline."""
        answer: dict[str, Any] = self.get(f"/api/v1/transactions/{urllib.parse.quote(txn_id, safe='')}")
        return answer

    def details(self, txn_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Many transactions with their timelines, over one connection; those that are not known are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        found = {}
        for txn_id in txn_ids:
            connection.request("GET", f"/api/v1/transactions/{urllib.parse.quote(txn_id, safe='')}")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                found[txn_id] = json.loads(body)
        connection.close()
        return found

    def metrics(self) -> Samples:
        """All samples of /metrics by name and sorted labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for children_status in text_string_to_metric_families(text)
            for sample in children_status.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of a metric that have these labels."""
        wanted = set(labels.items())
        return sum(value for (n, found), value in self.metrics().items() if n == name and wanted <= set(found))

    def await_that(self, condition: Callable[[], bool], what: str, within_s: float = HANG_GUARD_S) -> None:
        """Wait until something holds, as long as the daemon lives."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}: {self._tail()}"
            assert time.monotonic() < deadline, f"never: {what}: {self._tail()}"
            time.sleep(LOOK_EVERY_S)

    def await_read(self, moment: float) -> None:
        """Wait until both views have seen all that was in the log at this moment (epoch seconds)."""

        def read() -> bool:
            partitions = self.get("/api/v1/partitions")
            return bool(partitions) and all(
                (p["monitor_as_of"] or 0) > moment and (p["validator_as_of"] or 0) > moment for p in partitions
            )

        self.await_that(read, "both views have seen everything")

    def await_gone(self, pids: Iterable[int], within_s: float = HANG_GUARD_S) -> None:
        """Wait until none of these processes lives."""
        deadline = time.monotonic() + within_s
        while living := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, f"still there: {living}: {self._tail()}"
            time.sleep(LOOK_EVERY_S)

    def _tail(self) -> str:
        missing = []
        with contextlib.suppress(OSError):
            missing = [f"missing: {text}" for text in self.missing()]
        return "\n".join([*self.log_file.read_text(errors="replace").splitlines()[-15:], *missing])
