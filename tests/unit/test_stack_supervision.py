"""supervisord's configuration, and stopping what it runs, whatever became of it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

from tests.harness.waiting import await_that
from txninsightd.tools.stack import StackError, processes
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import MARK, Program, Supervisor, render
from txninsightd.tools.stack.up import down

FOREVER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()",
]


def parsed(config: str, folder: Path) -> ServerOptions:
    (folder / "log").mkdir()
    path = folder / "supervisord.conf"
    path.write_text(config)
    options = ServerOptions()
    options.realize(["-c", str(path), "-n"])
    return options


def test_supervisors_own_parser_reads_it(tmp_path: Path) -> None:
    programs = [
        Program(name="kafka", command=["/opt/100%/java", "-cp", "/a b/*", "kafka.Kafka"]),
        Program(name="replay", command=["txninsight-replay", "it's here.jsonl"], is_service=False),
    ]
    options = parsed(render(tmp_path, tmp_path / "log", programs), tmp_path)
    kafka, replay = sorted((group.process_configs[0] for group in options.process_group_configs), key=lambda c: c.name)
    assert kafka.command == "/opt/100%/java -cp '/a b/*' kafka.Kafka"
    assert not kafka.autostart
    assert kafka.priority < replay.priority, "what comes last is stopped first"
    assert kafka.stdout_logfile == str(tmp_path / "log" / "kafka.log")
    assert replay.autorestart is False
    assert replay.startsecs == 0
    assert [server["file"] for server in options.server_configs] == [str(tmp_path / "supervisor.sock")]


def test_a_run_directory_too_deep_for_a_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="set RUN_DIR to a directory with a shorter path"):
        render(tmp_path / ("deep" * 30), tmp_path, [])


@pytest.fixture
def settings() -> Iterator[Settings]:
    """A run directory with a path short enough for a socket, whatever pytest's own is called."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(run_dir=Path(folder), scenario=Path("none.yaml"))
        yield settings
        down(settings)


def launch(settings: Settings, *programs: Program) -> Supervisor:
    supervisor = Supervisor(settings.run_dir, settings.log_dir)
    assert not supervisor.is_up()
    supervisor.launch(render(settings.run_dir, settings.log_dir, programs))
    return supervisor


def start_service(supervisor: Supervisor) -> int:
    """Start it, wait until it is itself (before its exec, a signal would be lost), and return its process id."""
    supervisor.start("service")
    log = supervisor.log_file("service")
    await_that(lambda: log.exists() and log.read_text() == "up\n", "the service is itself")
    return supervisor.pid("service")


def await_exit(supervisor: Supervisor, program: str) -> None:
    await_that(lambda: supervisor.state(program) not in ("STARTING", "RUNNING"), f"{program} has ended")


def test_programs_run_end_and_tell_their_code(settings: Settings) -> None:
    quick = Program(name="quick", command=[sys.executable, "-c", "import sys; sys.exit(3)"], is_service=False)
    supervisor = launch(settings, Program(name="service", command=FOREVER), quick)
    assert supervisor.state("service") == "STOPPED"
    start_service(supervisor)
    supervisor.require_alive("service")
    supervisor.start("quick")
    await_exit(supervisor, "quick")
    assert supervisor.exit_code("quick") == 3
    assert supervisor.running() == ["service"]


def test_a_program_that_does_not_start_shows_the_end_of_its_log(settings: Settings) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('no such topic')"]
    supervisor = launch(settings, Program(name="broken", command=broken, is_service=False))
    supervisor.start("broken")
    await_exit(supervisor, "broken")
    with pytest.raises(StackError, match=r"broken is not running \(EXITED\)(.|\n)*no such topic"):
        supervisor.require_alive("broken")


def test_down_stops_programs_and_supervisord(settings: Settings) -> None:
    supervisor = launch(settings, Program(name="service", command=FOREVER))
    start_service(supervisor)
    assert down(settings) == ["service", "supervisord"]
    assert not supervisor.is_up()
    assert processes.marked(MARK, str(settings.run_dir)) == []
    assert down(settings) == []


def test_down_finds_what_a_killed_supervisord_left_behind(settings: Settings) -> None:
    supervisor = launch(settings, Program(name="service", command=FOREVER))
    orphan = start_service(supervisor)
    supervisord = next(pid for pid in processes.marked(MARK, str(settings.run_dir)) if pid != orphan)
    os.kill(supervisord, signal.SIGKILL)
    assert processes.await_end([supervisord], 60.0)
    assert down(settings) == [f"left-over process {orphan}"]
    assert processes.await_end([orphan], 0.0)


def test_a_process_that_ignores_the_request_to_end_is_killed() -> None:
    with subprocess.Popen(STUBBORN, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        processes.end([child.pid], grace_s=0.2)
        assert child.wait() == -signal.SIGKILL
