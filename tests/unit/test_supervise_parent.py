"""The parent over dummy children: what starts and stops when, what is restarted, and when it gives up."""

import os
import signal

import pytest

from tests.harness.processes import descriptors
from tests.harness.supervised import CHILDREN, StartSupervised
from txninsightd.parent_death import kill_on_parent_exit
from txninsightd.supervise.exit_codes import EXIT_GAVE_UP, EXIT_KILLED, EXIT_STATE, EXIT_UNUSABLE

pytestmark = pytest.mark.slow


# --- Order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_receivers_start_first_and_stop_last(supervise: StartSupervised, number: int) -> None:
    parent = supervise("none").await_started()
    assert parent.stop(number) == 0
    order = parent.order()
    assert parent.log(event="child_started")[0]["child"] == "aggregator"
    assert order[-1] == ("aggregator", "stopped")
    assert {process for process, what in order if what == "stopped"} == CHILDREN
    assert parent.living() == []


def test_the_aggregator_is_told_how_the_children_are(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    parent.await_that(lambda: bool(parent.notes(what="children_status")))
    children_status = parent.notes(what="children_status")[-1]
    assert children_status["up"] == dict.fromkeys(CHILDREN, True)
    assert children_status["restarts"] == dict.fromkeys(CHILDREN, 0)
    parent.stop()


def test_a_signal_before_any_child_is_ready_is_not_lost(supervise: StartSupervised) -> None:
    parent = supervise("none")
    parent.await_that(lambda: bool(parent.log(event="child_started")))
    assert parent.stop() == 0
    assert parent.living() == []


# --- Deaths -----------------------------------------------------------------------------------------------------------


def test_a_dead_reader_is_restarted_alone(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    before = parent.pids()
    parent.kill("monitor-1")
    parent.await_attached("monitor-1", 2)
    after = parent.pids()
    assert {child for child in CHILDREN if before[child] != after[child]} == {"monitor-1"}
    parent.await_that(lambda: parent.notes(what="children_status")[-1]["restarts"]["monitor-1"] == 1)
    assert {"monitor-1": False} in [{"monitor-1": n["up"]["monitor-1"]} for n in parent.notes(what="children_status")]
    assert parent.stop() == 0


def test_with_the_aggregator_everything_is_restarted(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    before = parent.pids()
    parent.await_that(lambda: bool(parent.notes(what="children_status")))
    parent.kill("aggregator")
    parent.await_started(times=2)
    assert not set(before.values()) & set(parent.pids().values())
    assert parent.stop() == 0
    assert parent.living() == []


def test_no_reader_is_started_for_an_aggregator_that_is_about_to_be_dead(supervise: StartSupervised) -> None:
    parent = supervise("aggregator-dies-slowly")
    parent.await_that(lambda: bool(parent.notes(what="closed")))
    parent.kill("monitor-1")
    parent.await_that(lambda: len(parent.log(event="child_started", child="aggregator")) == 2)
    started = [line["child"] for line in parent.log(event="child_started")]
    assert set(started[: len(CHILDREN)]) == CHILDREN
    assert started[len(CHILDREN)] == "aggregator"
    parent.await_started(times=2)


def test_a_reader_that_keeps_dying_is_given_up(supervise: StartSupervised) -> None:
    parent = supervise("reader-dies")
    assert parent.exit_code() == EXIT_GAVE_UP
    deaths = parent.log(event="child_died")
    assert [d["restart_in_s"] for d in deaths] == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert {d["child"] for d in deaths} == {"validator-0"}
    assert [line["child"] for line in parent.log(event="gave_up")] == ["validator-0"]
    assert parent.living() == []


def test_an_aggregator_that_keeps_dying_is_given_up(supervise: StartSupervised) -> None:
    parent = supervise("aggregator-dies")
    assert parent.exit_code() == EXIT_GAVE_UP
    assert [d["child"] for d in parent.log(event="child_died")] == ["aggregator"] * 5
    assert parent.living() == []


def test_a_child_that_can_never_work_ends_all_at_once(supervise: StartSupervised) -> None:
    parent = supervise("unusable")
    assert parent.exit_code() == EXIT_UNUSABLE
    assert len(parent.notes(process="validator-0", what="started")) == 1
    assert parent.living() == []


def test_an_aggregator_without_a_place_for_its_state_ends_all_at_once(supervise: StartSupervised) -> None:
    parent = supervise("no-state")
    assert parent.exit_code() == EXIT_STATE
    assert len(parent.notes(process="aggregator", what="started")) == 1
    assert parent.living() == []


# --- Silence ----------------------------------------------------------------------------------------------------------


def test_a_stopped_reader_is_replaced_alone(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    before = parent.pids()
    parent.kill("monitor-1", signal.SIGSTOP)
    parent.await_attached("monitor-1", 2)
    after = parent.pids()
    assert {child for child in CHILDREN if before[child] != after[child]} == {"monitor-1"}
    (hung,) = parent.log(event="child_hung")
    assert (hung["child"], hung["pid"]) == ("monitor-1", before["monitor-1"])
    assert hung["age_s"] >= 1.0
    assert hung["state"] == "T (stopped)"
    assert [d["child"] for d in parent.log(event="child_died")] == ["monitor-1"]
    assert parent.stop() == 0
    assert parent.living() == []


def test_with_a_stopped_aggregator_everything_is_replaced(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    before = parent.pids()
    parent.kill("aggregator", signal.SIGSTOP)
    parent.await_started(times=2)
    assert not set(before.values()) & set(parent.pids().values())
    assert parent.stop() == 0
    assert parent.living() == []


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "child"), [("reader-hangs", "validator-0"), ("aggregator-hangs", "aggregator")])
def test_one_that_keeps_hanging_is_given_up(supervise: StartSupervised, fault: str, child: str) -> None:
    parent = supervise(fault)
    assert parent.exit_code() == EXIT_GAVE_UP
    assert [h["child"] for h in parent.log(event="child_hung")] == [child] * 5
    assert [line["child"] for line in parent.log(event="gave_up")] == [child]
    assert "READY=1" not in parent.told()
    assert parent.living() == []


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_it_is_ready_once_all_children_work(supervise: StartSupervised) -> None:
    parent = supervise("none")
    parent.await_that(lambda: "STATUS=all is well" in parent.told())
    told = parent.told()
    assert told.index("READY=1") < told.index("STATUS=all is well")
    parent.kill("aggregator")
    parent.await_that(lambda: parent.told().count("STATUS=all is well") == 2)
    assert parent.stop() == 0
    told = parent.told()
    assert told.count("READY=1") == 1
    assert told[-2:] == ["STOPPING=1", "STATUS=stopping"]


def test_it_is_not_ready_while_the_aggregator_does_not_serve(supervise: StartSupervised) -> None:
    parent = supervise("not-serving").await_started()
    parent.await_that(lambda: "STATUS=starting: the aggregator does not serve yet" in parent.told())
    assert parent.stop() == 0
    assert "READY=1" not in parent.told()


def test_the_watchdog_is_fed_over_restarts_of_a_child(supervise: StartSupervised) -> None:
    parent = supervise("none", WATCHDOG_USEC="400000").await_started()
    for times in (2, 3):
        fed = parent.told().count("WATCHDOG=1")
        parent.kill("monitor-0")
        parent.await_attached("monitor-0", times)
        parent.await_that(lambda fed=fed: parent.told().count("WATCHDOG=1") > fed)
    assert parent.stop() == 0


def test_the_watchdog_is_not_fed_while_a_child_hangs_that_cannot_be_killed(supervise: StartSupervised) -> None:
    parent = supervise("reader-undying", WATCHDOG_USEC="200000")
    parent.await_that(lambda: bool(parent.log(event="child_hung")))
    fed = parent.told().count("WATCHDOG=1")
    assert fed
    for times in (2, 3, 4):
        parent.kill("monitor-0")
        parent.await_attached("monitor-0", times)
    assert parent.told().count("WATCHDOG=1") == fed
    assert len(parent.log(event="child_hung")) == 1
    os.kill(parent.pids()["validator-0"], signal.SIGKILL)
    parent.await_that(lambda: parent.told().count("WATCHDOG=1") > fed)


# --- Stopping under difficulties --------------------------------------------------------------------------------------


def test_a_child_that_does_not_stop_is_killed(supervise: StartSupervised) -> None:
    parent = supervise("stubborn").await_started()
    assert parent.stop() == EXIT_KILLED
    assert [line["child"] for line in parent.log(event="child_did_not_stop")] == ["validator-0"]
    assert {line["process"] for line in parent.notes(what="stopped")} == {"monitor-0", "monitor-1", "aggregator"}
    assert parent.living() == []


def test_an_aggregator_that_restores_its_state_is_not_waited_for(supervise: StartSupervised) -> None:
    parent = supervise("restoring")
    parent.await_that(lambda: all(parent.notes(process=child, what="started") for child in CHILDREN))
    assert parent.stop() == 0
    assert parent.log(event="child_did_not_stop") == []
    assert parent.log()[-1]["orderly"] is True
    assert parent.living() == []


def test_a_second_signal_changes_nothing(supervise: StartSupervised) -> None:
    parent = supervise("stubborn").await_started()
    parent.process.send_signal(signal.SIGTERM)
    parent.await_that(lambda: bool(parent.log(event="daemon_stopping")))
    assert parent.stop(signal.SIGINT) == EXIT_KILLED
    assert parent.order()[-1] == ("aggregator", "stopped")
    assert parent.living() == []


def test_it_stops_while_a_restart_is_due(supervise: StartSupervised) -> None:
    parent = supervise("reader-dies")
    parent.await_that(lambda: bool(parent.log(event="child_died")))
    assert parent.stop() in (0, EXIT_KILLED)
    assert not parent.log(event="gave_up")
    assert parent.living() == []


def test_no_child_outlives_a_killed_parent(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    parent.process.kill()
    parent.process.wait()
    parent.await_that(lambda: parent.living() == [])


def test_a_stopped_child_does_not_outlive_a_killed_parent(supervise: StartSupervised) -> None:
    """It cannot see that its line has ended; only the kernel can end it."""
    parent = supervise("none").await_started()
    for child in CHILDREN:
        parent.kill(child, signal.SIGSTOP)
    parent.process.kill()
    parent.process.wait()
    parent.await_that(lambda: parent.living() == [])


def test_a_child_whose_parent_died_before_it_set_the_death_signal_dies_too() -> None:
    pid = os.fork()
    if not pid:
        kill_on_parent_exit(os.getpid())  # not its parent
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_restarts_leak_no_descriptors(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    held = descriptors(parent.process.pid)
    for times in (2, 3, 4, 5):
        parent.kill("monitor-0")
        parent.await_attached("monitor-0", times)
    parent.await_that(lambda: descriptors(parent.process.pid) <= held)
    started = [n["descriptors"] for n in parent.notes(process="monitor-0", what="started")]
    assert len(set(started[1:])) == 1
    assert parent.stop() == 0
