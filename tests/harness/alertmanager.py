"""A real Alertmanager (Debian's package) with the files that ship, and the local receivers at its end.

Only addresses, the secrets' paths and the waits differ from what ships. A Prometheus or a test posts alerts; what
reached the receivers is read from their record.
"""

import json
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Self

from tests.harness import programs
from tests.harness.programs import HANG_GUARD_S
from txninsightd.tools.receivers import Message, Receivers, read_record
from txninsightd.tools.stack import machine

SHIPPED = programs.MONITORING / "alertmanager"

Labels = Mapping[str, str]
Annotations = Mapping[str, str]


class Alertmanager(programs.Alertmanager):
    """Keeps its files in `directory`, and divides every wait by `factor`."""

    def __init__(self, directory: Path, factor: float) -> None:
        self.record = directory / "alerts.jsonl"
        self._receivers = Receivers(0, self.record)
        super().__init__(directory, machine.free_ports(1)[0], self._receivers.server_port, factor)

    def __enter__(self) -> Self:
        Thread(target=self._receivers.serve_forever, daemon=True).start()
        return super().__enter__()

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
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

    @property
    def output(self) -> str:
        """The messages so far, and the end of what Alertmanager said."""
        return "\n".join([*(message.line for message in self.messages()), super().output])

    def await_message(self, is_it: Callable[[Message], bool]) -> Message:
        """The first message that is the one."""
        self.await_that(lambda: any(map(is_it, self.messages())), "the message arrives")
        return next(filter(is_it, self.messages()))

    def inhibited(self, **labels: str) -> bool:
        """Whether the one alert with these labels is inhibited by another."""
        found = [alert for alert in self.ask("/api/v2/alerts") if labels.items() <= alert["labels"].items()]
        assert len(found) == 1, f"{labels} are those of {found}"
        return bool(found[0]["status"]["inhibitedBy"])

    def _post(self, alerts: Iterable[tuple[Labels, Annotations]], ends_at: datetime) -> None:
        body = [{"labels": labels, "annotations": texts, "endsAt": ends_at.isoformat()} for labels, texts in alerts]
        url = f"http://{machine.HOST}:{self.port}/api/v2/alerts"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=HANG_GUARD_S):
            pass
