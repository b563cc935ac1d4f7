"""A real Alertmanager (Debian's package) with the files that ship, and the local receivers of its messages.

Only addresses, the secrets' paths and the waits differ from what ships. Alerts are posted by a Prometheus, or by the
test itself; the receivers write down each message.
"""

import json
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Self

from tests.harness.http import free_port
from tests.harness.paths import ROOT
from tests.harness.processes import Program
from tests.harness.waiting import HANG_GUARD_S
from txninsightd.tools import receivers
from txninsightd.tools.receivers import Message, read_record
from txninsightd.tools.stack import alerting
from txninsightd.tools.stack.machine import HOST

SHIPPED = ROOT / "monitoring" / "alertmanager"

Labels = Mapping[str, str]
Annotations = Mapping[str, str]


class Receivers(Program):
    """The local receivers as a program; `record` is the file of what they received."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__("receivers", directory, port)
        self.record = directory / "messages.jsonl"

    @property
    def command(self) -> list[str]:
        module = [sys.executable, "-m", "txninsightd.tools.receivers"]
        return [*module, "--port", str(self.port), "--record", str(self.record)]

    def is_ready(self) -> bool:
        return "listening on" in self._output.read_text(errors="replace")


class Alertmanager(Program):
    """The shipped files, sending to the local receivers at a port, with every wait divided by `factor`."""

    def __init__(self, directory: Path, port: int, receivers_port: int, factor: float) -> None:
        super().__init__("alertmanager", directory, port)
        self._config = alerting.install(SHIPPED, directory / "alertmanager", f"http://{HOST}:{receivers_port}", factor)

    @property
    def command(self) -> list[str]:
        return alerting.command(self._config, self.directory / "alertmanager-data", self.port)

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """The active alerts that have these labels, inhibited ones included."""
        return [each for each in self.ask("/api/v2/alerts") if labels.items() <= each["labels"].items()]

    def inhibited(self, **labels: str) -> bool:
        """Whether another alert inhibits the one alert with these labels."""
        found = self.alerts(**labels)
        assert len(found) == 1, f"{labels} are those of {found}"
        return bool(found[0]["status"]["inhibitedBy"])


class PostedAlertmanager(Alertmanager):
    """The test posts the alerts, in the place of a Prometheus, and the receivers run in the test's own process."""

    def __init__(self, directory: Path, factor: float) -> None:
        self.record = directory / "alerts.jsonl"
        self._receivers = receivers.Receivers(0, self.record)
        super().__init__(directory, free_port(), self._receivers.server_port, factor)

    def __enter__(self) -> Self:
        Thread(target=self._receivers.serve_forever, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self._receivers.shutdown()
        self._receivers.server_close()

    def fire(self, *alerts: tuple[Labels, Annotations]) -> None:
        """Say in one request that these alerts fire."""
        self._post(alerts, ends_at=datetime.now(UTC) + timedelta(hours=1))

    def resolve(self, *alerts: tuple[Labels, Annotations]) -> None:
        """Say that these alerts are over."""
        self._post(alerts, ends_at=datetime.now(UTC))

    def messages(self) -> list[Message]:
        """All that reached the receivers, oldest first."""
        return read_record(self.record)

    @property
    def output(self) -> str:
        """The messages so far, and the end of what Alertmanager printed."""
        return "\n".join([*(message.line for message in self.messages()), super().output])

    def await_message(self, is_it: Callable[[Message], bool]) -> Message:
        """The first message of which the function is true."""
        self.await_that(lambda: any(map(is_it, self.messages())), "the message arrives")
        return next(filter(is_it, self.messages()))

    def _post(self, alerts: Iterable[tuple[Labels, Annotations]], ends_at: datetime) -> None:
        body = [{"labels": labels, "annotations": texts, "endsAt": ends_at.isoformat()} for labels, texts in alerts]
        url = f"http://{HOST}:{self.port}/api/v2/alerts"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=HANG_GUARD_S):
            pass
