"""The installed daemon where it cannot work: it says why, tries again for a while, and ends with a code that tells."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import Daemon
from tests.harness.http import free_port
from tests.harness.waiting import HANG_GUARD_S
from txninsightd.aggregate.store import DirectoryLock
from txninsightd.supervise.exit_codes import EXIT_CANNOT_LISTEN, EXIT_GAVE_UP, EXIT_UNUSABLE

pytestmark = pytest.mark.slow

GIVES_UP = {"backoff_initial_s": 0.05, "backoff_max_s": 0.1, "give_up_after": 3}


@pytest.fixture
def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Not started; its broker does not exist. The parameter: other sections of its configuration."""
    sections: dict[str, Any] = {"topics": ["orders"], "supervise": GIVES_UP, **getattr(request, "param", {})}
    made = Daemon(tmp_path, f"127.0.0.1:{free_port()}", sections)
    yield made
    made.end()


def exit_code(daemon: Daemon) -> int:
    """Wait for its end."""
    assert daemon.process is not None
    return daemon.process.wait(HANG_GUARD_S)


def deaths(daemon: Daemon) -> list[tuple[str, float]]:
    """The children that died, and after how many seconds each would have been started again."""
    return [(line["child"], line["restart_in_s"]) for line in daemon.log(event="child_died")]


def test_a_port_that_is_taken_ends_it_at_once(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", daemon.port)):
        daemon.start()
        assert exit_code(daemon) == EXIT_CANNOT_LISTEN
    assert [child for child, _ in deaths(daemon)] == ["aggregator"]
    assert any(line["event"] == "http_listen_failed" and str(daemon.port) in line["error"] for line in daemon.log())
    assert daemon.pids() == {}


@contextmanager
def port_taken_from(daemon: Daemon) -> Iterator[None]:
    """Kill the aggregator of a running daemon, and be at its port before its successor."""
    daemon.start()
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it answers")
    assert daemon.process is not None
    aggregator = daemon.pids()["aggregator"]
    daemon.process.send_signal(signal.SIGSTOP)
    os.kill(aggregator, signal.SIGKILL)
    with socket.socket() as taken:
        daemon.await_that(lambda: is_bound(taken, daemon.port), "the port is ours")
        taken.listen()
        daemon.process.send_signal(signal.SIGCONT)
        yield


def is_bound(server: socket.socket, port: int) -> bool:
    """Try to take a port."""
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_a_port_that_is_lost_later_is_tried_again_and_given_up(daemon: Daemon) -> None:
    with port_taken_from(daemon):
        assert exit_code(daemon) == EXIT_GAVE_UP
    assert deaths(daemon) == [("aggregator", 0.05), ("aggregator", 0.1), ("aggregator", 0.1)]
    assert [line["child"] for line in daemon.log(event="gave_up")] == ["aggregator"]
    assert daemon.pids() == {}


@pytest.mark.parametrize("daemon", [{"supervise": {**GIVES_UP, "give_up_after": 1000}}], indirect=True)
def test_a_port_that_is_freed_meanwhile_is_taken_again(daemon: Daemon) -> None:
    with port_taken_from(daemon):
        daemon.await_that(lambda: len(deaths(daemon)) == 2, "the aggregator could not listen")
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it answers again")
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("daemon", "named"),
    [
        ({"kafka": {"client": {"no.such.property": "1"}}}, "no.such.property"),
        ({"kafka": {"client": {"security.protocol": "nonsense"}}}, "security.protocol"),
    ],
    indirect=["daemon"],
)
def test_a_property_that_the_kafka_client_refuses_ends_it_at_once_and_is_named(daemon: Daemon, named: str) -> None:
    daemon.start()
    assert exit_code(daemon) == EXIT_UNUSABLE
    assert len(deaths(daemon)) == 1
    assert any(line["event"] == "kafka_client_unusable" and named in line["error"] for line in daemon.log())
    assert daemon.pids() == {}


@pytest.mark.slow
def test_it_waits_for_a_broker_that_is_not_there_and_stops_in_order(daemon: Daemon) -> None:
    daemon.start()
    daemon.await_that(lambda: daemon.status("/readyz") == 503, "it answers, but is not ready")
    daemon.await_that(lambda: any("does not answer" in text for text in daemon.missing()), "it says why")
    assert deaths(daemon) == []
    assert daemon.stop() == 0
    assert daemon.pids() == {}


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) & 1 << number - 1)


def test_a_stop_while_it_waits_for_the_state_directory_is_in_order(daemon: Daemon) -> None:
    lock = DirectoryLock(daemon.directory / "state")
    lock.acquire()
    process = daemon.start().process
    assert process is not None
    daemon.await_that(lambda: catches(process.pid, signal.SIGTERM), "it heeds signals")
    process.send_signal(signal.SIGTERM)
    lock.release()
    assert exit_code(daemon) == 0
    assert daemon.log(event="child_started") == []
    assert daemon.log()[-1]["orderly"] is True


@pytest.mark.parametrize("daemon", [{"supervise": {"backoff_initial_s": 3600, "backoff_max_s": 3600}}], indirect=True)
def test_a_stop_while_the_aggregator_is_to_be_restarted_is_in_order(daemon: Daemon) -> None:
    daemon.start()
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it answers")
    os.kill(daemon.pids()["aggregator"], signal.SIGKILL)
    daemon.await_that(lambda: daemon.log(event="child_died"), "that is seen")
    assert daemon.stop() == 0
    assert daemon.log()[-1]["orderly"] is True
    assert daemon.pids() == {}
