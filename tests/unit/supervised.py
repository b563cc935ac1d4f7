"""A parent over trivial children, as a program: what test_supervise_parent.py starts, signals and watches.

    python -m tests.unit.supervised FAULT

The children do nothing but note what happens to them, as JSON lines on standard output. `FAULT` says who is not well:
`none`, `reader-dies`, `aggregator-dies`, `unusable` (the validator can never work) or `stubborn` (it ignores SIGTERM).
"""

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from txninsightd import logs
from txninsightd.supervise.channel import Channel
from txninsightd.supervise.child import become
from txninsightd.supervise.control import hear, tell
from txninsightd.supervise.parent import EXIT_UNUSABLE, Limits, Parent, Programs
from txninsightd.vocabulary import Attach, Family, Found, FromParent, Starts, View

LIMITS = Limits(backoff_initial_s=0.05, backoff_max_s=0.2, give_up_after=5, give_up_window_s=300, stop_timeout_s=1.0)
FOUND = Found("orders", 3, 42)

fault = sys.argv[1]


def note(who: str, what: str, **more: Any) -> None:
    """One line, in one write."""
    line = json.dumps({"who": who, "pid": os.getpid(), "what": what, **more}) + "\n"
    os.write(sys.stdout.fileno(), line.encode())


def aggregator(control: socket.socket, starts: list[Found]) -> None:
    """Keeps the lines it is given until it is told to stop."""
    become("aggregator", on_terminate=None)
    note("aggregator", "started", starts=[list(found) for found in msgspec.to_builtins(starts)])
    if fault == "aggregator-dies":
        sys.exit(1)
    tell(control, Starts([FOUND]))
    lines = []
    while True:
        select.select([control], [], [])
        body, descriptor = hear(control)
        if not body:
            os._exit(1)
        message = msgspec.msgpack.decode(body, type=FromParent)
        if isinstance(message, Attach):
            assert descriptor is not None
            lines.append(Channel(descriptor))
            note("aggregator", "attached", child=f"{message.view}-{message.index}")
        elif isinstance(message, Family):
            children = message.children
            note(
                "aggregator",
                "family",
                up={c.name: c.up for c in children},
                restarts={c.name: c.restarts for c in children},
            )
        else:
            note("aggregator", "stopped")
            return


def reader(view: View, index: int, descriptor: int, known: list[Found]) -> None:
    """Lives until it is told to stop, or its line ends."""
    name = f"{view}-{index}"
    stopping: list[int] = []
    become(name, lambda: stopping.append(1))
    if fault == "stubborn" and view is View.VALIDATOR:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(name, "started", descriptors=len(list(Path("/proc/self/fd").iterdir())))
    if view is View.VALIDATOR and fault == "reader-dies":
        sys.exit(1)
    if view is View.VALIDATOR and fault == "unusable":
        sys.exit(EXIT_UNUSABLE)
    line = Channel(descriptor)
    while not stopping and not line.closed:
        select.select([descriptor], [], [], 0.05)
        line.receive()
    note(name, "stopped" if stopping else "line ended")


if __name__ == "__main__":
    logs.setup("debug", "json")
    counts = {View.MONITOR: 2, View.VALIDATOR: 1}
    sys.exit(Parent(Programs(aggregator, reader), counts, LIMITS, time.monotonic).run())
