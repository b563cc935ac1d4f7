"""The installed daemon as its user runs it: a config file, a process, its HTTP API, a signal."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.harness.http import free_port, http_status
from tests.harness.json_log import Line, children_started, parse_lines
from tests.harness.metrics import Samples, parse_samples, total
from tests.harness.paths import PROGRAMS
from tests.harness.processes import living
from tests.harness.waiting import HANG_GUARD_S, await_that

PROGRAM = PROGRAMS / "txninsightd"


class Daemon:
    """`sections` are those of conf/txninsight.yaml; `http.listen` and the bootstrap servers are set here.

    `environment`: what its processes have beside the test's own variables.
    """

    def __init__(self, directory: Path, bootstrap: str, sections: dict[str, Any]) -> None:
        self.directory = directory
        self.port = free_port()
        self.config_file = directory / "txninsight.yaml"
        self.log_file = directory / "txninsightd.log"
        self.environment: dict[str, str] = {}
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
        self.launch()
        return self

    def launch(self, before: Iterable[str] = (), **options: Any) -> None:
        """Start its process, with another command `before` it; `options` are for Popen."""
        line: list[str | Path] = [*before, PROGRAM, "--config", self.config_file]
        options["env"] = {**options.get("env", os.environ), **self.environment}
        with self.log_file.open("ab") as log:
            usual = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(line, **{**usual, **options})

    def await_ready(self) -> "Daemon":
        """Wait until /readyz says that nothing is missing."""
        self.await_that(lambda: self.status("/readyz") == 200, "the daemon is ready")
        return self

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.await_exit()

    def await_exit(self) -> int:
        """Wait until it ends by itself; gives its exit code."""
        assert self.process is not None
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
        """Run a command of the operator's, beside the running daemon."""
        line: list[str | Path] = [PROGRAM, *arguments, "--config", self.config_file]
        return subprocess.run(line, capture_output=True, text=True, timeout=HANG_GUARD_S, check=False)

    def end(self) -> None:
        """Leave nothing running, in whatever state it is."""
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
        return {name: pid for name, pid in children_started(self.log()).items() if living([pid])}

    def all_pids(self) -> dict[str, int]:
        """The living children, and the parent under the name "parent"."""
        assert self.process is not None
        return {"parent": self.process.pid, **self.pids()}

    def log(self, **wanted: Any) -> list[Line]:
        """The structured lines of its log that have these values."""
        return parse_lines(self.log_file.read_text(errors="replace").splitlines(), **wanted)

    # --- Questions ----------------------------------------------------------------------------------------------------

    def status(self, path: str) -> int:
        """The HTTP status of a GET; 0 without an answer."""
        return http_status(f"http://127.0.0.1:{self.port}{path}")

    def missing(self) -> list[str]:
        """What /readyz says is missing, in words."""
        return list(self._readyz()["missing"])

    def notes(self) -> list[str]:
        """What /readyz says beside that."""
        return list(self._readyz()["notes"])

    def get(self, path: str, **query: Any) -> Any:
        """The JSON that a GET gives."""
        suffix = f"?{urllib.parse.urlencode(query)}" if query else ""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}{suffix}", timeout=60) as answer:
            return json.load(answer)

    def read(self, path: str) -> bytes:
        """What a GET gives."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return bytes(answer.read())

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
        return parse_samples(self.read("/metrics").decode())

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of a metric that have these labels."""
        return total(self.metrics(), name, **labels)

    # --- Waiting ------------------------------------------------------------------------------------------------------

    def await_that(self, condition: Callable[[], object], what: str, within_s: float = HANG_GUARD_S) -> None:
        """Wait until the condition holds, as long as the daemon lives."""
        assert self.process is not None
        await_that(condition, what, within_s, output=self._tail, process=self.process)

    def await_total(self, count: float, name: str, **labels: str) -> None:
        """Wait until the sum over these samples is at least `count`."""
        self.await_that(lambda: self.total(name, **labels) >= count, f"{name} {labels} is {count}")

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
        pids = list(pids)
        await_that(lambda: not living(pids), f"none of {pids} lives", within_s, output=self._tail)

    def _readyz(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self.get("/readyz")
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        return answer

    def _tail(self) -> str:
        missing = []
        with contextlib.suppress(OSError):
            missing = [f"missing: {text}" for text in self.missing()]
        return "\n".join([*self.log_file.read_text(errors="replace").splitlines()[-15:], *missing])
