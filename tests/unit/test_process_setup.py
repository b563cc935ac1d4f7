"""A process that the host does not let start leaves nothing behind."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest

from txninsightd.supervise.backoff import Backoff
from txninsightd.supervise.children import Child, ChildSpec, LineKind
from txninsightd.supervise.config_reload import ConfigReload, ReloadLimits


@pytest.fixture
def no_room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The host refuses the process, or so many descriptors are free that the first pipe of two has room."""
    if request.param == "processes":
        # However many are open already.
        many = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
        os.close(many.pop(0))

        def refuse() -> int:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        # A real limit of processes would not hold for root.
        monkeypatch.setattr(os, "fork", refuse)
        yield
        for descriptor in many:
            os.close(descriptor)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(request.param + 1)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
        for descriptor in taken[1:]:
            os.close(descriptor)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken[0])


def still_open() -> list[int]:
    """The open descriptors, found without one."""
    found = []
    for descriptor in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        with suppress(OSError):
            os.fstat(descriptor)
            found.append(descriptor)
    return found


class Refusals:
    """A config that is never read."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def read(self) -> bytes:
        raise AssertionError("no process was to be started")

    def refuse(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize("no_room", ["processes", 0, 1, 2, 3], indirect=True)
def test_a_child_that_cannot_start_leaves_no_descriptor(no_room: None) -> None:
    child = Child(ChildSpec("monitor-0", lambda _: None, LineKind.DATA), Backoff(1, 2, 3, 4))
    before = still_open()
    for _ in range(3):
        with pytest.raises(OSError, match=r"unavailable|Too many open files"):
            child.fork(lambda: None)
    assert still_open() == before


@pytest.mark.parametrize("no_room", ["processes", 0, 1, 2, 3, 4], indirect=True)
def test_a_reload_that_cannot_start_leaves_no_descriptor(no_room: None) -> None:
    config = Refusals()
    reload = ConfigReload(config, ReloadLimits())  # type: ignore[arg-type]
    before = still_open()
    for _ in range(3):
        assert reload.begin(0.0) is not None
    assert still_open() == before
    assert len(config.reasons) == 3
