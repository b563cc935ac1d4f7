"""The daemon's one clock: seconds since the epoch that do not run backwards when the wall clock is set back.

Moments of different processes are compared (of a monitor's question, of a validator's verdict), so all processes count
from one anchor, which the parent takes before it forks. The clock follows the wall clock forward. It follows it back
only to undo a step forward: then all processes go back together, and see nothing new until that time has passed.
"""

import time

# BOOTTIME and not MONOTONIC, which stands still while the machine is suspended.
_ANCHOR = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> float:
    """Seconds since the epoch."""
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) + _ANCHOR, time.time())
