"""The daemon's clock. It counts on steadily, and the wall clock only says what the count is called.

`steady` follows CLOCK_BOOTTIME from one anchor, which the parent takes before it forks: no step of the wall clock moves
it, it goes on while the machine is suspended, and it is the same in all processes. What readers send of moments is
counted so, because those of different processes are compared. `now` is the same in wall-clock time, as far as this
process has followed that: `follow` takes in a step that somebody, or a time service, has made since, and tells how far
it went. A slow correction by the time service moves both clocks alike and is no step.

(clock_gettime(2): CLOCK_BOOTTIME, and why not CLOCK_MONOTONIC, which stands still while the machine is suspended.)
"""

import time
from pathlib import Path

STEP_S = 0.5
"""Smaller differences are left until they add up to so much."""

LONGEST_LOOK_S = 0.01
"""Between looking at the one clock and at the other; when the process was stopped in between, they say nothing."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ANCHOR = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
_stepped_s = 0.0


def steady() -> float:
    """Seconds since the epoch by the wall clock of the daemon's start; unmoved by steps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) + _ANCHOR


def now() -> float:
    """Seconds since the epoch by the wall clock, as last followed."""
    return steady() + _stepped_s


def stepped_s() -> float:
    """By how much `now` is ahead of `steady`."""
    return _stepped_s


def follow() -> float:
    """Follow the wall clock if it was stepped; returns by how many seconds since the last call, 0 if it was not."""
    global _stepped_s
    before = steady()
    wall = time.time()
    if steady() - before > LONGEST_LOOK_S:
        return 0.0
    stepped_s = wall - before
    step_s = stepped_s - _stepped_s
    if abs(step_s) < STEP_S:
        return 0.0
    # Set, not added to: two threads may find the same step.
    _stepped_s = stepped_s
    return step_s


def wall() -> float:
    """Seconds since the epoch by the wall clock, steps included. Not for moments that are compared with one another.

    Not in the aggregator, which must learn of each step by `follow` to correct what it keeps.
    """
    follow()
    return now()


def suspended_s() -> float:
    """For how long the machine was suspended since it was booted."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


def booted_at() -> float:
    """When the machine was booted, by the wall clock as last followed."""
    return _ANCHOR + _stepped_s


def boot_id() -> str:
    """What tells this boot of the machine from others; "" where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
