"""The process that reads the config again: whatever it meets, the parent goes on with all of its work meanwhile."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.harness.processes import descriptors
from tests.harness.supervised import READERS, StartSupervised, Supervised
from tests.unit.test_reload_parent import configs, hang_up, reloads

pytestmark = pytest.mark.slow

MOST_BYTES = 1 << 20


def readings(parent: Supervised) -> list[int]:
    """The processes that have read the config again."""
    return [note["pid"] for note in parent.notes(process="config-reader", what="started")]


def reasons(parent: Supervised) -> list[str]:
    """Why readings without an answer were refused."""
    return [note["reason"] for note in parent.notes(process="parent", what="refused")]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# --- While it reads ---------------------------------------------------------------------------------------------------


def test_meanwhile_children_are_replaced_watched_and_told(supervise: StartSupervised, pipe: Path) -> None:
    parent = supervise("reload-waits", RELOAD_PIPE=str(pipe), WATCHDOG_USEC="400000").await_started()
    parent.await_that(lambda: "READY=1" in parent.told())
    hang_up(parent)
    parent.await_that(lambda: len(readings(parent)) == 1)
    fed = parent.told().count("WATCHDOG=1")

    parent.kill("monitor-1")
    parent.await_attached("monitor-1", 2)
    parent.kill("validator-0", signal.SIGSTOP)
    parent.await_attached("validator-0", 2)
    parent.await_that(lambda: parent.told().count("WATCHDOG=1") > fed)
    assert [line["child"] for line in parent.log(event="child_hung")] == ["validator-0"]
    for child in ("monitor-1", "validator-0"):
        parent.await_that(lambda child=child: configs(parent, child) == ["config 0", "config 0"])
    assert [text for text in parent.told() if text.startswith("RELOADING=1\nMONOTONIC_USEC=")] != []
    assert parent.told().count("READY=1") == 1
    assert reloads(parent) in ([], [0, 0, True])

    pipe.write_bytes(b"")
    parent.await_that(lambda: reloads(parent) == [1, 0, True])
    # Those that were forked meanwhile hear of it from the aggregator, after their attachment.
    what = [note["what"] for note in parent.notes(process="aggregator") if note["what"] in ("attached", "reloaded")]
    assert what == ["attached"] * (len(READERS) + 2) + ["reloaded"]
    parent.await_that(lambda: parent.told().count("READY=1") == 2)
    assert parent.stop() == 0
    assert parent.living() == []


def test_an_aggregator_that_is_forked_meanwhile_gets_the_new_one(supervise: StartSupervised, pipe: Path) -> None:
    parent = supervise("reload-waits", RELOAD_PIPE=str(pipe)).await_started()
    hang_up(parent)
    parent.await_that(lambda: len(readings(parent)) == 1)
    parent.kill("aggregator")
    parent.await_started(times=2)
    pipe.write_bytes(b"")
    parent.await_that(lambda: configs(parent, "aggregator") == ["config 0", "config 0", "config 1"])
    parent.kill("monitor-0")
    parent.await_that(lambda: configs(parent, "monitor-0") == ["config 0", "config 0", "config 1"])
    assert {note["memory_files"] for note in parent.notes(process="monitor-0", what="started")} == {0}
    assert parent.stop() == 0


def test_a_stop_ends_it_at_once(supervise: StartSupervised) -> None:
    parent = supervise("reload-waits", RELOAD_PIPE="/dev/zero").await_started()
    hang_up(parent)
    parent.await_that(lambda: len(readings(parent)) == 1)
    assert parent.stop() == 0
    assert not Path(f"/proc/{readings(parent)[0]}").exists()
    assert parent.living() == []


def test_it_does_not_outlive_a_killed_parent(supervise: StartSupervised, pipe: Path) -> None:
    parent = supervise("reload-waits", RELOAD_PIPE=str(pipe)).await_started()
    hang_up(parent)
    parent.await_that(lambda: len(readings(parent)) == 1)
    parent.process.kill()
    parent.process.wait()
    parent.await_that(lambda: not Path(f"/proc/{readings(parent)[0]}").exists())


# --- What ends it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reload-hangs", "it takes more than 0.3 s to read"),
        ("reload-grows", "it takes more than 64 MiB of memory to read"),
        ("reload-fails", "the process that read it ended with 1"),
        ("reload-dies", "the process that read it ended with -9"),
    ],
)
def test_one_without_an_answer_is_refused_and_the_next_one_starts(
    supervise: StartSupervised, fault: str, reason: str
) -> None:
    parent = supervise(fault).await_started()
    held, before = descriptors(parent.process.pid), parent.pids()
    for times in (1, 2):
        hang_up(parent)
        parent.await_that(lambda times=times: reloads(parent) == [0, times, False])
        assert reasons(parent) == [reason] * times
    parent.await_that(lambda: descriptors(parent.process.pid) <= held)
    assert parent.pids() == before
    assert parent.notes(what="reloaded") == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in readings(parent))
    assert len(parent.log(event="config_reader_failed")) == (2 if fault == "reload-fails" else 0)
    assert parent.stop() == 0


# --- How often --------------------------------------------------------------------------------------------------------


def test_very_many_hangups_are_two_reloads(supervise: StartSupervised) -> None:
    """The second one starts once it is quiet, after the last of them."""
    parent = supervise("none", QUIET_S="2").await_started()
    for _ in range(200):
        hang_up(parent)
        time.sleep(0.002)  # signals of one number that are pending at once are one signal
    last = time.monotonic()
    parent.await_that(lambda: reloads(parent) == [2, 0, True])
    assert time.monotonic() - last >= 1.5
    assert len(readings(parent)) == 2
    assert [note["config"] for note in parent.notes(what="reloaded")] == ["config 1", "config 2"]
    assert parent.stop() == 0


def test_hangups_while_it_reads_are_one_more(supervise: StartSupervised, pipe: Path) -> None:
    parent = supervise("reload-waits", RELOAD_PIPE=str(pipe)).await_started()
    for _ in range(50):
        hang_up(parent)
        time.sleep(0.002)
    parent.await_that(lambda: len(readings(parent)) == 1)
    for times in (1, 2):
        pipe.write_bytes(b"")
        parent.await_that(lambda times=times: reloads(parent)[:1] == [times])
    assert len(readings(parent)) == 2
    assert parent.stop() == 0


# --- Real files -------------------------------------------------------------------------------------------------------


def bomb() -> str:
    """A few kilobytes that a parser without bounds makes gigabytes of."""
    levels = [f"- &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 20)]
    return "\n".join(["topics:", "- &l0 [x, x, x]", *levels])


def test_a_file_that_is_no_config_is_refused_in_one_line(supervise: StartSupervised, tmp_path: Path) -> None:
    file = tmp_path / "txninsight.yaml"
    file.write_text("stuck: {idle_after_s: 7}\n")
    parent = supervise("none", CONFIG=str(file)).await_started()
    before = parent.pids()

    def is_refused(times: int, reason: str) -> None:
        hang_up(parent)
        parent.await_that(lambda: reloads(parent) == [0, times, False])
        said = parent.log(event="config_refused")
        assert len(said) == times
        assert said[-1]["reason"] == f"{file}:1: (file): {reason}"

    file.unlink()
    os.mkfifo(file)
    is_refused(1, "expected a file to read (found a named pipe)")
    file.unlink()
    file.symlink_to("/dev/zero")
    is_refused(2, "expected a file to read (found a device)")
    file.unlink()
    file.write_text(bomb())
    is_refused(3, "expected at most 100000 values, aliases followed (found more)")
    file.write_bytes(b"#" * (MOST_BYTES + 1))
    is_refused(4, f"expected at most {MOST_BYTES} bytes (found more)")
    assert parent.log(event="config_fault") == []

    file.write_text("stuck: {idle_after_s: 8}\n")
    hang_up(parent)
    parent.await_that(lambda: reloads(parent) == [1, 4, True])
    assert configs(parent, "aggregator") == ["7", "8"]
    parent.kill("monitor-0")
    parent.await_that(lambda: configs(parent, "monitor-0") == ["7", "8"])
    assert {child for child, pid in parent.pids().items() if before[child] != pid} == {"monitor-0"}
    assert parent.stop() == 0
