"""The one way to wait: a condition is checked again and again until it holds.

A wait ends with the event, never with a fixed sleep. A wait in vain ends after a guard against hanging, and its message
says what was waited for and what the awaited program printed last.
"""

import time
from collections.abc import Callable, Iterator
from subprocess import Popen
from typing import Any

HANG_GUARD_S = 120.0
LOOK_EVERY_S = 0.05


def until(
    condition: Callable[[], object],
    what: str,
    within_s: float = HANG_GUARD_S,
    output: Callable[[], object] = str,
) -> Iterator[None]:
    """`for _ in until(...)`: the body runs again and again until the condition holds.

    `output` adds to the message of the AssertionError that a wait in vain ends with.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}: {output()}"
        yield


def await_that(
    condition: Callable[[], object],
    what: str,
    within_s: float = HANG_GUARD_S,
    *,
    output: Callable[[], object] = str,
    process: Popen[Any] | None = None,
    every_s: float = LOOK_EVERY_S,
) -> None:
    """Wait until the condition holds, and no longer than `process` lives, if one is given."""
    for _ in until(condition, what, within_s, output):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode} before {what}: {output()}")
        time.sleep(every_s)
