"""Logs of one JSON object a line: read at once, or followed while they grow."""

import contextlib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def parse_lines(lines: Iterable[str | bytes], **wanted: Any) -> list[Line]:
    """The lines that are JSON objects with these values; other lines are skipped."""
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and wanted.items() <= line.items()]


def moment_of(line: Line) -> float:
    """When a line was written, in epoch seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def children_started(lines: Iterable[Line]) -> dict[str, int]:
    """The process id of the child that was last started under each name."""
    return {line["child"]: line["pid"] for line in lines if line.get("event") == "child_started"}


class LogTail:
    """Follows the log of a daemon; each line is parsed once."""

    def __init__(self, file: Path) -> None:
        self.lines: list[Line] = []
        self._file = file
        self._read_bytes = 0

    def look(self) -> list[Line]:
        """All lines up to now."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read_bytes)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            self.lines += parse_lines(whole.splitlines())
        return self.lines

    def pids(self) -> dict[str, int]:
        """The child last started under each name."""
        return children_started(self.look())
