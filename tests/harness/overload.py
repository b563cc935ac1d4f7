"""Whether the machine itself was too busy for any process to be in time, as opposed to a daemon at fault.

Everything runs 30 times as fast here, so three seconds in which a daemon gets no CPU, or no disk, are a daemon that was
down for more than a minute, and to say so is right of it. Two signs tell such times: a thread that only sleeps wakes up
late, or there is more to run than the CPUs can do by far.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

from tests.harness.background import Background

TICK_S = 0.2
LATE_S = 1.0
LOAD_PER_CPU = 3.0
"""Of the last minute. All that the test runs comes to 2.5 on two CPUs."""


class Tick(NamedTuple):
    """When the thread woke (epoch seconds), how late, and the load average of the last minute then."""

    at: float
    late_s: float
    load: float

    @property
    def is_overload(self) -> bool:
        """Whether other processes could not be in time either."""
        return self.late_s > LATE_S or self.load > LOAD_PER_CPU * (os.cpu_count() or 1)


class Overload(Background):
    """Watches the machine within `with`."""

    def __init__(self) -> None:
        super().__init__()
        self._ticks: list[Tick] = []

    def between(self, since: float, until: float) -> bool:
        """Whether the machine showed a sign of overload between these moments (epoch seconds)."""
        return any(tick.is_overload for tick in self._ticks if since <= tick.at <= until)

    @property
    def worst(self) -> str:
        """The largest figures, in words."""
        late_s, load = max(tick.late_s for tick in self._ticks), max(tick.load for tick in self._ticks)
        return f"at most {late_s:.1f} s late, load at most {load:.1f} on {os.cpu_count()} CPUs"

    def run(self) -> None:
        due = time.monotonic() + TICK_S
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            load = float(Path("/proc/loadavg").read_text().split()[0])
            self._ticks.append(Tick(time.time(), time.monotonic() - due, load))
            due = time.monotonic() + TICK_S
