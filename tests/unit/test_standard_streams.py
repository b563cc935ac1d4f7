"""What the interpreter and libraries write to the standard streams is in the log, a JSON object a line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.waiting import HANG_GUARD_S

BEGIN = """
import asyncio, errno, logging, os, sys, threading, warnings
from multiprocessing import get_context
import structlog
from txninsightd import logs, standard_streams
standard_streams.take_over()
logs.setup("info", "json")
logs.bind("parent")
log = structlog.get_logger()
"""


def run(program: str, **output: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run the program after BEGIN, in an interpreter of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **output}
    return subprocess.run([sys.executable, "-c", BEGIN + program], timeout=HANG_GUARD_S, check=False, **streams)


def lines_of(program: str, exit_code: int = 0) -> list[dict[str, Any]]:
    """What it logs; each line must be JSON, and standard output empty."""
    done = run(program)
    assert (done.returncode, done.stdout) == (exit_code, b""), done.stderr.decode()
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_prints_are_lines_of_the_log() -> None:
    lines = lines_of('print("a", "b"); print("c\\nd", file=sys.stderr); print("e", end="")')
    said = [(line["event"], line["text"], line["process"]) for line in lines]
    assert said[:3] == [
        ("standard_output", "a b", "parent"),
        ("standard_error", "c", "parent"),
        ("standard_error", "d", "parent"),
    ]
    # The last one comes with the flush at the exit.
    assert said[3:] == [("standard_output", "e", "parent")]


def test_an_uncaught_exception_is_one_line() -> None:
    (line,) = lines_of('raise ValueError("a\\nb")', exit_code=1)
    assert (line["event"], line["level"]) == ("uncaught_exception", "critical")
    assert "ValueError: a\nb" in line["exception"]


def test_an_exception_in_a_thread_or_a_finalizer_is_one_line() -> None:
    thread, finalizer = lines_of(
        """
class Bad:
    def __del__(self):
        1 / 0
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
Bad()
"""
    )
    assert (thread["event"], finalizer["event"]) == ("uncaught_exception", "exception_ignored")
    assert all("ZeroDivisionError" in line["exception"] for line in (thread, finalizer))


def test_what_libraries_log_is_sampled_and_whole() -> None:
    lines = lines_of(
        """
logging.getLogger("quiet").info("not this")
for i in range(1000):
    logging.getLogger("some.library").error("number %d", i)
logging.getLogger("other").log(35, "between %s", "levels")
logging.getLogger("wrong").error("%d", "no number")
warnings.warn("old")
async def callback_fails():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.01)
asyncio.run(callback_fails())
"""
    )
    assert [(line["event"], line["logger"], line["level"], line["text"]) for line in lines[:3]] == [
        ("library", "some.library", "error", "number 0"),
        ("library", "other", "warning", "between levels"),
        ("library", "wrong", "error", "%d"),
    ]
    assert lines[3]["logger"] == "py.warnings"
    assert "UserWarning: old" in lines[3]["text"]
    assert lines[4]["logger"] == "asyncio"
    assert "ZeroDivisionError" in lines[4]["exception"]


def test_what_cannot_be_rendered_is_reduced() -> None:
    lines = lines_of(
        """
class Bad:
    def __repr__(self):
        raise OSError(errno.EIO, "no")
loop = []
loop.append(loop)
log.info("bad", value=Bad(), topic="orders")
log.info("loop", value=loop)
log.info("keys", value={("a", "b"): 1})
log.info("number", value=float("nan"))
log.info("long", value="x" * 1_000_000)
log.info("surrogates", value="a\\ud800b")
try:
    raise ValueError(Bad())
except ValueError:
    log.exception("failed")
"""
    )
    reduced = {line["event"]: line["reduced"] for line in lines if "reduced" in line}
    assert reduced == {
        "bad": "OSError",
        "loop": "RecursionError",
        "keys": "TypeError",
        "number": "ValueError",
        "long": "too long",
    }
    by_event = {line["event"]: line for line in lines}
    bad = by_event["bad"]
    assert (bad["value"], bad["topic"], bad["level"], bad["process"]) == ("<Bad>", "orders", "info", "parent")
    assert len(by_event["long"]["value"]) == 1000
    assert by_event["surrogates"]["value"] == "a\ud800b"
    assert "ValueError" in by_event["failed"]["exception"]


def test_surrogates_are_escaped_on_a_terminal() -> None:
    done = run('logs.setup("info", "console"); log.info("happened", value="a\\ud800b")')
    assert b"a\\ud800b" in done.stderr


FORKING = """
print("kept in a buffer", file=sys.stderr, end="")
child = get_context("fork").Process(target=lambda: 1 / 0)
child.start()
child.join()
sys.exit(child.exitcode + 10)
"""


def test_a_fork_and_an_exit_do_not_fail_over_a_stream_that_cannot_be_flushed() -> None:
    with Path("/dev/full").open("wb") as full:
        assert run(FORKING, stdout=full, stderr=full).returncode == 11
    assert run(FORKING, preexec_fn=lambda: os.closerange(1, 3)).returncode == 11


def test_a_descriptor_that_took_the_place_of_standard_error_is_not_written_to(tmp_path: Path) -> None:
    """Standard error was closed, and another file was opened before the daemon's own code ran."""
    file = tmp_path / "file"
    program = f"""
import os
os.open({str(file)!r}, os.O_CREAT | os.O_WRONLY)
assert os.open({str(file)!r}, os.O_CREAT | os.O_WRONLY) == 2
{BEGIN}
print("x")
log.error("lost")
from txninsightd.log_output import OUTPUT
sys.exit(OUTPUT.dropped_lines.counts()["parent"] + 40)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, preexec_fn=lambda: os.closerange(1, 3), timeout=HANG_GUARD_S, check=False)
    assert done.returncode == 42
    assert file.read_bytes() == b""
