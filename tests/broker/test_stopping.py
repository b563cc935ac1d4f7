"""A daemon stops in order whatever its broker does: hang, die, fall silent behind a firewall, or not be there at all.

The daemons write their first checkpoints, and so commit what they have read, while no broker takes it: a Kafka client
waits for that when it is closed. All stops are of one run, since each needs the broker only to be gone in its way.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cluster import ProxiedListener, broker_with_listeners
from tests.harness.daemon import Daemon
from tests.harness.http import free_port
from tests.harness.proxy import Proxy
from tests.harness.transactions import Written, await_counted, write_transactions
from tests.harness.waiting import await_that
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import create_topics

TOPIC = "t"
SELDOM = {"checkpoint_every_s": 3600, "retry_grace_s": 0.5}
OFTEN = {**SELDOM, "checkpoint_every_s": 0.2}
SECTIONS: dict[str, Any] = {"topics": [TOPIC], "state": SELDOM}
COMMITS = 2
"""What the first of them commits may still be on its way to the readers."""
PHASES = ("silent", "hung", "dead", "absent", "starting")


class Experiment:
    """One broker, and a daemon for each way in which it goes. `outage_s`: how long it is dead before the stop."""

    def __init__(self, libs: Path, directory: Path, outage_s: int, ends: ExitStack) -> None:
        listener = ProxiedListener(*machine.free_ports(2))
        self.broker = broker_with_listeners(directory / "broker", libs, {"PROXIED": listener})
        ends.callback(self.broker.kill)
        self.proxy = ends.enter_context(Proxy(listener.advertised_port, listener.port))
        self.outage_s = outage_s
        self.exit_codes: dict[str, int] = {}
        self.daemons: dict[str, Daemon] = {}
        ports = {"silent": self.proxy.port, "absent": free_port()}
        for phase in PHASES:
            (directory / phase).mkdir()
            bootstrap = f"{machine.HOST}:{ports.get(phase, self.broker.port)}"
            self.daemons[phase] = Daemon(directory / phase, bootstrap, SECTIONS)
            ends.callback(self.daemons[phase].end)
        self.written = Written()

    def run(self) -> None:
        """Take the broker away in each way, and stop the daemons that it leaves."""
        absent = self.daemons["absent"].start()
        self.broker.start()
        create_topics(self.broker.bootstrap, {TOPIC: 2})
        watching = [self.daemons[phase].start() for phase in ("silent", "hung", "dead")]
        self.written = write_transactions(self.broker.bootstrap, TOPIC, "t", 4)
        for daemon in watching:
            await_counted(daemon.await_ready(), TOPIC, self.written)
        absent.await_that(lambda: any("does not answer" in text for text in absent.missing()), "it has asked in vain")
        self.proxy.fall_silent()
        os.kill(self.broker.pid, signal.SIGSTOP)
        self.await_commits("silent", "hung")
        self.stop("silent", "hung", "absent")
        self.broker.kill()
        dead = self.daemons["dead"]
        blind = f"nothing newer than {self.outage_s} s"
        if self.outage_s:
            dead.await_that(lambda: any(blind in text for text in dead.missing()), f"it has seen {blind}")
        self.await_commits("dead")
        starting = self.daemons["starting"].start()
        starting.await_that(lambda: starting.log(event="child_started", child="aggregator"), "it has begun to fork")
        self.stop("dead", "starting")

    def await_commits(self, *phases: str) -> None:
        """Have the readers of these daemons commit what they have read, which no broker takes."""
        written = {phase: self.checkpoints(phase) for phase in phases}
        for phase in phases:
            daemon = self.daemons[phase]
            daemon.reload(state={**OFTEN, "directory": str(daemon.directory / "state")})
        await_that(lambda: all(self.checkpoints(p) >= written[p] + COMMITS for p in phases), "commits wait")

    def checkpoints(self, phase: str) -> int:
        """How many the daemon has written."""
        return len(self.daemons[phase].log(event="checkpoint_written"))

    def stop(self, *phases: str) -> None:
        """SIGTERM, and once more while it stops."""
        with ThreadPoolExecutor(len(phases)) as beside:
            codes = beside.map(lambda phase: stop_twice(self.daemons[phase]), phases)
        self.exit_codes |= dict(zip(phases, codes, strict=True))


def stop_twice(daemon: Daemon) -> int:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    await_that(lambda: daemon.log(event="daemon_stopping"), "it stops", process=daemon.process)
    return daemon.stop()


@pytest.fixture(scope="module", params=[0, pytest.param(70, marks=pytest.mark.full)], ids=["short", "long"])
def ran(
    request: pytest.FixtureRequest, kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Experiment]:
    with ExitStack() as ends:
        experiment = Experiment(kafka_libs, tmp_path_factory.mktemp("stopping"), request.param, ends)
        experiment.run()
        yield experiment


@pytest.mark.parametrize("phase", PHASES)
def test_it_stops_in_order(ran: Experiment, phase: str) -> None:
    log = ran.daemons[phase].log()
    assert ran.exit_codes[phase] == 0
    assert [line for line in log if line["event"] in ("child_did_not_stop", "child_died", "child_failed")] == []
    assert (log[-1]["event"], log[-1]["orderly"]) == ("daemon_stopped", True)
    assert ran.daemons[phase].pids() == {}


@pytest.mark.parametrize("phase", ["silent", "hung", "dead"])
def test_the_close_of_its_clients_was_not_waited_for(ran: Experiment, phase: str) -> None:
    """Else this would be a broker that had answered."""
    given_up = ran.daemons[phase].log(event="consumer_close_not_awaited")
    assert {line["process"] for line in given_up} == {"monitor-0", "validator-0"}


def test_its_last_checkpoint_holds_everything(ran: Experiment) -> None:
    daemon = ran.daemons["dead"].start()
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it serves")
    assert daemon.total("txninsight_records_total", view="monitor", topic=TOPIC) == ran.written.records
    assert daemon.total("txninsight_transactions_finished_total") == ran.written.closed + ran.written.aborted
    assert daemon.stop() == 0
