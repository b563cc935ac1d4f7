"""The daemon's processes from outside: memory, descriptors, threads, CPU, as /proc tells."""

from pathlib import Path
from typing import NamedTuple

from tests.harness.processes import TICKS_A_SECOND, usage

ENDED_CHILDREN_UTIME, ENDED_CHILDREN_STIME = 13, 14


class Look(NamedTuple):
    """One process at one moment. `ended_children_cpu_s`: of what it forked and buried (checkpoint writers)."""

    rss_bytes: int
    most_rss_bytes: int
    descriptors: int
    threads: int
    cpu_s: float
    ended_children_cpu_s: float


def look(pid: int) -> Look:
    """Raises FileNotFoundError or ProcessLookupError when the process is gone."""
    process = Path(f"/proc/{pid}")
    used = usage(pid)
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    children = int(fields[ENDED_CHILDREN_UTIME]) + int(fields[ENDED_CHILDREN_STIME])
    return Look(
        used.rss_bytes,
        used.most_rss_bytes,
        sum(1 for _ in (process / "fd").iterdir()),
        sum(1 for _ in (process / "task").iterdir()),
        used.cpu_s,
        children / TICKS_A_SECOND,
    )


def waited_for_cpu_s(pid: int) -> float:
    """How long the process's main thread was ready to run and had no CPU, since its start; 0 where nobody counts it."""
    counted = Path(f"/proc/{pid}/task/{pid}/schedstat")
    return int(counted.read_text().split()[1]) / 1e9 if counted.exists() else 0.0
