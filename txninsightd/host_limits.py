"""Limits of the host: too few descriptors, threads or memory, told in one line that names the limit and what to set.

`prepare` looks at them before the first fork. It raises soft limits as far as the host allows, and refuses to start
where the daemon could not work. `log_if_limit` is for failures: each process asks it before it logs a traceback. The
same limit comes in many forms (an errno, MemoryError, "can't start new thread", a failed import, a text of librdkafka),
and here is the one place that knows them.

The least values were measured with one broker and two readers (docs/reliability.md); more brokers need more.
"""

import errno
import os
import resource
import threading
from contextlib import suppress
from traceback import extract_tb
from typing import NamedTuple, NoReturn

import structlog

EXIT_HOST_LIMIT = 9
"""The exit code of a process that a limit of the host has ended. (supervise/exit_codes.py has the others.)"""

MOST_DESCRIPTORS = 65_536
"""The soft limit is raised so far where the hard limit allows it."""
DESCRIPTORS, DESCRIPTORS_A_READER = 64, 4
"""What each process needs at least. A reader uses 31 with one broker, and every child inherits a few of each other."""
ADDRESS_SPACE_BYTES = 1_280 << 20
"""A reader reserves up to 1.2 GB: each of its threads has a stack and an arena of malloc. It touches far less."""
DATA_BYTES = 256 << 20
THREADS, THREADS_A_READER = 8, 12
"""What all processes have together."""
PROBE_STACK_BYTES = 1 << 16

log = structlog.get_logger()


class HostLimit(NamedTuple):
    """A limit: its name, with its present value where the process can see it, and how to raise it."""

    limit: str
    advice: str


SPOKEN = (RuntimeError, ImportError)
"""Exceptions whose text is the interpreter's own; in others such words may come from anywhere."""

SPOKEN_BY_CLIENTS = frozenset({"KafkaException", "ClientFailed"})
"""The same of Kafka clients, by name: this module does not import them."""


class HostLimitTooLow(Exception):
    """The daemon cannot work within a limit; the text says what it needs."""

    def __init__(self, text: str, limit: HostLimit) -> None:
        super().__init__(text)
        self.limit = limit


# --- At the start -----------------------------------------------------------------------------------------------------


def prepare(readers: int) -> None:
    """Raise the soft limits for a daemon with so many readers. Raises HostLimitTooLow where that is not enough."""
    descriptors = DESCRIPTORS + DESCRIPTORS_A_READER * readers
    _raise_soft(resource.RLIMIT_NOFILE, descriptors, MOST_DESCRIPTORS, f"{descriptors} open files", _descriptors())
    for number, needed, what in (
        (resource.RLIMIT_AS, ADDRESS_SPACE_BYTES, "address space"),
        (resource.RLIMIT_DATA, DATA_BYTES, "data"),
    ):
        _raise_soft(number, needed, needed, f"{needed >> 20} MiB of {what}", _memory())
    tasks = THREADS + THREADS_A_READER * readers
    if not _can_start(tasks):
        raise HostLimitTooLow(f"all processes together need {tasks} processes and threads", _tasks())


def require_threads() -> None:
    """In a reader, before its Kafka clients: raises RuntimeError where the host does not allow their threads.

    librdkafka itself would abort the process, hang, or go on with a part of its threads.
    """
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, daemon=True) for _ in range(THREADS_A_READER - 1)]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    finally:
        go.set()
        for thread in started:
            thread.join()


def _raise_soft(number: int, least: int, wanted: int, needs: str, limit: HostLimit) -> None:
    soft, hard = resource.getrlimit(number)
    if _at_least(soft, wanted):
        return
    new = wanted if _at_least(hard, wanted) else hard
    if new < least:
        raise HostLimitTooLow(f"each process needs {needs}", limit)
    resource.setrlimit(number, (new, hard))


def _at_least(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted


def _can_start(tasks: int) -> bool:
    """Try it in a process of its own: what a user's and a control group's other processes use cannot be read."""
    try:
        pid = os.fork()
    except OSError:
        return False
    if pid == 0:
        _start_threads_and_exit(tasks - 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _start_threads_and_exit(count: int) -> NoReturn:
    code = 1
    # Whatever fails: nothing of the parent's may run in this process.
    with suppress(BaseException):
        threading.stack_size(PROBE_STACK_BYTES)
        never = threading.Event()
        for _ in range(count):
            threading.Thread(target=never.wait, daemon=True).start()
        code = 0
    os._exit(code)


# --- At a failure -----------------------------------------------------------------------------------------------------


def log_if_limit(failure: BaseException, at_fork: bool = False, **fields: object) -> bool:
    """If a limit of the host is behind a failure, log that in one line; says whether."""
    limit = limit_behind(failure, at_fork)
    if limit is None:
        return False
    error = str(failure) or type(failure).__name__
    log.error("host_limit_reached", error=error, limit=limit.limit, advice=limit.advice, at=_place(failure), **fields)
    return True


def limit_behind(failure: BaseException, at_fork: bool = False) -> HostLimit | None:
    """The limit that a failure, or what caused it, comes from.

    EAGAIN is one only `at_fork`; elsewhere it says that a socket has nothing to read.
    """
    cause: BaseException | None = failure
    while cause is not None:
        limit = _tasks() if at_fork and isinstance(cause, BlockingIOError) else _limit_of(cause)
        if limit is not None:
            return limit
        cause = cause.__cause__
    return None


def limit_in(text: str) -> HostLimit | None:
    """The limit that a text of a library speaks of, such as a log line of librdkafka's."""
    for phrases, limit in (
        (("Too many open files in system",), _files_of_host),
        (("Too many open files",), _descriptors),
        (("Cannot allocate memory", "failed to map segment", "std::bad_alloc"), _memory),
        (("start new thread", "reate thread", "reate broker thread", "pthread_create"), _tasks),
    ):
        if any(phrase in text for phrase in phrases):
            return limit()
    return None


def _limit_of(failure: BaseException) -> HostLimit | None:
    if isinstance(failure, HostLimitTooLow):
        return failure.limit
    if isinstance(failure, MemoryError):
        return _memory()
    by_errno = {
        errno.EMFILE: _descriptors,
        errno.ENFILE: _files_of_host,
        errno.ENOMEM: _memory,
        errno.EFBIG: _file_size,
    }
    if isinstance(failure, OSError) and failure.errno in by_errno:
        return by_errno[failure.errno]()
    is_spoken = isinstance(failure, SPOKEN) or type(failure).__name__ in SPOKEN_BY_CLIENTS
    return limit_in(str(failure)) if is_spoken else None


def _place(failure: BaseException) -> str:
    """Where it was raised."""
    frames = extract_tb(failure.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


# --- The limits -------------------------------------------------------------------------------------------------------


def _descriptors() -> HostLimit:
    return HostLimit(_named("NOFILE"), "raise LimitNOFILE= of the unit (`ulimit -n`)")


def _files_of_host() -> HostLimit:
    return HostLimit("fs.file-max", "raise the host's sysctl fs.file-max, or close files of other programs")


def _tasks() -> HostLimit:
    # A thread needs room for its stack; without it the error is the same.
    if _is_finite("AS") or _is_finite("DATA"):
        limit, advice = _memory()
        return HostLimit(f"{_named('NPROC')}, {limit}", f"raise LimitNPROC= of the unit (`ulimit -u`); {advice}")
    return HostLimit(
        f"{_named('NPROC')}, TasksMax= or pids.max",
        "raise TasksMax= and LimitNPROC= of the unit (`ulimit -u`), or the container's limit of processes",
    )


def _memory() -> HostLimit:
    finite = [_named(name) for name in ("AS", "DATA") if _is_finite(name)]
    return HostLimit(
        ", ".join(finite) or "memory of the host",
        "raise LimitAS= and LimitDATA= of the unit (`ulimit -v`, `ulimit -d`), or MemoryMax=, or give the host memory",
    )


def _file_size() -> HostLimit:
    return HostLimit(_named("FSIZE"), "raise LimitFSIZE= of the unit (`ulimit -f`)")


def _named(name: str) -> str:
    return f"RLIMIT_{name} ({_soft(name) if _is_finite(name) else 'unlimited'})"


def _is_finite(name: str) -> bool:
    return _soft(name) != resource.RLIM_INFINITY


def _soft(name: str) -> int:
    soft: int = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
    return soft
