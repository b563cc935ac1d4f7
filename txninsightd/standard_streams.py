"""Everything else that writes to standard output and standard error goes through the log.

The interpreter writes there too: tracebacks, warnings, what libraries log with `logging`. Such a write raises when the
disk is full, waits when a pipe is full, and leaves bytes in a buffer whose flush fails in a later fork or at the exit
(exit code 120). So the daemon puts objects in place of sys.stdout and sys.stderr whose lines are log lines, and has
uncaught exceptions and the records of `logging` logged.

The standard descriptors that were closed at the start are occupied: the next file that is opened would otherwise get
the number of standard error, and be written to by C libraries.
"""

import contextlib
import io
import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import TextIO, cast

import structlog

from txninsightd.log_output import OUTPUT, STANDARD_ERROR, sender_for, write_nowhere
from txninsightd.log_sampling import LogSampler

STANDARD_OUTPUT = 1
MOST_KEPT_CHARS = 8192
"""How long a line without an end may become before it is logged as it is."""

log = structlog.get_logger()


def take_over() -> None:
    """Route all of it through the log, for this process and those that it forks. Call it once, at the start."""
    # Python has no object for a standard stream that was closed; something else may have its number by now.
    closed = sys.__stderr__ is None
    _occupy_closed_descriptors()
    OUTPUT.use(write_nowhere if closed else sender_for(STANDARD_ERROR))
    sys.stdout = cast(TextIO, LoggedStream("standard_output", STANDARD_OUTPUT))
    sys.stderr = cast(TextIO, LoggedStream("standard_error", STANDARD_ERROR))
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = _log_unraisable
    logging.getLogger().handlers = [LibraryLog(LogSampler(time.monotonic))]
    logging.captureWarnings(True)


def _occupy_closed_descriptors() -> None:
    with contextlib.suppress(OSError):
        # A new descriptor gets the lowest free number.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
            pass
        os.close(descriptor)


class LoggedStream(io.TextIOBase):
    """A standard stream each of whose lines is logged as this event. Never raises."""

    def __init__(self, event: str, descriptor: int) -> None:
        self._event = event
        self._descriptor = descriptor
        self._line = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor, for code that goes around Python, such as faulthandler."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Log the lines that are complete now."""
        *lines, self._line = (self._line + text).split("\n")
        if len(self._line) > MOST_KEPT_CHARS:
            lines, self._line = [*lines, self._line], ""
        for line in lines:
            if line:
                log.warning(self._event, text=line)
        return len(text)

    def flush(self) -> None:
        """Log what has no end yet."""
        if self._line:
            self.write("\n")


class LibraryLog(logging.Handler):
    """What libraries log, one line a place in their code now and then."""

    def __init__(self, sampler: LogSampler) -> None:
        super().__init__()
        self._sampler = sampler

    def emit(self, record: logging.LogRecord) -> None:
        """One record; like the rest of the log, it never raises."""
        left_out = self._sampler.sample((record.pathname, record.lineno))
        if left_out is None:
            return
        try:
            text = record.getMessage()
        except Exception:
            text = str(record.msg)
        # structlog knows the five levels only, each a multiple of ten.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        log.log(level, "library", logger=record.name, text=text, exc_info=record.exc_info, left_out=left_out)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None = None
) -> None:
    log.critical("uncaught_exception", exc_info=(kind, error or kind(), traceback))


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    log.error(
        "exception_ignored",
        where=args.err_msg,
        object=args.object,
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )
