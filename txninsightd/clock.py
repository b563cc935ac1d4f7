"""The daemon's one clock: seconds since the epoch that do not run backwards when the wall clock is set back.

Moments of different processes are compared (what a monitor asked, when a validator decided), so all of them count from
one anchor, taken by the parent before it forks. Setting the wall clock forward is followed; setting it back is not, but
where it undoes a step forward: then all processes go back together, and nothing new is seen until that has passed.
"""

import time

# BOOTTIME and not MONOTONIC, which stands still while the machine is suspended.
_ANCHOR = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> float:
    """Seconds since the epoch."""
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) + _ANCHOR, time.time())
