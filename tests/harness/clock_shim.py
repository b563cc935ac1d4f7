"""A wall clock that a test steps at runtime, for all processes of a daemon at once, as an operator's `date -s` would.

libfaketime (Debian's package `libfaketime`) stands between Python and clock_gettime, and looks into a file at each
call, so a step holds for every process from the next call on. The monotonic clocks go on, CLOCK_BOOTTIME too, and
times of files stay true.

librdkafka keeps the true clock (clock_site/sitecustomize.py says why). A real step back may also lengthen a wait of its
that is under way, by as much (its issue 2145): that cannot be shown here.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.processes import living

HOUR_S = 3600.0
LIBRARIES = Path("/usr/lib")
LIBRARY = "*/faketime/libfaketime.so.1"
CLOCK_SITE = Path(__file__).with_name("clock_site")
SHARED_MEMORY = Path("/dev/shm")
OF_PROCESS = re.compile(r"(?:sem\.)?faketime_(?:sem|shm)_(\d+)")


class WallClock:
    """The time of the processes that have its `environment`: the true time, and `ahead_s` more. Moved by the test."""

    def __init__(self, directory: Path) -> None:
        self.ahead_s = 0.0
        self._file = directory / "wall-clock"
        self.set_ahead(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What puts a process, and all that it forks, under this clock."""
        paths = [str(CLOCK_SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "LD_PRELOAD": str(_library()),
            "PYTHONPATH": os.pathsep.join(paths),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set_ahead(self, seconds: float) -> None:
        """From now on the clock is so far ahead of the true time; behind it, if negative. No process sees it half."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+.3f}\n")
        fresh.replace(self._file)
        self.ahead_s = seconds


@contextmanager
def wall_clock(directory: Path) -> Iterator[WallClock]:
    """A clock that is right at first. What killed processes leave in shared memory is removed in the end."""
    try:
        yield WallClock(directory)
    finally:
        for file in SHARED_MEMORY.iterdir():
            found = OF_PROCESS.fullmatch(file.name)
            if found is not None and not living([int(found[1])]):
                file.unlink(missing_ok=True)


def _library() -> Path:
    found = next(LIBRARIES.glob(LIBRARY), None)
    assert found is not None, "libfaketime is missing; on Debian or Ubuntu: sudo apt-get install libfaketime"
    return found
