"""What every child does before its own work: its name, its signals, and that the kernel kills it with its parent.

Children ignore Ctrl-C: the parent reacts to it and stops them in order. SIGTERM stops a child, except for the
aggregator, which stops when the parent says so and all lines have ended. No child outlives the parent, however the
parent ends: the kernel kills them.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from multiprocessing import parent_process
from typing import NoReturn

from txninsightd import clock, logs
from txninsightd.parent_death import kill_on_parent_exit

GC_THRESHOLDS = (20_000, 4, 2500)
"""The garbage of millions of records and events holds hardly any cycles. At Python's default thresholds the search for
them costs a third of the aggregator's time and a tenth of a reader's, and stalls both. The second generation has
about 100,000 objects so, and a search in it takes some tens of milliseconds; with 2 million it was half a second."""

MOST_OPENED = 16
"""More descriptors than are opened for the start of one process."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """For the parent, around a fork: signals wait until the child has handlers of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """For the parent, around a fork: multiprocessing leaves its pipes open when the host refuses the process."""
    # New ones get the lowest free numbers. (A listing of /proc would need a descriptor, and there may be none.)
    free = list(islice((number for number in count() if not _is_open(number)), MOST_OPENED))
    try:
        yield
    except OSError:
        for descriptor in filter(_is_open, free):
            os.close(descriptor)
        raise


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def set_up_child_process(name: str, ignore_sigterm: bool) -> Callable[[], bool]:
    """Set the process name, the signal handlers and the parent-death signal; the result says whether SIGTERM has come.

    Called right after the fork, while the stop signals are still blocked.
    """
    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    kill_on_parent_exit(parent.pid)
    # The parent's objects are no garbage here, and walking through them would copy its pages.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    # The wake-up pipe is the parent's: a signal to this process must not wake the parent.
    signal.set_wakeup_fd(-1)
    terminations: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore_sigterm else lambda number, _: terminations.append(number))
    # Unblock last: signals that came since the fork then meet these handlers, not copies of the parent's.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    # The parent does not follow the wall clock: it needs none.
    clock.follow()
    logs.bind(name)
    return lambda: bool(terminations)


def leave(code: int) -> NoReturn:
    """End this process at once with this exit code, from wherever it is.

    An ordinary exit waits for threads, and frees Kafka clients: both may wait for a broker that does not answer. What a
    process owes to others, it has written before.
    """
    # Standard output may be a full disk, or be closed.
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)
