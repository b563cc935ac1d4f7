"""Too few descriptors, threads or memory: one line that names the limit, and an exit code of its own."""

import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.harness.daemon import Daemon
from tests.harness.http import free_port
from tests.harness.supervised import StartSupervised, Supervised
from txninsightd import host_limits
from txninsightd.aggregate.state_directory import DirectoryLock
from txninsightd.cluster.client_log import client_logger
from txninsightd.cluster.client_settings import UnusableClient, refusals_named
from txninsightd.host_limits import EXIT_HOST_LIMIT

MEBIBYTE = 1 << 20
OTHER_USER = 54_321
MAY_READ = "+dac_override,+dac_read_search"
FEW, ENOUGH = 6, 1000
"""Open files: too few for a further child, and more than are needed."""

# --- Which limit is behind a failure ----------------------------------------------------------------------------------


def limited(limit: int, value: int, action: Callable[[], object]) -> str:
    """The limit's name that a failure of `action` is told with, in a process that has this soft limit."""
    told, tell = os.pipe()
    if os.fork() == 0:
        try:
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
            action()
        except Exception as failure:
            found = host_limits.limit_behind(failure)
            os.write(tell, (found.limit if found else repr(failure)).encode())
        finally:
            os._exit(0)
    os.close(tell)
    text = os.read(told, 10_000).decode()
    os.close(told)
    os.wait()
    return text


def open_many() -> None:
    for _ in range(1000):
        os.open("/dev/null", os.O_RDONLY)


def address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def start_threads() -> None:
    threading.stack_size(64 * MEBIBYTE)
    for _ in range(10):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def take_locks(directory: Path) -> None:
    locks = [DirectoryLock(directory / str(i)) for i in range(100)]
    for lock in locks:
        lock.acquire()


def write_much(path: Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(MEBIBYTE))


def test_each_form_of_a_limit_is_told_by_its_name(tmp_path: Path) -> None:
    assert limited(resource.RLIMIT_NOFILE, 40, open_many) == "RLIMIT_NOFILE (40)"
    assert limited(resource.RLIMIT_NOFILE, 40, lambda: take_locks(tmp_path)) == "RLIMIT_NOFILE (40)"
    space = address_space_bytes() + 32 * MEBIBYTE
    for action in (lambda: bytearray(128 * MEBIBYTE), start_threads):
        assert f"RLIMIT_AS ({space})" in limited(resource.RLIMIT_AS, space, action)
    assert limited(resource.RLIMIT_FSIZE, 1000, lambda: write_much(tmp_path / "file")) == "RLIMIT_FSIZE (1000)"


def test_what_is_no_limit_stays_what_it_is() -> None:
    for failure in (BlockingIOError(11, "no data yet"), FileNotFoundError(2, "no file"), RuntimeError("a bug")):
        assert host_limits.limit_behind(failure) is None
    assert host_limits.limit_behind(BlockingIOError(11, "no process"), at_fork=True) is not None
    with pytest.raises(UnusableClient) as unusable, refusals_named():
        AdminClient({"no.such.property": "1"})
    assert isinstance(unusable.value.__cause__, KafkaException)


def test_a_client_that_gets_no_thread_has_no_wrong_settings() -> None:
    with pytest.raises(KafkaException), refusals_named():
        raise KafkaException("Failed to create thread: Resource temporarily unavailable (11)")


def test_a_client_that_says_that_it_has_no_thread_ends_its_process(capfd: pytest.CaptureFixture[str]) -> None:
    """librdkafka goes on with a part of its threads; this line is all that tells."""
    pid = os.fork()
    if pid == 0:
        try:
            logger = client_logger(lambda: 0.0)
            logger.warning("FAIL [rdkafka#consumer-1] [thrd:main]: Connect to ipv4#127.0.0.1:9092 failed: refused")
            logger.warning("THREAD [rdkafka#consumer-1] [thrd:main]: Unable to create broker thread")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == EXIT_HOST_LIMIT
    assert "RLIMIT_NPROC" in capfd.readouterr().out


def test_what_a_broker_says_of_its_own_limits_is_none_of_ours() -> None:
    logger = client_logger(lambda: 0.0)
    for text in (
        "FAIL [rdkafka#consumer-1] [thrd:sasl]: SASL authentication error: callback failed: Too many open files",
        "WARN [rdkafka#consumer-1] [thrd:main]: Topic pthread_create [0]: leader is unavailable",
    ):
        # It would end this process.
        logger.warning(text)
    assert host_limits.limit_behind(ValueError("Too many open files")) is None


# --- The daemon's start -----------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Not started; its broker does not exist."""
    quick = {"backoff_initial_s": 0.05, "backoff_max_s": 0.2, "give_up_after": 1000}
    made = Daemon(tmp_path, f"127.0.0.1:{free_port()}", {"topics": ["orders"], "supervise": quick})
    yield made
    made.end()


def await_working(daemon: Daemon) -> None:
    """Wait until all processes work; the broker does not."""
    daemon.await_that(lambda: daemon.status("/healthz") == 200, "it serves")
    daemon.await_that(lambda: any("does not answer" in text for text in daemon.missing()), "it reads")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value"),
    [(resource.RLIMIT_NOFILE, 24), (resource.RLIMIT_AS, 300_000 << 10), (resource.RLIMIT_DATA, 100 * MEBIBYTE)],
)
def test_a_limit_that_is_too_low_is_told_before_anything_is_started(daemon: Daemon, limit: int, value: int) -> None:
    daemon.launch(preexec_fn=lambda: resource.setrlimit(limit, (value, value)))
    assert daemon.await_exit() == EXIT_HOST_LIMIT
    assert [line["event"] for line in daemon.log()] == ["configured", "host_limit_reached"]
    [line] = daemon.log(event="host_limit_reached")
    assert f"({value})" in line["limit"]
    assert "of the unit (`ulimit" in line["advice"]
    assert "each process needs" in line["error"]
    assert len(daemon.log_file.read_text().splitlines()) == 2
    assert not (daemon.directory / "state").exists()


@pytest.mark.slow
def test_a_soft_limit_is_raised_as_far_as_the_hard_one_allows(daemon: Daemon) -> None:
    least = host_limits.DESCRIPTORS + 2 * host_limits.DESCRIPTORS_A_READER
    daemon.launch(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, least)))
    await_working(daemon)
    for pid in daemon.all_pids().values():
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (least, least)
    assert daemon.stop() == 0


def of_another_user() -> list[str]:
    """A command's beginning: run by a user without other processes, who may read and write what root may.

    The limit of processes does not bind root; another user runs the test as itself, and has too many processes already.
    """
    if os.geteuid():
        return []
    return [
        "setpriv",
        f"--reuid={OTHER_USER}",
        "--clear-groups",
        f"--inh-caps={MAY_READ}",
        f"--ambient-caps={MAY_READ}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 8])
def test_too_few_processes_and_threads_are_told_before_anything_is_started(daemon: Daemon, processes: int) -> None:
    limit = ["prlimit", f"--nproc={processes}:{processes}", "--"]
    daemon.launch(before=[*of_another_user(), *limit])
    assert daemon.await_exit() == EXIT_HOST_LIMIT
    assert [line["event"] for line in daemon.log()] == ["configured", "host_limit_reached"]
    [line] = daemon.log(event="host_limit_reached")
    assert line["limit"].startswith(f"RLIMIT_NPROC ({processes})")
    assert "TasksMax=" in line["advice"]
    assert len(daemon.log_file.read_text().splitlines()) == 2


# --- While it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_readers_that_get_no_thread_are_tried_again_until_there_is_room(daemon: Daemon) -> None:
    if os.geteuid():
        pytest.skip("the other processes of this user count, too: run the tests as root")
    daemon.launch(before=of_another_user())
    await_working(daemon)
    assert daemon.process is not None
    pids = daemon.pids()
    threads = sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in (daemon.process.pid, *pids.values()))
    mine = len(list(Path(f"/proc/{pids['validator-0']}/task").iterdir()))
    let_start(daemon.process.pid, threads - mine + 2)
    os.kill(pids["validator-0"], 9)
    daemon.await_that(lambda: len(daemon.log(event="host_limit_reached")) > 1, "it is told")
    let_start(daemon.process.pid, 1000)
    daemon.await_that(lambda: "validator-0" in daemon.pids() and not is_down(daemon, "validator-0"), "it is back")
    assert {line["process"] for line in daemon.log(event="host_limit_reached")} == {"validator-0"}
    assert daemon.pids().items() >= {(name, pid) for name, pid in pids.items() if name != "validator-0"}
    assert "Traceback" not in daemon.log_file.read_text()


def let_start(pid: int, processes: int) -> None:
    """Limit the user of a process to so many processes and threads from now on."""
    limit = ["prlimit", f"--pid={pid}", f"--nproc={processes}:"]
    subprocess.run([*of_another_user(), *limit], check=True)


def is_down(daemon: Daemon, child: str) -> bool:
    return f"{child} is down" in daemon.missing()


def let_open(parent: Supervised, files: int) -> None:
    """Limit the parent to so many open files from now on."""
    hard = resource.prlimit(parent.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(parent.process.pid, resource.RLIMIT_NOFILE, (files, hard))


@pytest.mark.slow
@pytest.mark.parametrize("child", ["monitor-1", "aggregator"])
def test_a_parent_without_descriptors_tries_again_until_it_has_some(supervise: StartSupervised, child: str) -> None:
    parent = supervise("none").await_started()
    before = parent.pids()
    let_open(parent, FEW)
    parent.kill(child)
    parent.await_that(lambda: bool(parent.log(event="host_limit_reached")))
    let_open(parent, ENOUGH)
    parent.await_that(lambda: child in parent.pids() and parent.pids()[child] != before[child])
    line = parent.log(event="host_limit_reached")[0]
    assert line["child"] == child
    assert line["limit"] == f"RLIMIT_NOFILE ({FEW})"
    assert parent.stop() == 0
    assert parent.living() == []


@pytest.mark.slow
def test_a_parent_that_never_gets_descriptors_gives_up(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    let_open(parent, FEW)
    parent.kill("monitor-1")
    assert parent.exit_code() == EXIT_HOST_LIMIT
    assert {line["child"] for line in parent.log(event="host_limit_reached")} == {"monitor-1"}
    assert "Traceback" not in "".join(str(line) for line in parent.log())
    assert parent.living() == []


@pytest.mark.slow
def test_a_child_without_memory_at_the_first_start_ends_all_at_once(supervise: StartSupervised) -> None:
    parent = supervise("no-memory")
    assert parent.exit_code() == EXIT_HOST_LIMIT
    assert len(parent.notes(process="validator-0", what="started")) == 1
    [line] = parent.log(event="host_limit_reached")
    assert (line["process"], line["error"]) == ("validator-0", "MemoryError")
    assert parent.living() == []


def test_the_help_lists_each_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    from txninsightd import cli
    from txninsightd.supervise import exit_codes

    with pytest.raises(SystemExit):
        cli.run(["--help"])
    listed = {int(line.split()[0]) for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()}
    shared = {code for name, code in vars(exit_codes).items() if name.startswith("EXIT_")}
    assert listed == {0, 1, cli.EXIT_CONFIG, EXIT_HOST_LIMIT} | shared
