"""make up, make down and make demo, for real: Kafka and the daemon under supervisor, and nothing left of them."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from txninsightd.tools.stack import StackError, machine, processes, up
from txninsightd.tools.stack.broker import admin
from txninsightd.tools.stack.demo import demo
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import MARK, Supervisor

SCENARIO = """\
name: brief
description: A few seconds of healthy, aborted and abandoned orders.
duration_s: 4
observe_after_s: 6
timeout_check_s: 1
rules: {idle_after_s: 3, overdue_after_s: 60, commit_pending_after_s: 30, settle_lateness_s: 1, settle_max_s: 30,
        retry_grace_s: 1, future_tolerance_s: 5}
topics:
  orders: {partitions: 2}
types:
  order:
    topic: orders
    steps: [{name: pay, pause_s: 0.05, lasts_s: 0.1}]
    close_after_s: 0.05
flows:
  shop:
    types: {order: 1}
    arrivals: {rate_per_s: 5, until_s: 3}
    kafka: {per: transaction, producers: 2}
    mix: {healthy: 3, aborted: 1, abandoned: 1}
healthy:
  expected: [{state: closed, outcome: closed, stuck: null, reason: all was committed}]
failures:
  aborted:
    kind: abort
    expected: [{state: aborted, outcome: aborted, reason: its Kafka transaction was aborted}]
  abandoned:
    kind: stuck
    expected: [{state: open, stuck: idle, reason: it fell silent}]
"""


@pytest.fixture
def environment(kafka_libs: Path) -> Iterator[dict[str, str]]:
    """The variables of a stack of the test's own, in a directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / "kafka").symlink_to(kafka_libs.parents[1])
        (run_dir / "brief.yaml").write_text(SCENARIO)
        variables = ("KAFKA_PORT", "KAFKA_CONTROLLER_PORT", "HTTP_PORT")
        ports = dict(zip(variables, map(str, machine.free_ports(3)), strict=True))
        yield {"RUN_DIR": folder, "SCENARIO": str(run_dir / "brief.yaml"), "DEMO_SECONDS": "0", **ports}
        up.down(Settings.from_environment({"RUN_DIR": folder}))


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return Settings.from_environment(environment)


def require_nothing_left(settings: Settings) -> None:
    assert processes.marked(MARK, str(settings.run_dir)) == []
    machine.require_free(settings.ports)


def await_noticed(supervisor: Supervisor, dead: int) -> None:
    deadline = time.monotonic() + 60
    while supervisor.pid("txninsightd") == dead:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_up_brings_all_up_and_down_leaves_nothing(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = up.up(settings)
    assert sorted(supervisor.running()) == ["kafka", "txninsightd"]
    with urlopen(f"{settings.url}/readyz", timeout=60) as answer:
        assert answer.status == 200
    assert len(admin(settings.bootstrap).list_topics(timeout=60).topics["orders"].partitions) == 2
    assert up.down(settings) == ["kafka", "txninsightd", "supervisord"]
    require_nothing_left(settings)
    assert settings.url in capsys.readouterr().out


def test_up_twice_says_so_and_mends_what_died(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = up.up(settings)
    daemon = supervisor.pid("txninsightd")
    kafka = supervisor.pid("kafka")
    up.up(settings)
    assert "runs already" in capsys.readouterr().out
    assert (supervisor.pid("txninsightd"), supervisor.pid("kafka")) == (daemon, kafka)
    os.kill(daemon, signal.SIGKILL)
    await_noticed(supervisor, daemon)
    up.up(settings)
    assert supervisor.pid("txninsightd") not in (0, daemon)


def test_up_with_other_settings_is_refused_and_harms_nobody(settings: Settings, environment: dict[str, str]) -> None:
    supervisor = up.up(settings)
    other = Settings.from_environment({**environment, "HTTP_PORT": str(machine.free_ports(1)[0])})
    with pytest.raises(StackError, match=rf"HTTP_PORT={settings.http_port} .*stop it first with make down"):
        up.up(other)
    assert sorted(supervisor.running()) == ["kafka", "txninsightd"]


def test_an_up_that_fails_half_way_says_why_and_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "daemon_yaml", lambda *_: "no_such_key: 1\n")
    with pytest.raises(StackError, match=r"txninsightd does not run(.|\n)*no_such_key"):
        up.up(settings)
    require_nothing_left(settings)


def test_the_demo_plays_judges_and_stops(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_environment(environment, is_demo=True)
    assert demo(settings, environment) == 0
    said = capsys.readouterr().out
    assert "agrees with the simulator on 15 of 15 transactions" in said
    assert "all stopped" in said
    require_nothing_left(settings)
    assert not Supervisor(settings.run_dir, settings.log_dir).is_up()
