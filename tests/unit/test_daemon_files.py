"""What the running daemon keeps in files, while others remove, move and replace them. Its broker does not exist."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.harness.http import free_port
from txninsightd.aggregate.state_directory import DirectoryLock
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.core.snapshot import VERSION
from txninsightd.supervise.exit_codes import EXIT_NOT_SAVED, EXIT_STATE

pytestmark = pytest.mark.slow

LAST_LOOP = "txninsight_child_last_loop_timestamp_seconds"
READERS = {"monitor-0", "validator-0"}
QUICK = {"checkpoint_every_s": 0.2}
QUICK_RESTARTS = {"backoff_initial_s": 0.05, "backoff_max_s": 0.1}


def make_daemon(place: Path, **state: object) -> Daemon:
    place.mkdir(exist_ok=True)
    sections = {"topics": ["orders"], "supervise": QUICK_RESTARTS, "state": {**QUICK, **state}}
    return Daemon(place, f"127.0.0.1:{free_port()}", sections)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """With a directory that systemd would remove at the stop (RuntimeDirectory=), and one for its state, as links."""
    for name in ("run", "state-0"):
        (tmp_path / name).mkdir()
    point(tmp_path, "state-0")
    made = make_daemon(tmp_path / "daemon", directory=str(tmp_path / "state"))
    made.launch(env={**os.environ, "RUNTIME_DIRECTORY": f"{tmp_path / 'run'}:{tmp_path / 'other'}"})
    await_works(made)
    yield made
    made.end()


def point(root: Path, directory: str) -> None:
    """From now on root/state is this directory, in one step."""
    (root / "link").symlink_to(root / directory)
    (root / "link").replace(root / "state")


def await_works(daemon: Daemon) -> None:
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it serves")
    daemon.await_that(lambda: shown(daemon) == READERS, "both readers beat")


def shown(daemon: Daemon) -> set[str]:
    """The readers with metrics of their own."""
    return {dict(labels)["child"] for name, labels in daemon.metrics() if name == LAST_LOOP}


def problem(daemon: Daemon) -> str:
    """What /readyz says of checkpoints."""
    return "".join(text for text in daemon.missing() if text.startswith("no checkpoint can be written"))


def await_written(daemon: Daemon) -> None:
    """Wait until a checkpoint is written after now."""
    before = newest(daemon)
    daemon.await_that(lambda: newest(daemon) != before and not problem(daemon), "a checkpoint is written")


def newest(daemon: Daemon) -> str:
    """The newest checkpoint's name, in the directory that the path names."""
    return max((path.name for path in (daemon.directory.parent / "state").glob("checkpoint-*[0-9]")), default="")


def test_directories_that_vanish_come_back(daemon: Daemon) -> None:
    root = daemon.directory.parent
    # Its files are for its user alone, and lie where they belong.
    files = [path for place in ("run", "state-0") for path in (root / place).rglob("*")]
    assert {path.name for path in files} >= {"lock", "exposed", "control.sock", "counter_monitor-0.db"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []
    [workers] = (root / "run").iterdir()
    # A cleaner removes the readers' files, and a reader dies before it has noticed.
    shutil.rmtree(workers)
    os.kill(daemon.pids()["monitor-0"], 9)
    daemon.await_that(lambda: shown(daemon) == READERS, "both have metrics again")
    assert [line["child"] for line in daemon.log(event="child_died")] == ["monitor-0"]
    # The directory is emptied: checkpoints, lock and socket come back, and no second daemon starts on it.
    for path in (root / "state-0").iterdir():
        path.unlink(missing_ok=True)
    await_written(daemon)
    assert len(daemon.log(event="state_directory_locked_again")) == 1
    second = make_daemon(root / "second", directory=str(root / "state"))
    assert second.start().await_exit() == EXIT_STATE
    [line] = second.log(event="state_unusable")
    assert daemon.process is not None
    assert f"pid {daemon.process.pid}" in line["error"]
    daemon.await_that(lambda: (root / "state" / "control.sock").exists(), "it takes commands again")
    assert "no live transaction" in daemon.command("forget", "unknown").stderr
    daemon.metrics()
    assert (root / "state" / "exposed").exists()
    # The aggregator is killed: its successor locks what the path names now.
    os.kill(daemon.pids()["aggregator"], 9)
    daemon.await_that(lambda: bool(daemon.log(event="resumed")), "it goes on")
    await_works(daemon)
    await_written(daemon)
    assert daemon.stop() == 0
    assert list((root / "run").iterdir()) == []


def test_a_directory_that_is_anothers_by_now_is_left_alone(daemon: Daemon) -> None:
    root = daemon.directory.parent
    theirs = root / "state-1"
    other = DirectoryLock(theirs)
    other.acquire()
    CheckpointStore(theirs, VERSION).write([b"theirs"])
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    point(root, "state-1")
    daemon.await_that(lambda: problem(daemon), "it is said")
    text = f"no checkpoint can be written: the state directory {root / 'state'} was replaced by another one"
    assert problem(daemon) == text
    assert daemon.status("/readyz") == 503
    assert shown(daemon) == READERS
    [line] = daemon.log(event="checkpoint_failed")
    assert line["error"] == text
    assert "restart txninsightd" in line["advice"]
    # The former one is put back.
    point(root, "state-0")
    await_written(daemon)
    # Another daemon's, again, when it is told to stop.
    point(root, "state-1")
    daemon.await_that(lambda: problem(daemon), "it is said again")
    assert daemon.stop() == EXIT_NOT_SAVED
    assert daemon.log(event="daemon_stopped")
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    other.release()


def test_without_a_runtime_directory_the_files_are_in_the_state_directory(tmp_path: Path) -> None:
    """Those of a killed daemon are removed at the next start."""
    daemon = make_daemon(tmp_path / "daemon")
    state = daemon.directory / "state"
    try:
        daemon.launch(env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "nowhere")})
        await_works(daemon)
        daemon.kill()
        [left] = state.glob("workers-*")
        daemon.start()
        await_works(daemon)
        [workers] = state.glob("workers-*")
        assert workers != left
        assert daemon.stop() == 0
        assert list(state.glob("workers-*")) == []
    finally:
        daemon.end()
