"""The installed daemon with a log that cannot be written: it starts, works, says so over HTTP, and stops in order."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PROGRAM, Daemon
from tests.harness.http import free_port
from tests.harness.pipes import drained, fill
from tests.harness.tmpfs import tmpfs
from tests.harness.waiting import HANG_GUARD_S
from txninsightd.cli import EXIT_CONFIG

pytestmark = pytest.mark.slow

Output = dict[str, Any]
"""Options for Popen."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Not started; its broker does not exist."""
    made = Daemon(tmp_path, f"127.0.0.1:{free_port()}", {"topics": ["orders"]})
    yield made
    made.end()


def children(pid: int) -> list[int]:
    """The child processes, oldest first."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def dropped(daemon: Daemon) -> dict[str, float]:
    """The dropped lines by process."""
    return {
        dict(labels)["process"]: count
        for (name, labels), count in daemon.metrics().items()
        if name == "txninsight_log_lines_dropped_total"
    }


def both(output: int) -> Output:
    """Standard output and standard error in one place."""
    return {"stdout": output, "stderr": output}


# --- Places -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_device() -> Iterator[Output]:
    with Path("/dev/full").open("wb") as full:
        yield both(full.fileno())


@contextlib.contextmanager
def pipe_without_reader() -> Iterator[Output]:
    reader, writer = os.pipe()
    os.close(reader)
    yield both(writer)
    os.close(writer)


@contextlib.contextmanager
def socket_without_reader() -> Iterator[Output]:
    """What is left of a journald that was restarted."""
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        yield both(theirs.fileno())


@contextlib.contextmanager
def closed_descriptors() -> Iterator[Output]:
    yield {"preexec_fn": lambda: os.closerange(1, 3)}


# --- Whole lives ------------------------------------------------------------------------------------------------------


def start(daemon: Daemon, output: Output) -> int:
    """Start it, wait until it answers; gives the parent's process id."""
    daemon.launch(**output)
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it answers")
    assert daemon.process is not None
    return daemon.process.pid


def go_through_a_life(daemon: Daemon, parent: int) -> None:
    """Reloads, one of them refused, and the death of a child; each of them logs."""
    daemon.reload(log={"level": "debug", "format": "json"})
    daemon.await_total(1, "txninsight_config_reloads_total", result="applied")
    config = daemon.config_file.read_text()
    daemon.reload("no: configuration\n")
    daemon.await_total(1, "txninsight_config_reloads_total", result="refused")
    daemon.config_file.write_text(config)
    os.kill(children(parent)[-1], signal.SIGKILL)
    daemon.await_total(1, "txninsight_child_restarts_total")
    daemon.await_that(lambda: len(children(parent)) == 3, "a new child lives")
    daemon.await_that(lambda: all(dropped(daemon).values()), "each process has dropped lines")


@pytest.mark.parametrize("place", [full_device, pipe_without_reader, socket_without_reader, closed_descriptors])
def test_it_works_without_a_log(daemon: Daemon, place: Callable[[], Any]) -> None:
    with place() as output:
        parent = start(daemon, output)
        assert set(dropped(daemon)) == {"parent", "aggregator", "monitor-0", "validator-0"}
        go_through_a_life(daemon, parent)
        (note,) = daemon.notes()
        assert note.startswith("log lines were dropped in the last minute (")
        assert f"parent {int(dropped(daemon)['parent'])}" in note
        before = dropped(daemon)
        os.kill(children(parent)[-1], signal.SIGKILL)
        daemon.await_total(2, "txninsight_child_restarts_total")
        after = dropped(daemon)
        assert all(after[name] >= count for name, count in before.items()), "a counter fell"
        if place is closed_descriptors:
            for pid in [parent, *children(parent)]:
                assert {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (1, 2)} == {"/dev/null"}
        assert daemon.stop() == 0


def assert_lines_flow_again(lines: list[bytes]) -> None:
    """Whole lines, after some that say how many were dropped."""
    parsed = [json.loads(line) for line in lines if line]
    assert sum(line["lines"] for line in parsed if line["event"] == "log_lines_dropped") > 0
    assert parsed[-1]["event"] == "daemon_stopped"


def test_a_pipe_that_is_not_read_and_is_read_later(daemon: Daemon) -> None:
    reader, writer = os.pipe()
    fill(writer)
    parent = start(daemon, both(writer))
    go_through_a_life(daemon, parent)
    assert "(Resource temporarily unavailable)" in daemon.notes()[0]
    # The description that the daemon inherited is shared, and was not made non-blocking.
    assert os.get_blocking(writer)
    drained(reader)
    assert daemon.stop() == 0
    assert_lines_flow_again(drained(reader).splitlines())
    os.close(reader)
    os.close(writer)


def test_a_disk_that_is_full_and_has_space_again(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with tmpfs(tmp_path / "disk", "64k") as disk, (disk.directory / "log").open("ab", buffering=0) as log:
        log.write(b"{}\n" * 10)
        with (disk.directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"x" * 4096):
                pass
        parent = start(daemon, both(log.fileno()))
        go_through_a_life(daemon, parent)
        assert "(No space left on device)" in daemon.notes()[0]
        (disk.directory / "filler").unlink()
        assert daemon.stop() == 0
        lines = [line for line in (disk.directory / "log").read_bytes().splitlines() if line != b"{}"]
    assert_lines_flow_again(lines)


# --- Commands ---------------------------------------------------------------------------------------------------------


def run(daemon: Daemon, *options: str, **output: Any) -> "subprocess.CompletedProcess[str]":
    """A command of the operator's, with its standard output or error elsewhere."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **output}
    line = [str(PROGRAM), "--config", str(daemon.config_file), *options]
    return subprocess.run(line, text=True, timeout=HANG_GUARD_S, check=False, **streams)


@pytest.mark.parametrize("options", [("--check-config",), ("--version",), ("--help",)])
def test_an_answer_that_cannot_be_written_is_an_exit_code_and_a_reason(daemon: Daemon, options: tuple[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(daemon, *options, stdout=full)
        reason = "txninsightd: standard output cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, reason)
        assert run(daemon, *options, stdout=full, stderr=full).returncode == 1
    with pipe_without_reader() as output:
        assert "Broken pipe" in run(daemon, *options, stdout=output["stdout"]).stderr


def test_a_fault_that_cannot_be_said_keeps_its_exit_code(daemon: Daemon) -> None:
    daemon.config_file.write_text("no: configuration\n")
    with Path("/dev/full").open("wb") as full:
        assert run(daemon, "--check-config", stdout=full, stderr=full).returncode == EXIT_CONFIG
        assert run(daemon, stdout=full, stderr=full).returncode == EXIT_CONFIG
    assert run(daemon, preexec_fn=lambda: os.closerange(1, 3)).returncode == EXIT_CONFIG
