"""The state directory: it is usable, and this daemon alone uses it, also if it is removed or replaced meanwhile.

    <state.directory>/lock    held by the one daemon that may use the directory

Who holds the lock may write. But a lock belongs to a file, not to a path: after `rm -r` or `mv` of the directory the
daemon holds a lock that the next daemon does not meet. So before each checkpoint the aggregator compares what it has
locked with what the path names, and there are three cases:

- nothing, or a directory without checkpoints on the same file system: it is made again where it is missing, and locked.
  The state in memory is the only one, and is saved there.
- another directory, with checkpoints or on another file system: it is left alone. Another daemon may have written them,
  or the right file system is not mounted.
- a directory that another daemon holds: it is left alone.

In the last two no checkpoint is written, /readyz and the log say so, and an orderly stop has an exit code of its own.
"""

import errno
import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import structlog

from txninsightd.aggregate.state_advice import advice

CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{12,})")
PREFIX, SUFFIX = "checkpoint-", ".tmp"
PATIENCE_S = 5.0
LOOK_EVERY_S = 0.05
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger()


class StateUnusable(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class DirectoryLost(OSError):
    """The state directory's path no longer names the directory that this daemon has locked. `advice`: what to do."""

    def __init__(self, what: str, directory: Path, why: StateUnusable | None = None) -> None:
        super().__init__(errno.ESTALE, f"the state directory {directory} {what}")
        self.advice = (
            f"it cannot be taken: {why}"
            if why is not None
            else "to keep this daemon's state, put the former directory back; to go on from what is in it now, restart "
            "txninsightd"
        )


class Identity(NamedTuple):
    """What a path names: the device and the inode."""

    device: int
    inode: int


class DirectoryLock:
    """Allows one daemon per directory. The lock ends with the last process that took or inherited it.

    So the lock of a killed daemon ends only when none of its children can write or listen any more.

    A directory can be removed, moved away or replaced while the daemon runs. Then this lock holds a directory that the
    path no longer names, and another daemon may start on the new one. So the aggregator calls `claim` before it writes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "lock"
        self._descriptor = -1
        self._held: tuple[Identity, Identity] | None = None
        self._pid = os.getpid()

    def acquire(self, patience_s: float = PATIENCE_S) -> None:
        """Take the lock, and wait for a daemon that is about to end. Raises StateUnusable on failure."""
        make_usable(self._directory)
        # A killed daemon's children exit shortly after it.
        deadline = time.monotonic() + patience_s
        try:
            while not self._take():
                if time.monotonic() >= deadline:
                    raise _in_use(self._directory, self._holder())
                time.sleep(LOOK_EVERY_S)
        except OSError as failure:
            raise unusable(self._directory, failure) from failure

    def is_held(self) -> bool:
        """Whether the path names the directory, and the lock file in it, that are locked."""
        try:
            return self._held == (_identity(self._directory), _identity(self._file))
        except OSError:
            return False

    def require(self) -> None:
        """Raises DirectoryLost when `is_held` is not true."""
        if not self.is_held():
            raise DirectoryLost("was removed or replaced while the daemon runs", self._directory)

    def claim(self) -> None:
        """Hold the directory that the path names now. Raises DirectoryLost.

        One that is gone is made again and locked, and an empty one in its place is locked: what this process holds in
        memory is then the only state. One with checkpoints is not touched, since they may be another daemon's.
        """
        if self.is_held():
            return
        if not self._may_take():
            raise DirectoryLost("was replaced by another one", self._directory)
        try:
            self.acquire(patience_s=0.0)
        except StateUnusable as why:
            raise DirectoryLost("was removed or replaced while the daemon runs", self._directory, why) from why
        effect = "it was removed while the daemon runs; the next checkpoint has the whole state"
        log.warning("state_directory_locked_again", directory=str(self._directory), effect=effect)

    def release(self) -> None:
        """Release the lock; processes that inherited it still hold it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._held = -1, None

    def _take(self) -> bool:
        """Lock the file that the path names now. Raises OSError."""
        # flock locks the open file: forked children share it, and executed programs do not.
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = _identity(self._directory), _identity(descriptor)
            # It may have been removed between the two calls above: then it locks nothing.
            is_taken = held[1] == _identity(self._file)
        except (BlockingIOError, FileNotFoundError):
            is_taken = False
        except BaseException:
            os.close(descriptor)
            raise
        if not is_taken:
            os.close(descriptor)
            return False
        self.release()
        self._descriptor, self._held = descriptor, held
        _note_pid(descriptor, self._pid)
        return True

    def _holder(self) -> str:
        with self._file.open(errors="replace") as file:
            return file.read(20).strip()

    def _may_take(self) -> bool:
        """Whether no checkpoint of another daemon can be in the directory that the path names now."""
        assert self._held is not None
        try:
            found = _identity(self._directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        # A daemon that was here meanwhile has left its lock file.
        if found == self._held[0] and not self._file.exists():
            return True
        is_empty = not any(CHECKPOINT_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return is_empty and found.device == self._held[0].device


def _identity(path: Path | int) -> Identity:
    found = os.fstat(path) if isinstance(path, int) else path.stat()
    return Identity(found.st_dev, found.st_ino)


# --- The directory ----------------------------------------------------------------------------------------------------


def make_usable(directory: Path) -> None:
    """Create it if needed, and try to list it and to create a file in it. Raises StateUnusable."""
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(directory.parent)
        # Listing and writing need different permissions.
        next(directory.iterdir(), None)
        TemporaryFile(prefix=PREFIX, suffix=SUFFIX, dir=directory).close()
    except OSError as failure:
        # With a full disk the daemon can still start from the existing checkpoints.
        if failure.errno not in NO_ROOM or not directory.is_dir():
            raise unusable(directory, failure) from failure


def sync_directory(directory: Path) -> None:
    """Make the names in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(directory: Path, failure: OSError) -> StateUnusable:
    failed = Path(os.fsdecode(failure.filename)) if failure.filename else directory
    where = "" if failed == directory else f" ({failed})"
    return StateUnusable(
        f"the state directory {directory} cannot be used: {failure.strerror}{where}; "
        f"{advice(directory, failure)}; or set state.directory in the config to another one"
    )


def _in_use(directory: Path, holder: str) -> StateUnusable:
    return StateUnusable(
        f"the state directory {directory} is used by another txninsightd (pid {holder or 'unknown'}); "
        "stop that one, or set state.directory in this one's config to another directory"
    )


def _note_pid(descriptor: int, pid: int) -> None:
    """Write the pid for the error message of a second daemon. On a full disk the file stays empty."""
    os.ftruncate(descriptor, 0)
    with suppress(OSError):
        os.pwrite(descriptor, f"{pid}\n".encode(), 0)
