"""The HTTP server: aiohttp inside the aggregator's own event loop, with one registry for `/metrics`.

The registry joins the ledger's collector with what the readers write about themselves (worker_health.py), raised to
what was exposed before (monotonic_counters.py). aiohttp starts no thread here and takes no signals: the composition
root starts and stops it.
"""

import errno
import os

from aiohttp import web
from prometheus_client.core import CollectorRegistry

from txninsightd.config.model import Config
from txninsightd.expose.api import Api
from txninsightd.expose.collector import LedgerCollector
from txninsightd.expose.monotonic_counters import MonotonicCollector, MonotonicCounters
from txninsightd.expose.source import Source
from txninsightd.expose.workers import WorkersCollector

STOP_TIMEOUT_S = 5.0
"""How long requests that are being answered may go on once the server stops."""


class ListenError(OSError):
    """The address of `http.listen` cannot be listened on; the message says what to do."""


def registry_of(
    source: Source, config: Config, monotonic_counters: MonotonicCounters | None = None
) -> CollectorRegistry:
    """Everything that `/metrics` shows. Without `monotonic_counters`, counters show what is counted now."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(LedgerCollector(source, config.metrics.duration_buckets_s, config.limits.label_values))
    if source.multiproc_dir is not None:
        registry.register(WorkersCollector(source.multiproc_dir))
    if monotonic_counters is None:
        return registry
    # Around all of it: what the readers count must not fall either.
    raised = CollectorRegistry(support_collectors_without_names=True)
    raised.register(MonotonicCollector(registry, monotonic_counters))
    return raised


class HttpServer:
    """Serves the API and the metrics of one source. `start` and `stop` once each, on the running loop."""

    def __init__(self, source: Source, config: Config, monotonic_counters: MonotonicCounters | None = None) -> None:
        self._app = Api(source, registry_of(source, config, monotonic_counters)).application()
        self._runner = web.AppRunner(self._app, access_log=None, handle_signals=False, shutdown_timeout=STOP_TIMEOUT_S)

    async def start(self, host: str, port: int) -> int:
        """Listen; gives the real port (of port 0: the one that was free). Raises ListenError."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as e:
            await self._runner.cleanup()
            raise ListenError(_advice(host, port, e)) from e
        real_port: int = self._runner.addresses[0][1]
        return real_port

    async def stop(self) -> None:
        """Take no more requests, and let those that are being answered end."""
        await self._runner.cleanup()


def _advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {host}:{port}: another program has taken port {port}; stop it (`ss -ltnp` names it), "
            "or set http.listen to another port"
        )
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"cannot listen on {host}:{port}: {reason}; set http.listen to an address of this machine and a free port"
