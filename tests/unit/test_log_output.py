"""The log's output on a descriptor that takes nothing, takes a part, or fails: it never waits or raises."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.pipes import drained
from txninsightd.dropped_lines import DroppedLines
from txninsightd.log_output import LogOutput, sender_for, write_without_waiting

Step = int | OSError
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
ALL = 1 << 30


class Place:
    """A descriptor that takes so many bytes of each write, or fails."""

    def __init__(self, *steps: Step) -> None:
        self.content = b""
        self.steps = list(steps)

    def send(self, _descriptor: int, data: memoryview) -> int:
        step = self.steps.pop(0) if self.steps else ALL
        if isinstance(step, OSError):
            raise step
        self.content += bytes(data[:step])
        return min(step, len(data))


def parent_and_child(place: Place) -> tuple[LogOutput, LogOutput]:
    """The outputs of two processes, with one table of dropped lines."""
    parent, child = LogOutput(send=place.send), LogOutput(send=place.send)
    child.dropped_lines = parent.share(["child"])
    child.bind("child")
    return parent, child


@pytest.mark.parametrize(
    ("steps", "lines", "content", "drops"),
    [
        pytest.param([], ["one", "two"], "one\ntwo\n", 0, id="all is taken"),
        pytest.param([NO_SPACE], ["one", "two"], "two\n", 1, id="a line fails"),
        pytest.param([0], ["one", "two"], "two\n", 1, id="a line is not taken"),
        pytest.param([2, 2], ["one", "two"], "one\ntwo\n", 0, id="a line is taken in parts"),
        pytest.param([2, NO_SPACE], ["one", "two"], "one\ntwo\n", 0, id="the rest precedes the next line"),
        pytest.param([2, NO_SPACE, 1, NO_SPACE], ["one", "two", "six"], "one\nsix\n", 1, id="a part of the rest"),
        pytest.param([2, NO_SPACE, 2, NO_SPACE], ["one", "two", "six"], "one\nsix\n", 1, id="the rest alone"),
        pytest.param([2, NO_SPACE, 3, NO_SPACE], ["one", "two", "six"], "one\ntwo\nsix\n", 0, id="rest and part"),
        pytest.param([2, NO_SPACE, NO_SPACE], ["one", "two", "six"], "one\nsix\n", 1, id="nothing of the rest"),
        pytest.param([OSError()], ["one", "two"], "two\n", 1, id="an error without a number"),
    ],
)
def test_what_is_written_and_dropped(steps: list[Step], lines: list[str], content: str, drops: int) -> None:
    place = Place(*steps)
    output = LogOutput(send=place.send)
    for line in lines:
        output.write(line)
    assert place.content.decode() == content
    assert output.dropped_lines.counts() == {"parent": drops}


def test_another_process_ends_a_cut_line_and_loses_none_of_its_own() -> None:
    place = Place(2, NO_SPACE)
    parent, child = parent_and_child(place)
    for output, line in ((parent, "cut"), (child, "one"), (child, "two"), (parent, "three")):
        output.write(line)
    assert place.content == b"cu\none\ntwo\nthree\n"
    assert parent.dropped_lines.counts() == {"parent": 1, "child": 0}


def test_the_cut_line_of_a_process_that_was_killed_is_ended_by_its_successor() -> None:
    place = Place(2, NO_SPACE)
    parent, child = parent_and_child(place)
    child.write("cut")
    successor = LogOutput(send=place.send)
    successor.dropped_lines = parent.dropped_lines
    successor.bind("child")
    successor.write("one")
    assert place.content == b"cu\none\n"


def test_what_a_child_has_dropped_is_for_its_successor_to_say() -> None:
    place = Place(NO_SPACE)
    parent, child = parent_and_child(place)
    child.write("lost")
    child.bind("child")
    assert (parent.unsaid, child.unsaid) == (0, 1)
    child.write("one")
    assert child.unsaid == 0
    assert parent.dropped_lines.counts() == {"parent": 0, "child": 1}


def test_what_was_dropped_before_there_were_children_counts() -> None:
    output = LogOutput(send=Place(NO_SPACE).send)
    output.write("lost")
    assert output.share(["child"]).counts() == {"parent": 1, "child": 0}
    assert output.unsaid == 1


def test_notes_speak_of_the_last_minute() -> None:
    now_ns = 10**9
    table = DroppedLines(["a", "b"], now_ns=lambda: now_ns)
    assert table.notes() == []
    table.of_process("a").add(errno.EPIPE, 1200)
    now_ns += 50 * 10**9
    table.of_process("b").add(errno.ENOSPC)
    beginning = "log lines were dropped in the last minute (No space left on device); since the start: "
    assert table.notes() == [f"{beginning}a 1,200, b 1"]
    now_ns += 10 * 10**9
    assert table.notes() == [f"{beginning}b 1"]
    now_ns += 50 * 10**9
    assert table.notes() == []


def test_a_failure_of_the_sender_itself_is_a_dropped_line() -> None:
    def broken(_descriptor: int, _data: memoryview) -> int:
        raise ValueError

    output = LogOutput(send=broken)
    output.write("lost")
    assert output.dropped_lines.counts() == {"parent": 1}


def test_a_line_within_a_line_is_dropped_and_not_mixed_in() -> None:
    place = Place()

    def interrupted(descriptor: int, data: memoryview) -> int:
        if b"outer" in bytes(data):
            output.write("inner")
        return place.send(descriptor, data)

    output = LogOutput(send=interrupted)
    output.write("outer")
    assert place.content == b"outer\n"
    assert output.dropped_lines.counts() == {"parent": 1}


def test_what_cannot_be_encoded_is_escaped() -> None:
    place = Place()
    LogOutput(send=place.send).write("a\ud800b")
    assert place.content == b"a\\ud800b\n"


# --- Real descriptors -------------------------------------------------------------------------------------------------

LINE = "x" * 20_000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def assert_drops_and_recovers(output: LogOutput, reader: int) -> None:
    """Of a place that is not read for a while, all lines but those that were counted as dropped arrive, and whole."""
    for _ in range(100):
        output.write(LINE)
    (dropped,) = output.dropped_lines.counts().values()
    assert 0 < dropped < 100
    content = drained(reader)
    assert not content.endswith(b"\n"), "the test is about a line that was taken in part"
    output.write("next")
    content += drained(reader)
    assert content.decode().splitlines() == [LINE] * int(100 - dropped) + ["next"]


def test_a_pipe_is_written_through_a_description_of_our_own(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    inherited = os.dup(writer)
    output = LogOutput(inherited, sender_for(inherited))
    assert not os.get_blocking(inherited)
    assert os.get_blocking(writer), "others share this description"
    assert_drops_and_recovers(output, reader)
    os.close(inherited)


def test_a_pipe_that_cannot_be_opened_again_is_not_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    assert_drops_and_recovers(LogOutput(writer, write_without_waiting), reader)
    assert os.get_blocking(writer)


def test_a_fifo_whose_reader_has_gone_is_a_dropped_line_until_another_one_comes(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    os.close(reader)
    # It cannot be opened for writing while it has no reader.
    output = LogOutput(writer, sender_for(writer))
    assert output._send is write_without_waiting
    output.write("lost")
    assert output.dropped_lines.counts() == {"parent": 1}
    assert "(Broken pipe)" in output.dropped_lines.notes()[0]
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    output.write("next")
    assert drained(reader) == b"next\n"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("sender", [sender_for, lambda _: write_without_waiting], ids=["own", "inherited"])
def test_a_terminal_that_is_not_read_is_not_waited_for(sender: Callable[[int], Callable[..., int]]) -> None:
    screen, terminal = os.openpty()
    output = LogOutput(terminal, sender(terminal))
    for _ in range(100):
        output.write("x" * 1000)
    (dropped,) = output.dropped_lines.counts().values()
    assert 0 < dropped < 100
    assert drained(screen).startswith(b"x" * 1000 + b"\r\n")
    output.write("next")
    assert drained(screen).endswith(b"next\r\n")
    os.close(screen)
    os.close(terminal)


def test_a_socket_is_not_waited_for_and_may_take_a_part() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    with ours, theirs:
        output = LogOutput(ours.fileno(), sender_for(ours.fileno()))
        sent = 0
        while not sum(output.dropped_lines.counts().values()):
            output.write(f"{sent:06}{LINE * 5}")
            sent += 1
        content = drained(theirs.fileno())
        output.write("next")
        content += drained(theirs.fileno())
        lines = content.decode().splitlines()
        assert lines[:-1] == [f"{i:06}{LINE * 5}" for i in range(sent - 1)]
        assert lines[-1] == "next"
        assert ours.getblocking()


def test_a_socket_whose_other_end_has_gone_is_a_dropped_line() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        output = LogOutput(ours.fileno(), sender_for(ours.fileno()))
        output.write("lost")
        assert "(Broken pipe)" in output.dropped_lines.notes()[0]


def test_a_closed_descriptor_is_a_dropped_line(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    os.close(writer)
    output = LogOutput(writer, sender_for(writer))
    output.write("lost")
    assert "(Bad file descriptor)" in output.dropped_lines.notes()[0]


def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    output = LogOutput(writer, sender_for(writer))
    os.register_at_fork(after_in_child=output.after_fork)
    with output._lock:
        child = os.fork()
        if child == 0:
            output.write("from the child")
            os._exit(0)
        os.waitpid(child, 0)
    assert drained(reader) == b"from the child\n"
