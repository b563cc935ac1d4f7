"""What a process has used so far, as /proc tells: CPU time, and resident memory now and at most."""

import os
from pathlib import Path
from typing import NamedTuple

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
AFTER_NAME = 2
UTIME, STIME = 13 - AFTER_NAME, 14 - AFTER_NAME


class Usage(NamedTuple):
    """CPU in seconds (10 ms steps) of all threads, the memory in bytes."""

    cpu_s: float
    rss_bytes: int
    most_rss_bytes: int


def usage(pid: int) -> Usage:
    """The usage of a living process. Raises FileNotFoundError when it is gone."""
    process = Path(f"/proc/{pid}")
    return Usage(cpu_seconds((process / "stat").read_text()), *resident_bytes((process / "status").read_text()))


def cpu_seconds(stat: str) -> float:
    """User and system time of a line of /proc/PID/stat, whatever the process calls itself."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[UTIME]) + int(fields[STIME])) / TICKS_A_SECOND


def resident_bytes(status: str) -> tuple[int, int]:
    """VmRSS and VmHWM of a /proc/PID/status."""
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024
