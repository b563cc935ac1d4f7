"""The unit that ships, in a really booted systemd: started, asked, stopped dead, killed, misconfigured and stopped.

One machine serves all tests; each finds the service active and leaves it so.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.json_log import parse_lines
from tests.harness.systemd import UNIT, Machine, freeze, why_not
from txninsightd.supervise.exit_codes import EXIT_STATE

pytestmark = pytest.mark.slow

CHILDREN = {"parent", "aggregator", "monitor-0", "validator-0"}


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    lacking = why_not()
    if lacking:
        pytest.skip(f"this machine cannot boot a systemd of our own: {lacking}")
    machine = Machine(tmp_path_factory.mktemp("systemd"))
    yield machine
    machine.stop()


@pytest.fixture
def machine(booted: Machine) -> Machine:
    """With the service active."""
    booted.systemctl("start", UNIT)
    booted.await_that(lambda: set(booted.pids()) == CHILDREN, "all processes are there")
    return booted


def await_replaced(machine: Machine, child: str, former: int) -> None:
    """The child is another process now, and all are there."""

    def is_replaced() -> bool:
        pids = machine.pids()
        return set(pids) == CHILDREN and pids[child] != former

    machine.await_that(is_replaced, f"{child} is replaced")


def test_the_unit_has_no_fault_that_systemd_sees(booted: Machine) -> None:
    verified = booted.run("systemd-analyze", "verify", "--man=no", UNIT)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_it_is_active_without_a_broker_and_says_what_is_missing(machine: Machine) -> None:
    """`systemctl start` returns when READY was told: so it serves by then."""
    assert machine.http_status("/healthz") == 200
    assert machine.http_status("/readyz") == 503
    assert machine.show("ActiveState") == "active"
    machine.await_that(lambda: "does not answer" in machine.show("StatusText"), "the status says what is missing")
    assert machine.show("StatusText").startswith("0 open, 0 stuck; not ready: ")
    assert "0 open, 0 stuck" in machine.run("systemctl", "status", UNIT).stdout


def test_its_processes_may_open_many_files(machine: Machine) -> None:
    assert machine.show("LimitNOFILE") == "65536"
    # As many as the machine that runs the test allows, and no longer systemd's default.
    limits = Path(f"/proc/{machine.pids()['aggregator']}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) > 1024


def test_its_state_is_its_own(machine: Machine) -> None:
    assert machine.run("stat", "--format=%a %F", "/var/lib/txninsightd/.").stdout.strip() == "700 directory"
    assert machine.run("stat", "--format=%U", "/var/lib/txninsightd/.").stdout.strip() != "root"


def test_what_lasts_for_one_run_is_in_its_runtime_directory(machine: Machine) -> None:
    assert machine.run("stat", "--format=%a %F", "/run/txninsightd/.").stdout.strip() == "700 directory"
    files = machine.run("find", "/run/txninsightd/", "-name", "*.db").stdout
    assert {Path(line).name.removesuffix(".db").split("_")[-1] for line in files.split()} == {
        "monitor-0",
        "validator-0",
    }
    assert machine.run("find", "/tmp", "/var/lib/txninsightd/", "-name", "*.db").stdout == ""


@pytest.mark.parametrize("child", ["validator-0", "aggregator"])
def test_a_stopped_child_is_replaced_and_the_service_stays_active(machine: Machine, child: str) -> None:
    before, restarts = machine.pids(), machine.show("NRestarts")
    freeze(before[child])
    await_replaced(machine, child, before[child])
    assert machine.pids()["parent"] == before["parent"]
    assert machine.show("ActiveState") == "active"
    assert machine.show("NRestarts") == restarts
    assert [line["child"] for line in machine.log(event="child_hung")][-1] == child


def await_started_anew(machine: Machine, before: dict[str, int], restarts: int) -> None:
    """systemd has started the service once more, and nothing is left of the former processes."""
    machine.await_that(
        lambda: machine.show("NRestarts") == str(restarts + 1) and machine.show("ActiveState") == "active",
        "systemd has started it again",
    )
    machine.await_that(lambda: set(machine.pids()) == CHILDREN, "all processes are there")
    assert not set(machine.pids().values()) & set(before.values())
    assert not [pid for pid in before.values() if Path(f"/proc/{pid}").exists()]


def test_a_killed_parent_is_started_anew_and_leaves_no_process(machine: Machine) -> None:
    before, restarts = machine.pids(), int(machine.show("NRestarts"))
    os.kill(before["parent"], signal.SIGKILL)
    await_started_anew(machine, before, restarts)


def test_a_stopped_parent_is_found_by_the_watchdog_and_started_anew(machine: Machine) -> None:
    before, restarts = machine.pids(), int(machine.show("NRestarts"))
    freeze(before["parent"])
    await_started_anew(machine, before, restarts)
    assert "Watchdog timeout" in machine.journal()
    assert "Fatal Python error: Aborted" in machine.journal()  # and where it stood


def test_the_watchdog_leaves_one_alone_that_works(machine: Machine) -> None:
    """Over more than its time, with all that the parent does in it."""
    before, restarts = machine.pids(), machine.show("NRestarts")
    for _ in range(2):
        monitor = machine.pids()["monitor-0"]
        freeze(monitor)
        await_replaced(machine, "monitor-0", monitor)
    assert machine.show("NRestarts") == restarts
    assert machine.pids()["parent"] == before["parent"]


def test_a_second_unit_with_the_same_state_directory_is_told_whose_it_is(machine: Machine) -> None:
    before = machine.pids()
    own = ["--property=DynamicUser=yes", "--property=StateDirectory=txninsightd-two"]
    program = ["/opt/txninsightd/bin/txninsightd", "--config", "/etc/txninsightd/txninsight.yaml"]
    second = machine.run("systemd-run", "--quiet", "--wait", "--pipe", *own, *program)
    assert second.returncode == EXIT_STATE
    (line,) = parse_lines(second.stderr.splitlines(), event="state_unusable")
    assert "/var/lib/txninsightd is a symbolic link to private/txninsightd" in line["error"]
    assert "this unit's own is /var/lib/txninsightd-two" in line["error"]
    assert "remove" not in line["error"]
    assert machine.pids() == before


def test_it_reads_its_configuration_again(machine: Machine) -> None:
    before = machine.pids()
    machine.systemctl("reload", UNIT)
    machine.await_that(lambda: bool(machine.log(event="config_applied")), "it is read")
    assert machine.show("ActiveState") == "active"
    assert machine.pids() == before


def test_it_stops_in_order(machine: Machine) -> None:
    before = machine.pids()
    machine.systemctl("stop", UNIT)
    assert [machine.show(name) for name in ("ActiveState", "Result", "ExecMainStatus")] == ["inactive", "success", "0"]
    assert machine.log()[-1]["event"] == "daemon_stopped"
    assert not [pid for pid in before.values() if Path(f"/proc/{pid}").exists()]


def test_a_configuration_that_cannot_be_used_is_not_tried_again(machine: Machine) -> None:
    file = "/etc/txninsightd/txninsight.yaml"
    machine.systemctl("stop", UNIT)
    machine.run("sed", "-i", "s/^topics:/tpics:/", file)
    try:
        assert machine.run("systemctl", "start", UNIT).returncode != 0
        assert [machine.show(name) for name in ("ActiveState", "ExecMainStatus")] == ["failed", "2"]
        assert "tpics" in machine.journal()
    finally:
        machine.run("sed", "-i", "s/^tpics:/topics:/", file)
    machine.systemctl("start", UNIT)
