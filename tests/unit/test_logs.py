"""The log of several processes: all write to one standard error."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.harness.hostile_text import unsafe

PROCESSES, LINES = 4, 1000

WRITING = f"""
import os, structlog
from txninsightd import logs
logs.setup("info", "json")
children = []
for name in map(str, range({PROCESSES})):
    child = os.fork()
    if child == 0:
        logs.bind(name)
        for i in range({LINES}):
            structlog.get_logger().info("something_happened", i=i, padding="x" * 300)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def test_lines_of_processes_that_write_at_once_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("ab") as log:
        subprocess.run([sys.executable, "-c", WRITING], stderr=log, check=True, timeout=60)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    by_process = [[line["i"] for line in lines if line["process"] == str(name)] for name in range(PROCESSES)]
    assert by_process == [list(range(LINES))] * PROCESSES


SHOWING = """
import structlog
from txninsightd import logs
for form in ("console", "json"):
    logs.setup("info", form)
    log = structlog.get_logger()
    hostile = "id\\x1b[2J\\x9b1m\\ninfo forged\\u2028\\u202e\\ud83d"
    log.info("transaction_stuck", txn_id=hostile, path=hostile.encode("utf-8", "replace"), ids=[hostile])
    try:
        raise ValueError(hostile)
    except ValueError:
        log.exception("request_failed")
"""


def test_no_field_acts_on_a_terminal_or_begins_a_line_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", SHOWING], capture_output=True, check=True, timeout=60)
    lines = done.stderr.decode().split("\n")
    # Colours are the console's own.
    shown = [re.sub(r"\x1b\[[0-9]*m", "", line) for line in lines]
    assert unsafe("\n".join(shown)) == set()
    assert [line for line in shown if "forged" in line and line.startswith("info")] == [
        "info forged\\u2028\\u202e\\ud83d"
    ]
    stuck, _ = (json.loads(line) for line in lines if line.startswith("{"))
    assert stuck["txn_id"] == "id\x1b[2J\x9b1m\ninfo forged\u2028\u202e\ud83d"
