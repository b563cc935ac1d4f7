"""A real Alertmanager (Debian's package) with the files that ship, and the local receivers at its end.

Only addresses, the secrets' paths and the waits differ from what ships. A Prometheus or a test posts alerts; what
reached the receivers is read from their record.
"""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from txninsightd.tools.receivers import Message, Receivers, read_record
from txninsightd.tools.stack import alerting, machine

SHIPPED = Path(__file__).parents[2] / "monitoring" / "alertmanager"
HANG_GUARD_S = 60.0
LOOK_EVERY_S = 0.1

Labels = Mapping[str, str]
Annotations = Mapping[str, str]


class Alertmanager:
    """Keeps its files in `directory`, and divides every wait by `factor`. It dies with the thread that began it."""

    def __init__(self, directory: Path, factor: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.port = machine.free_ports(1)[0]
        self.url = f"http://{machine.HOST}:{self.port}"
        self.record = directory / "alerts.jsonl"
        self._receivers = Receivers(0, self.record)
        receivers_url = f"http://{machine.HOST}:{self._receivers.server_port}"
        self.config = alerting.install(SHIPPED, directory, receivers_url, factor)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        Thread(target=self._receivers.serve_forever, daemon=True).start()
        command = alerting.command(self.config, self._directory / "data", self.port)
        with (self._directory / "alertmanager.out").open("wb") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.await_that(self._is_ready, "Alertmanager is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(HANG_GUARD_S)
        self._receivers.shutdown()
        self._receivers.server_close()

    # --- What a Prometheus does ---------------------------------------------------------------------------------------

    def fire(self, *alerts: tuple[Labels, Annotations]) -> None:
        """Say that these alerts fire, all in one."""
        self._post(alerts, ends_at=datetime.now(UTC) + timedelta(hours=1))

    def resolve(self, *alerts: tuple[Labels, Annotations]) -> None:
        """Say that these alerts are over."""
        self._post(alerts, ends_at=datetime.now(UTC))

    # --- What came of it ----------------------------------------------------------------------------------------------

    def messages(self) -> list[Message]:
        """All that reached the receivers, oldest first."""
        return read_record(self.record)

    def await_message(self, is_it: Callable[[Message], bool]) -> Message:
        """The first message that is the one."""
        self.await_that(lambda: any(map(is_it, self.messages())), "the message arrives")
        return next(filter(is_it, self.messages()))

    def inhibited(self, **labels: str) -> bool:
        """Whether the one alert with these labels is inhibited by another."""
        found = [alert for alert in self._get("/api/v2/alerts") if labels.items() <= alert["labels"].items()]
        assert len(found) == 1, f"{labels} are those of {found}"
        return bool(found[0]["status"]["inhibitedBy"])

    def await_that(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + HANG_GUARD_S
        while not is_so():
            assert self._process is not None
            assert self._process.poll() is None, self._told()
            assert time.monotonic() < deadline, f"never: {what}: {self._told()}"
            time.sleep(LOOK_EVERY_S)

    # ------------------------------------------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=HANG_GUARD_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _post(self, alerts: Iterable[tuple[Labels, Annotations]], ends_at: datetime) -> None:
        body = [{"labels": labels, "annotations": texts, "endsAt": ends_at.isoformat()} for labels, texts in alerts]
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=HANG_GUARD_S):
            pass

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=HANG_GUARD_S) as answer:
            return json.load(answer)

    def _told(self) -> str:
        log = (self._directory / "alertmanager.out").read_text()[-2000:]
        return "\n".join([*(message.line for message in self.messages()), log])
