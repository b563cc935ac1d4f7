"""The log of several processes: all write to one standard error."""

import json
import subprocess
import sys
from pathlib import Path

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
