"""What every child does before its own work: its name, its signals, and that it dies with its parent.

Children do not react to Ctrl-C (the parent does, and stops them in order). SIGTERM stops a reader; the aggregator has
no use for it, since it stops when the parent says so and all lines have ended. None of them outlives the
parent, however that one ends: the kernel kills them.
"""

import gc
import signal
from collections.abc import Callable
from multiprocessing import parent_process

from txninsightd import logs
from txninsightd.parent_death import kill_on_parent_exit

COLLECTOR = (100_000, 20, 100)
"""The garbage of millions of records and events holds hardly any cycles: looking for them at Python's usual pace costs
a third of the aggregator's time and a tenth of a reader's, and stalls both."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def become(name: str, on_terminate: Callable[[], None] | None) -> None:
    """Take up this name and these manners. Called first thing after the fork, with the stop signals still blocked."""
    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    kill_on_parent_exit(parent.pid)
    # What the parent has made is no garbage here, and to look at it would copy its pages.
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
    # The pipe is the parent's: a signal that reaches this process must not wake it.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if on_terminate is None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: on_terminate())
    # After the handlers: what has come since the fork finds these, and not copies of the parent's.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    logs.bind(name)
