"""The log's output: lines to standard error, by a call that never waits and never raises.

A log must not decide over the daemon. A line that cannot be written now (the disk is full, the reader of the pipe has
gone or does not read, the descriptor is closed) is dropped and counted (dropped_lines.py); the next line is tried
again. How a write is kept from waiting depends on what the descriptor is:

- A pipe, a FIFO or a terminal is opened again, as a file description of our own that is non-blocking. The inherited
  description stays as it is, since other programs share it, such as the shell. Where it cannot be opened (it belongs to
  another user), each write asks the kernel not to wait.
- A socket, such as journald's, is sent to with MSG_DONTWAIT.
- A file is written to as it is: it takes the bytes, or fails at once.

A long line may be taken in part. Its rest is then kept, and precedes the next line of this process. If another process
wrote meanwhile, it has ended the cut line, and the rest is dropped.
"""

import errno
import os
import select
import socket
import stat
from collections.abc import Callable
from threading import Lock

from txninsightd.dropped_lines import PARENT, DroppedLines

STANDARD_ERROR = 2
LOCK_TIMEOUT_S = 0.1
"""A line is dropped when another thread, or the code that this thread interrupts, does not finish its own by then."""

TERMINAL_BYTES = 128
"""What a terminal takes at once when it is ready. It has room for 256 bytes then, and a newline becomes two."""

Send = Callable[[int, memoryview], int]
"""Writes to a descriptor what it takes without waiting; gives how many bytes that was, or raises OSError."""


class LogOutput:
    """Writes lines to a descriptor. `send`: how, see `sender_for`."""

    def __init__(self, descriptor: int = STANDARD_ERROR, send: Send = os.write) -> None:
        self.dropped_lines = DroppedLines()
        self._own = self.dropped_lines.of_process(PARENT)
        self._descriptor = descriptor
        self._send = send
        self._rest = b""
        self._lock = Lock()

    def share(self, children: list[str]) -> DroppedLines:
        """Count by process from now on, in a table that these children share. The parent calls it before it forks."""
        self.dropped_lines = DroppedLines(children)
        former, self._own = self._own, self.dropped_lines.of_process(PARENT)
        self._own.take_over(former)
        return self.dropped_lines

    def use(self, send: Send) -> None:
        """Write in this way from now on."""
        self._send = send

    def bind(self, process: str) -> None:
        """Count in the slot of this process."""
        self._own = self.dropped_lines.of_process(process)

    def after_fork(self) -> None:
        """In the child: the lock may be held by a thread that is not here, and the rest of a line is the parent's."""
        self._lock = Lock()
        self._rest = b""

    @property
    def unsaid(self) -> int:
        """The lines that this process, or its predecessor in the slot, has dropped and not mentioned in the log yet."""
        return self._own.unsaid

    def drop(self, reason: int) -> None:
        """Count a line that was not even tried; `reason`: an error number."""
        self._own.add(reason)

    def write(self, text: str) -> None:
        """Write a line, or several; newlines between them, not at the end. What cannot be encoded is escaped."""
        # An interrupted write would put its rest behind this line.
        if not self._lock.acquire(timeout=LOCK_TIMEOUT_S):
            self._own.add(errno.EDEADLK)
            return
        try:
            self._write(f"{text}\n".encode(errors="backslashreplace"))
        except Exception:
            self._own.add(errno.EINVAL)
        finally:
            self._lock.release()

    def _write(self, line: bytes) -> None:
        first = self._unfinished()
        written, error = self._put(first + line)
        if written < len(first):
            if self._rest:
                self._rest = first[written:]
            self._own.add(error)
        elif written == len(first):
            self._rest = b""
            # Ends where it ended before, or at the end of the line that is now complete.
            if first:
                self._own.mark_unfinished(False)
            self._own.add(error)
        else:
            self._rest = line[written - len(first) :]
            self._own.mark_said()
            if self._rest or self._own.any_unfinished:
                self._own.mark_unfinished(bool(self._rest))

    def _unfinished(self) -> bytes:
        """What must precede the next line, so that it begins at the beginning of a line."""
        if self._rest and not self._own.is_unfinished:
            # Another process has ended that line.
            self._rest = b""
            self._own.add(errno.EAGAIN)
        return self._rest or (b"\n" if self._own.any_unfinished else b"")

    def _put(self, data: bytes) -> tuple[int, int]:
        """How many bytes were taken, and the number of the error that ended it, else 0."""
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                count = self._send(self._descriptor, view[written:])
                if count == 0:
                    return written, errno.EAGAIN
                written += count
        except OSError as failure:
            return written, failure.errno or errno.EIO
        return written, 0


# --- Ways to write ----------------------------------------------------------------------------------------------------


def sender_for(descriptor: int) -> Send:
    """How to write to this descriptor. Puts a file description of our own in its place where that is needed."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return os.write
    if stat.S_ISSOCK(mode):
        return _socket_sender(descriptor)
    if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
        return os.write
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return write_without_waiting
    # In the same place, so that what C libraries write there does not wait either.
    os.dup2(own, descriptor)
    os.close(own)
    return os.write


def _socket_sender(descriptor: int) -> Send:
    # Of its own descriptor: a socket object closes the one that it has.
    end = socket.socket(fileno=os.dup(descriptor))
    return lambda _, data: end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def write_without_waiting(descriptor: int, data: memoryview) -> int:
    """Write to a pipe or terminal whose description is blocking. Raises BlockingIOError when it takes nothing now."""
    try:
        return os.pwritev(descriptor, [data], -1, os.RWF_NOWAIT)
    except OSError as failure:
        # A terminal, or a kernel before 6.4.
        if failure.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE, errno.ENOSYS):
            raise
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(descriptor, data[: TERMINAL_BYTES if os.isatty(descriptor) else select.PIPE_BUF])


def write_nowhere(descriptor: int, data: memoryview) -> int:
    """Standard error was closed when the daemon started; the descriptor of this number is something else."""
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


OUTPUT = LogOutput()
"""The output of this process's log."""

os.register_at_fork(after_in_child=OUTPUT.after_fork)
