"""What readers write about themselves: real processes, forked, killed and started again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from tests.harness.dummy_reader import DummyReader, beat_in_a_fork
from tests.harness.expose_world import BEGIN, World, ask

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


def test_a_file_that_cannot_be_read_costs_only_the_readers_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gauge_mostrecent_monitor-0.db").write_bytes(b"")
    answer = ask(World(multiproc_dir=tmp_path), "/metrics")
    assert answer.status == 200
    assert DEPTH not in answer.text
    assert "txninsight_ready" in answer.text
    assert "worker_files_unreadable" in capsys.readouterr().out
