"""`txninsightd forget` against the daemon's real control socket, and against all that may be in its place.

The daemon behind the socket is a World: a ledger fed by hand, and checkpoints that the test makes succeed or fail.
"""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import uvloop

from tests.harness.expose_world import World
from txninsightd import cli, logs
from txninsightd.config import ConfigError, Secret, load_config, load_state_directory
from txninsightd.expose.connections import TimeLimits
from txninsightd.expose.operator_socket import OperatorSocket
from txninsightd.tools.forget import forget

HANG_GUARD_S = 60.0

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the daemon logs goes not where the command prints."""
    logs.setup("error", "json")
    yield
    structlog.reset_defaults()


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def config(directory: Path) -> Path:
    """A config file that names the directory, and a secret that only the daemon can read."""
    file = directory / "txninsight.yaml"
    file.write_text(f"state:\n  directory: {directory}\nkafka:\n  client:\n    sasl.password: ${{ONLY_THE_DAEMONS}}\n")
    return file


@pytest.fixture
def world() -> World:
    """`stuck` was aborted and left something behind, `open` is open, `over` has closed."""
    world = World(topics={"orders": 1, "steps": 1})
    world.event("transaction_open", "stuck")
    world.commit()
    world.event("transaction_close", "stuck")
    world.abort()
    world.event("transaction_open", "open")
    world.whole("over")
    world.wait(120)
    world.pipeline.settle(world.now())
    return world


@pytest.fixture
def serving(world: World, directory: Path) -> Iterator[Path]:
    """The control server at work on a loop of its own; gives the socket."""
    ready, stopping = threading.Event(), asyncio.Event()
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        server = OperatorSocket(world)
        await server.start(directory / "control.sock")
        ready.set()
        await stopping.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    assert ready.wait(HANG_GUARD_S)
    yield directory / "control.sock"
    loops[0].call_soon_threadsafe(stopping.set)
    thread.join(HANG_GUARD_S)


def finished(world: World, outcome: str) -> int:
    return sum(count for (_, o, _), count in world.figures.finished.items() if o == outcome)


# --- Done -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("serving")
def test_it_ends_counts_and_answers_once_that_is_durable(world: World, config: Path, capsys: Captured) -> None:
    assert world.ledger.live["stuck"].cause is not None
    assert cli.run(["forget", "stuck", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "forgotten: stuck\n"
    assert world.saved == [1]  # the checkpoint holds `open` alone
    assert world.ledger.live.keys() == {"open"}
    assert not world.ledger.stuck
    assert finished(world, "forgotten") == 1
    world.event("step_open", "stuck")
    assert "stuck" not in world.ledger.live
    assert cli.run(["--config", str(config), "forget", "open"]) == 0
    assert finished(world, "forgotten") == 2


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize("txn_id", ["-dashed", "with space", "a/b?c=d#e", 'quo"te', "ünï\u2028çödé", "x" * 5000])
def test_any_id_can_be_named(world: World, config: Path, txn_id: str) -> None:
    world.event("transaction_open", txn_id)
    assert cli.run(["forget", "--config", str(config), "--", txn_id]) == 0
    assert txn_id not in world.ledger.live


@pytest.mark.usefixtures("serving")
def test_an_id_that_no_command_line_can_hold_is_named_as_it_is_shown(
    world: World, config: Path, capsys: Captured
) -> None:
    world.event("transaction_open", "a\x00\x1b[2J")
    world.event("transaction_open", "a\\x01")
    for shown in ("a\\x00\\x1b[2J", "a\\x01"):
        assert cli.run(["forget", shown, "--config", str(config)]) == 0
        assert capsys.readouterr().out == f"forgotten: {shown}\n"
    assert world.ledger.live.keys() == {"stuck", "open"}


@pytest.mark.usefixtures("serving")
def test_what_is_not_live_is_said_in_words(world: World, config: Path, capsys: Captured) -> None:
    for txn_id, words in {
        "unknown": "no live transaction 'unknown' is known: check the id\n",
        "over": "transaction 'over' has already ended: there is nothing to forget\n",
    }.items():
        assert cli.run(["forget", txn_id, "--config", str(config)]) == 1
        assert capsys.readouterr().err == words
    world.lacking = ["the monitor has not caught up yet on 1 of 1 partitions"]
    answer = forget("unknown", str(config.parent))
    assert "check the id; not all records have been read yet: the monitor has" in answer.text
    assert world.saved == []


@pytest.mark.usefixtures("serving")
def test_a_checkpoint_that_cannot_be_written_is_no_success(world: World, config: Path, capsys: Captured) -> None:
    world.unwritable = OSError(28, "No space left on device")
    assert cli.run(["forget", "stuck", "--config", str(config)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "transaction 'stuck' has ended, but no checkpoint could be written (No space left on device)"
    )


def test_an_id_that_is_no_text_is_refused(serving: Path) -> None:
    answer = forget("\udcff", str(serving.parent))
    assert (answer.exit_code, answer.text) == (1, 'expected {"txn_id": "..."} in UTF-8')


def test_half_a_command_is_not_waited_for(world: World, directory: Path) -> None:
    async def main() -> bytes:
        server = OperatorSocket(world, TimeLimits(request_s=0.2))
        await server.start(directory / "control.sock")
        reader, writer = await asyncio.open_unix_connection(directory / "control.sock")
        writer.write(b"POST /forget HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        answer = await asyncio.wait_for(reader.read(), HANG_GUARD_S)
        silent, _ = await asyncio.open_unix_connection(directory / "control.sock")
        assert await asyncio.wait_for(silent.read(), HANG_GUARD_S) == b""
        await server.stop()
        return answer

    answer = uvloop.run(main())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'{"error":"the request was not complete in time"}' in answer
    assert "stuck" in world.ledger.live


# --- The socket -------------------------------------------------------------------------------------------------------


def test_only_the_owner_may_use_it(serving: Path) -> None:
    assert stat.S_IMODE(serving.lstat().st_mode) == 0o600
    (serving.parent / "file").touch()
    assert stat.S_IMODE((serving.parent / "file").stat().st_mode) == 0o644  # the umask is as it was


def listening(directory: Path, world: World) -> list[str]:
    """Start and stop a server; gives what it logged."""

    async def main() -> None:
        server = OperatorSocket(world)
        await server.start(directory / "control.sock")
        await server.stop()

    with structlog.testing.capture_logs() as logged:
        uvloop.run(main())
    return [f"{line['event']}: {line['error']}" for line in logged]


def test_a_socket_that_a_dead_daemon_left_is_replaced(directory: Path, world: World) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(directory / "control.sock"))
    assert forget("t", str(directory)).text.startswith(f"no txninsightd listens at {directory}/control.sock")
    assert listening(directory, world) == []


def test_what_is_no_socket_is_left_alone_and_the_daemon_goes_on(directory: Path, world: World) -> None:
    (directory / "control.sock").write_text("precious")
    assert listening(directory, world) == ["control_socket_failed: a file that is not a socket is in its place"]
    assert (directory / "control.sock").read_text() == "precious"


def test_a_directory_that_is_not_there_is_no_reason_to_stop(directory: Path, world: World) -> None:
    [line] = listening(directory / "gone", world)
    assert line.startswith("control_socket_failed: ")


# --- No daemon there --------------------------------------------------------------------------------------------------


def test_without_a_daemon_it_says_where_it_looked(config: Path, capsys: Captured) -> None:
    assert cli.run(["forget", "t", "--config", str(config)]) == 1
    said = capsys.readouterr().err
    path = f"{config.parent}/control.sock"
    assert said == f"no txninsightd listens at {path}: check that it runs, and with this --config\n"


def test_a_directory_that_was_substituted_is_not_shown(directory: Path) -> None:
    assert forget("t", Secret(directory)).text.startswith("no txninsightd listens at control.sock in state.directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_others_are_told_that_they_may_not(serving: Path) -> None:
    pid = os.fork()
    if pid == 0:
        for parent in serving.parents[:-2]:
            parent.chmod(0o755)
        os.setuid(65534)
        os._exit(int("use the user that txninsightd runs as" not in forget("t", str(serving.parent)).text))
    assert os.waitpid(pid, 0)[1] == 0


def answering(directory: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """Another program at the socket, for one connection."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(directory / "control.sock"))
    server.listen()

    def serve() -> None:
        with server, server.accept()[0] as connection:
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{,}"])
def test_a_daemon_that_dies_in_the_midst_has_not_confirmed(directory: Path, said: bytes) -> None:
    thread = answering(directory, lambda connection: (connection.recv(4096), connection.sendall(said))[1])
    answer = forget("t", str(directory))
    thread.join(HANG_GUARD_S)
    assert answer.exit_code == 1
    assert "did not confirm the command" in answer.text


def test_a_daemon_that_stands_still_is_not_waited_for_for_ever(directory: Path) -> None:
    done = threading.Event()
    thread = answering(directory, lambda _: done.wait(HANG_GUARD_S) and None)
    answer = forget("t", str(directory), answer_within_s=0.05)
    done.set()
    thread.join(HANG_GUARD_S)
    assert "did not confirm the command (no answer within 0.05 s)" in answer.text


# --- The config file --------------------------------------------------------------------------------------------------


def test_only_the_directory_is_asked_of_the_file(config: Path, directory: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(config, {})
    assert load_state_directory(config, {}) == str(directory)
    config.write_text("stuck: 7\nunknown: 1\n")
    assert load_state_directory(config, {}) == "/var/lib/txninsightd"


@pytest.mark.parametrize("text", ["state: 7\n", "state:\n  directory: 7\n", "[", "state:\n  directory: ${NOT_SET}\n"])
def test_a_file_that_does_not_say_where_is_an_error_of_the_config(config: Path, text: str, capsys: Captured) -> None:
    config.write_text(text)
    assert cli.run(["forget", "t", "--config", str(config)]) == cli.EXIT_CONFIG
    assert capsys.readouterr().err.startswith(f"{config}:")


@pytest.mark.parametrize(("length", "fits"), [(94, True), (95, False)])
def test_a_directory_too_deep_for_a_socket_is_a_fault_of_the_config(config: Path, length: int, fits: bool) -> None:
    directory = "/" + "d" * (length - 1)
    config.write_text(f"log:\n  level: info\nstate:\n  directory: {directory}\n")
    if fits:
        assert len(str(load_config(config, {}).state.control_socket)) == 107
        return
    with pytest.raises(ConfigError) as caught:
        load_config(config, {})
    wanted = "state.directory: expected at most 94 bytes, since a socket lies in it (found more)"
    assert str(caught.value) == f"{config}:4: {wanted}"


def test_the_old_way_to_call_stays(config: Path, capsys: Captured) -> None:
    config.write_text("{}")
    assert cli.run(["--config", str(config), "--check-config"]) == 0
    assert "good" in capsys.readouterr().out
