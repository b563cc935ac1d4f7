"""Structured logs: an event with fields, as JSON or for a terminal, to standard error.

Every process binds its own name once. A log line is never a sentence with numbers in it. Loggers are not cached, so
`setup` may be called again at any time.

Logging never raises and never waits. A line that cannot be rendered is written in a reduced form; one that cannot be
written is dropped and counted (log_output.py), and the next line that can be written is preceded by one that says how
many were dropped.
"""

import errno
import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from txninsightd import redaction
from txninsightd.log_output import OUTPUT, STANDARD_ERROR, LogOutput
from txninsightd.visible_text import visible, visible_lines

MOST_LINE_CHARS = 256 * 1024
MOST_REDUCED_CHARS = 1000


def setup(level: str, form: str) -> None:
    """`level`: debug, info, warning, error. `form`: json, console, or auto (console on a terminal)."""
    console = form == "console" or (form == "auto" and os.isatty(STANDARD_ERROR))
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(allow_nan=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            Rendering(
                [
                    structlog.processors.format_exc_info,
                    redaction.in_log_line,
                    *([_show_visibly] if console else []),
                    renderer,
                ],
                OUTPUT,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: LINE_LOGGER,
        cache_logger_on_first_use=False,
    )


def _show_visibly(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    """Let no field act on the terminal, or begin a line. JSON needs no such step: it is written in ASCII."""
    for name, value in fields.items():
        if isinstance(value, str):
            fields[name] = visible_lines(value) if name == "exception" else visible(value)
    return fields


def bind(process: str) -> None:
    """Name the process in every line that follows."""
    structlog.contextvars.bind_contextvars(process=process)
    OUTPUT.bind(process)


class _LineLogger:
    """What structlog hands rendered lines to."""

    def __init__(self, output: LogOutput) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = output.write


LINE_LOGGER = _LineLogger(OUTPUT)


class Rendering:
    """The last processor: `processors` make the line. Whatever they raise, a line results, or one counts as dropped."""

    def __init__(self, processors: Sequence[Callable[..., Any]], output: LogOutput) -> None:
        self._processors = processors
        self._output = output

    def __call__(self, _logger: object, _method: str, fields: EventDict) -> str:
        """The line. If earlier lines were dropped, another one that says so precedes it, in the same write."""
        try:
            said = [self._line(self._dropped(fields))] if self._output.unsaid else []
            return "\n".join([*said, self._line(fields)])
        except Exception:
            self._output.drop(errno.EINVAL)
            raise structlog.DropEvent from None

    def _dropped(self, fields: EventDict) -> EventDict:
        kept = {key: fields[key] for key in ("process", "timestamp") if key in fields}
        return {**kept, "event": "log_lines_dropped", "level": "warning", "lines": self._output.unsaid}

    def _line(self, fields: EventDict) -> str:
        # A copy: a renderer takes the fields apart, also when it fails half-way.
        made: Any = dict(fields)
        try:
            for processor in self._processors:
                made = processor(None, "", made)
        except Exception as failure:
            return _reduced(fields, type(failure).__name__)
        line = str(made)
        return line if len(line) <= MOST_LINE_CHARS else _reduced(fields, "too long")


def _reduced(fields: EventDict, reason: str) -> str:
    """The line as JSON in which every value is a short text."""
    short = {str(key): _short_text(value) for key, value in fields.items()}
    return json.dumps({**short, "reduced": reason})


def _short_text(value: object) -> str:
    try:
        return redaction.clean(value if isinstance(value, str) else repr(value))[:MOST_REDUCED_CHARS]
    except Exception:
        return f"<{type(value).__name__}>"
