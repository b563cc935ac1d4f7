"""What readers write about themselves: real processes, forked, killed and started again."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from tests.harness.dummy_reader import DummyReader, beat_in_a_fork
from tests.harness.expose_world import BEGIN, World, ask
from tests.harness.tmpfs import tmpfs

LAST_LOOP = "txninsight_child_last_loop_timestamp_seconds"
DEPTH = "txninsight_queue_depth"
PAUSED = "txninsight_consumer_paused"
PAUSES = "txninsight_consumer_pauses_total"


@contextmanager
def reader(slot: str, directory: Path) -> Iterator[DummyReader]:
    running = DummyReader(slot, directory)
    try:
        yield running
    finally:
        running.kill()


def shown(directory: Path, name: str) -> dict[str, float]:
    """A metric's values by child, as /metrics shows them."""
    text = ask(World(multiproc_dir=directory), "/metrics").text
    return {s.labels["child"]: s.value for f in parse_plain(text) for s in f.samples if s.name == name}


def test_two_readers_are_shown_side_by_side(tmp_path: Path) -> None:
    with reader("monitor-0", tmp_path) as monitor, reader("validator-0", tmp_path) as validator:
        monitor.beat(BEGIN, queue_depth=5, paused=False)
        validator.beat(BEGIN + 3, queue_depth=64, paused=True)
        assert shown(tmp_path, LAST_LOOP) == {"monitor-0": BEGIN, "validator-0": BEGIN + 3}
        assert shown(tmp_path, DEPTH) == {"monitor-0": 5, "validator-0": 64}
        assert shown(tmp_path, PAUSED) == {"monitor-0": 0, "validator-0": 1}


def test_one_that_is_killed_stays_as_it_was_and_its_successor_takes_over(tmp_path: Path) -> None:
    with reader("validator-0", tmp_path) as validator:
        validator.beat(BEGIN, queue_depth=1, paused=False)
        for life in range(5):
            beat_in_a_fork("monitor-0", tmp_path, BEGIN + life, queue_depth=life, paused=bool(life % 2))
            assert shown(tmp_path, LAST_LOOP) == {"monitor-0": BEGIN + life, "validator-0": BEGIN}
            assert shown(tmp_path, DEPTH)["monitor-0"] == life
            assert shown(tmp_path, PAUSED)["monitor-0"] == life % 2
        assert shown(tmp_path, PAUSES) == {"monitor-0": 2, "validator-0": 0}
    assert len(list(tmp_path.iterdir())) == 4


def test_a_loop_writes_at_most_once_a_second(tmp_path: Path) -> None:
    with reader("monitor-0", tmp_path) as monitor:
        monitor.beat(BEGIN, queue_depth=1, paused=False)
        monitor.beat(BEGIN + 0.9, queue_depth=2, paused=True)
        assert shown(tmp_path, DEPTH) == {"monitor-0": 1}
        monitor.beat(BEGIN + 1.0, queue_depth=3, paused=True)
        assert shown(tmp_path, DEPTH) == {"monitor-0": 3}


def test_a_reader_leaves_nothing_in_the_environment_of_its_parent(tmp_path: Path) -> None:
    beat_in_a_fork("monitor-0", tmp_path, BEGIN, queue_depth=1, paused=False)
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


# --- The files are removed --------------------------------------------------------------------------------------------


def pauses(monitor: DummyReader, begin: float, count: int) -> None:
    """Beats in which the consumer is paused so many times, and resumed; ten seconds pass."""
    for i in range(count):
        monitor.beat(begin + i, queue_depth=i, paused=True)
        monitor.beat(begin + i + 0.5, queue_depth=i, paused=False)
    monitor.beat(begin + 10, queue_depth=count, paused=False)


@pytest.mark.parametrize("how", ["directory", "files"])
def test_files_that_are_removed_are_made_again_and_no_counter_falls(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "workers"
    with reader("monitor-0", directory) as monitor:
        for removed in range(1, 4):
            pauses(monitor, BEGIN + 20 * removed, 2)
            assert shown(directory, PAUSES) == {"monitor-0": 2 * removed}
            for path in directory.iterdir():
                path.unlink()
            if how == "directory":
                directory.rmdir()
            assert shown(directory, PAUSES) == {}
            monitor.beat(BEGIN + 20 * removed + 11, queue_depth=removed, paused=False)
            assert shown(directory, PAUSES) == {"monitor-0": 2 * removed}
            assert shown(directory, DEPTH) == {"monitor-0": removed}
    beat_in_a_fork("monitor-0", directory, BEGIN, queue_depth=1, paused=True)
    assert shown(directory, PAUSES) == {"monitor-0": 7}


def test_a_reader_works_while_its_directory_cannot_be_made(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "workers"
    with reader("monitor-0", directory) as monitor:
        pauses(monitor, BEGIN, 3)
        assert shown(directory, PAUSES) == {}
        directory.parent.mkdir()
        monitor.beat(BEGIN + 20, queue_depth=4, paused=True)
        assert shown(directory, PAUSES) == {"monitor-0": 4}


def test_a_full_disk_costs_the_readers_metrics_and_no_reader(tmp_path: Path) -> None:
    """Without reserved blocks the first write into the mapping would kill it (SIGBUS)."""
    with tmpfs(tmp_path, "64k") as small:
        directory = small.directory / "workers"
        with (small.directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(b"." * 4096):
                pass
        with reader("monitor-0", directory) as monitor:
            pauses(monitor, BEGIN, 3)
            assert shown(directory, PAUSES) == {}
            (small.directory / "filler").unlink()
            monitor.beat(BEGIN + 20, queue_depth=4, paused=False)
            assert shown(directory, PAUSES) == {"monitor-0": 3}
            assert monitor.process.is_alive()


def test_a_file_that_cannot_be_read_costs_only_the_readers_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gauge_mostrecent_monitor-0.db").write_bytes(b"")
    answer = ask(World(multiproc_dir=tmp_path), "/metrics")
    assert answer.status == 200
    assert DEPTH not in answer.text
    assert "txninsight_ready" in answer.text
    assert "worker_files_unreadable" in capsys.readouterr().out
