"""A process that the host does not let start leaves nothing behind."""

import errno
import gc
import os
import resource
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from unittest.mock import patch

import pytest

from txninsightd.supervise.backoff import Backoff
from txninsightd.supervise.children import Child, ChildSpec, LineKind
from txninsightd.supervise.config_reload import ConfigReload, ReloadLimits


@contextmanager
def no_room(how: str | int) -> Iterator[None]:
    """The host refuses the process, or so many descriptors are free that the first pipe of two has room."""
    if how == "processes":
        # However many are open already.
        many = [os.open(os.devnull, os.O_RDONLY) for _ in range(300)]
        os.close(many.pop(0))
        # A real limit of processes would not hold for root.
        refusal = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        with patch.object(os, "fork", side_effect=refusal):
            yield
        return
    assert isinstance(how, int)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(how + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
    for descriptor in taken[1:]:
        os.close(descriptor)
    yield


def in_a_process_without_threads(check: Callable[[], None]) -> None:
    """Run it where nothing else opens or closes descriptors, as in the parent: threads that tests left may do so."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            gc.disable()
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


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


@pytest.mark.parametrize("how", ["processes", 0, 1, 2, 3])
def test_a_child_that_cannot_start_leaves_no_descriptor(how: str | int) -> None:
    def check() -> None:
        with no_room(how):
            child = Child(ChildSpec("monitor-0", lambda _: None, LineKind.DATA), Backoff(1, 2, 3, 4))
            before = still_open()
            for _ in range(3):
                with pytest.raises(OSError, match=r"unavailable|Too many open files"):
                    child.fork(lambda: None)
            assert still_open() == before

    in_a_process_without_threads(check)


@pytest.mark.parametrize("how", ["processes", 0, 1, 2, 3, 4])
def test_a_reload_that_cannot_start_leaves_no_descriptor(how: str | int) -> None:
    def check() -> None:
        with no_room(how):
            config = Refusals()
            reload = ConfigReload(config, ReloadLimits())  # type: ignore[arg-type]
            before = still_open()
            for _ in range(3):
                assert reload.begin(0.0) is not None
            assert still_open() == before
            assert len(config.reasons) == 3

    in_a_process_without_threads(check)
