"""What every child does before its own work: its name, its signals, and none of its parent's descriptors.

Children do not react to Ctrl-C (the parent does, and stops them in order). SIGTERM stops a reader; the aggregator has
no use for it, since it stops when the parent says so and all lines have ended, or when the parent is gone.
"""

import gc
import signal
from collections.abc import Callable

from txninsightd import logs

COLLECTOR = (100_000, 20, 100)
"""The garbage of millions of records and events holds hardly any cycles: looking for them at Python's usual pace costs
a third of the aggregator's time and a tenth of a reader's, and stalls both."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def become(name: str, on_terminate: Callable[[], None] | None) -> None:
    """Take up this name and these manners. Called first thing after the fork, with the stop signals still blocked."""
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if on_terminate is None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: on_terminate())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    logs.bind(name)
