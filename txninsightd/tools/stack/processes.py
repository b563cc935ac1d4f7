"""Finds and ends the processes of a stack by a marker variable in their environment, even if reparented.

Linux only: it reads /proc, and waits through pidfds for processes that are not its children.
"""

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def marked(variable: str, value: str) -> list[int]:
    """The ids of all other processes of this user with `variable`=`value` in their environment."""
    wanted = f"{variable}={value}".encode()
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal() and _carries(entry, wanted)]
    return [pid for pid in pids if pid != os.getpid()]


def end(pids: Iterable[int], *, grace_s: float) -> None:
    """Terminate each process, kill the rest after `grace_s`, and return once all are gone."""
    handles = _open(pids)
    try:
        for handle in handles:
            _signal(handle, signal.SIGTERM)
        for handle in _await(handles, grace_s):
            _signal(handle, signal.SIGKILL)
        _await(handles, grace_s)
    finally:
        for handle in handles:
            os.close(handle)


def await_end(pids: Iterable[int], timeout_s: float) -> bool:
    """Wait at most `timeout_s`; returns whether all processes are gone."""
    handles = _open(pids)
    try:
        return not _await(handles, timeout_s)
    finally:
        for handle in handles:
            os.close(handle)


def _open(pids: Iterable[int]) -> list[int]:
    handles = []
    for pid in pids:
        try:
            # The handle refers to this process even if its number is reused.
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
    return handles


def _await(handles: list[int], timeout_s: float) -> list[int]:
    """The processes that are alive after at most `timeout_s`."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    living = list(handles)
    deadline = time.monotonic() + timeout_s
    while living:
        ended = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ended:
            break
        for handle, _ in ended:
            poll.unregister(handle)
            living.remove(handle)
    return living


def _signal(handle: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return


def _carries(entry: Path, wanted: bytes) -> bool:
    try:
        return wanted in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
