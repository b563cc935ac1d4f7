"""A child of a third kind is one more `ChildSpec`: the parent restarts it, and the aggregator takes what it sends."""

from pathlib import Path

import pytest

from tests.harness.supervised import StartSupervised, Supervised
from txninsightd import daemon
from txninsightd.aggregate.state_directory import DirectoryLock
from txninsightd.config import Config
from txninsightd.supervise.children import LineKind
from txninsightd.supervise.current_config import CurrentConfig


def has_sent(parent: Supervised, pid: int) -> bool:
    """Whether the aggregator has taken a message of this process."""
    return bool(parent.log(event="discovery_problems", process="aggregator", problems=[f"sent by {pid}"]))


@pytest.mark.slow
def test_a_third_kind_of_child_is_restarted_with_a_new_line_and_sends_on(supervise: StartSupervised) -> None:
    parent = supervise("none", program="tests.harness.third_child")
    parent.await_that(lambda: "collector-0" in parent.pids() and has_sent(parent, parent.pids()["collector-0"]))
    killed = parent.kill("collector-0")
    parent.await_that(lambda: parent.pids()["collector-0"] != killed)
    parent.await_that(lambda: has_sent(parent, parent.pids()["collector-0"]))
    assert len(parent.log(event="child_started", child="aggregator")) == 1
    assert parent.log(event="collector_received") == []
    assert parent.process.poll() is None
    assert parent.stop() == 0
    assert parent.living() == []


def test_the_daemon_has_one_aggregator_and_readers_that_send_to_it(tmp_path: Path) -> None:
    shared = daemon.Shared(CurrentConfig(Config(), tmp_path), 0.0, tmp_path, DirectoryLock(tmp_path))
    kinds = {spec.name: spec.line for spec in daemon.children(shared)}
    assert kinds == {"aggregator": LineKind.CONTROL, "monitor-0": LineKind.DATA, "validator-0": LineKind.DATA}
