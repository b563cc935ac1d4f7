"""What systemd's socket receives, datagram by datagram."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from txninsightd.supervise.notify import Notifier


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.end.bind("\0" + address[1:] if address.startswith("@") else address)
        self.end.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.end.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@txninsightd-test-{os.getpid()}"
    made = Systemd(address)
    yield made
    made.end.close()


def test_it_is_told_by_path_and_by_abstract_name(systemd: Systemd) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": systemd.address})
    assert notifier.ready()
    notifier.stopping()
    assert systemd.heard() == ["READY=1", "STOPPING=1"]


def test_a_reload_carries_its_moment(systemd: Systemd) -> None:
    Notifier(systemd.address).reloading()
    (message,) = systemd.heard()
    lines = dict(line.split("=") for line in message.split("\n"))
    assert lines["RELOADING"] == "1"
    assert int(lines["MONOTONIC_USEC"]) > 0


def test_a_status_is_one_line_told_once(systemd: Systemd) -> None:
    notifier = Notifier(systemd.address)
    for text in ("3 open\nREADY=1 \x1b", "3 open\nREADY=1 \x1b", "x" * 1000):
        notifier.status(text)
    first, second = systemd.heard()
    assert first == "STATUS=3 open READY=1 \\x1b"
    assert second.startswith("STATUS=xxx")
    assert len(second) < 400


def test_a_status_that_was_not_delivered_is_told_again(tmp_path: Path) -> None:
    address = str(tmp_path / "late")
    notifier = Notifier(address)
    notifier.status("3 open")
    assert not notifier.ready()
    systemd = Systemd(address)
    notifier.status("3 open")
    assert systemd.heard() == ["STATUS=3 open"]
    systemd.end.close()


def test_the_watchdog_is_fed_within_half_its_time(systemd: Systemd) -> None:
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}
    )
    fed = []
    moment, last = 100.0, 100.0
    while moment < 200:
        notifier.feed(moment)
        if systemd.heard() == ["WATCHDOG=1"]:
            fed.append(moment - last)
            last = moment
        moment += notifier.every_s
    assert max(fed) <= 4.0
    assert len(fed) <= 50


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "?"}])
def test_without_a_watchdog_nothing_is_sent(systemd: Systemd, environment: dict[str, str]) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": systemd.address, **environment})
    notifier.feed(1000.0)
    assert notifier.every_s == float("inf")
    assert systemd.heard() == []


def test_without_systemd_it_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier.from_environment({})
    assert notifier.ready()
    notifier.status("3 open")
    notifier.feed(1000.0)
    assert capfd.readouterr() == ("", "")
