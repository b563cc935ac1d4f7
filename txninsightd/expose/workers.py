"""The readers' own metrics, read from prometheus_client's multiprocess files at each scrape.

A reader may be killed or start to write at any moment, and the directory may be removed. If a file cannot be read just
then, the scrape lacks the readers' metrics and has all others; the log says so, once until it works again.
"""

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from txninsightd.expose.catalogue import CATALOGUE

log = structlog.get_logger()

_collector_of: Callable[..., Collector] = MultiProcessCollector
_UNITS = {definition.name: definition.unit for definition in CATALOGUE}


class WorkersCollector(Collector):
    """The metrics in the files of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._readable = True

    def collect(self) -> Iterable[Metric]:
        """All families in the files."""
        try:
            families = list(_collector_of(None, path=str(self._directory)).collect())
        except (OSError, ValueError, RuntimeError, struct.error) as e:
            if self._readable:
                log.warning("worker_files_unreadable", directory=str(self._directory), error=str(e))
            self._readable = False
            return []
        self._readable = True
        # The files hold no units.
        for family in families:
            family.unit = _UNITS.get(family.name, "")
        return families
