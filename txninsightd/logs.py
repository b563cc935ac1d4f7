"""Structured logs: an event with fields, as JSON or for a terminal, to standard error.

Every process binds its own name once. A log line is never a sentence with numbers in it. Loggers are not cached, so
`setup` may be called again at any time.
"""

import logging
import sys
from typing import Any

import structlog

from txninsightd import redaction


def setup(level: str, form: str) -> None:
    """`level`: debug, info, warning, error. `form`: json, console, or auto (console on a terminal)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not console),
            structlog.processors.format_exc_info,
            redaction.in_log_line,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def bind(process: str) -> None:
    """Name the process in every line that follows."""
    structlog.contextvars.bind_contextvars(process=process)
