"""The HTTP server: aiohttp inside the aggregator's event loop, with one registry for `/metrics`.

The registry joins the ledger's collector with the readers' own metrics (worker_health.py) and removes counter resets
(monotonic_counters.py). connections.py bounds what clients can cost. aiohttp starts no thread here and handles no
signals; daemon.py starts and stops it.
"""

import asyncio
import errno
import os
from time import monotonic

from prometheus_client.core import CollectorRegistry

from txninsightd.config.model import Config
from txninsightd.expose.api import Api
from txninsightd.expose.collector import LedgerCollector
from txninsightd.expose.connections import Connections, TimeLimits
from txninsightd.expose.hosts import AllowedHosts, own_names
from txninsightd.expose.monotonic_counters import MonotonicCollector, MonotonicCounters
from txninsightd.expose.refusals import Refusals
from txninsightd.expose.rendering import Renderings
from txninsightd.expose.source import Source
from txninsightd.expose.workers import WorkersCollector

USUAL_LIMITS = TimeLimits()


class ListenError(OSError):
    """The address of `http.listen` cannot be listened on; the message says what to do."""


def registry_of(
    source: Source,
    config: Config,
    monotonic_counters: MonotonicCounters | None = None,
    refusals: Refusals | None = None,
) -> CollectorRegistry:
    """All metrics of `/metrics`. Without `monotonic_counters`, counters restart with the process that counts."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(LedgerCollector(source, config.metrics.duration_buckets_s, config.limits.label_values))
    if refusals is not None:
        registry.register(refusals)
    if source.multiproc_dir is not None:
        registry.register(WorkersCollector(source.multiproc_dir))
    if monotonic_counters is None:
        return registry
    # It wraps the whole registry: the readers' counters must not fall either.
    monotonic = CollectorRegistry(support_collectors_without_names=True)
    monotonic.register(MonotonicCollector(registry, monotonic_counters))
    return monotonic


class HttpServer:
    """Serves the API and the metrics of one source. Call `start` and `stop` once each, on the running loop."""

    def __init__(
        self,
        source: Source,
        config: Config,
        monotonic_counters: MonotonicCounters | None = None,
        limits: TimeLimits = USUAL_LIMITS,
    ) -> None:
        refusals = Refusals(monotonic)
        registry = registry_of(source, config, monotonic_counters, refusals)
        names = {*config.http.allowed_hosts, config.http.host.lower()}
        renderings = Renderings(registry, lambda: self.connections.scraping, lambda: self.connections.most_waiting)
        app = Api(source, renderings, AllowedHosts(names, own_names()), refusals).application()
        self.connections = Connections(app, refusals, limits)

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the actual port (port 0 takes a free one). Raises ListenError."""
        loop = asyncio.get_running_loop()
        try:
            server = await self.connections.listen(lambda factory: loop.create_server(factory, host, port))
        except OSError as e:
            raise ListenError(_advice(host, port, e)) from e
        real_port: int = server.sockets[0].getsockname()[1]
        return real_port

    async def stop(self) -> None:
        """Accept no more requests, and give the running ones a second."""
        await self.connections.stop()


def _advice(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {host}:{port}: another program uses port {port}; stop it (`ss -ltnp` names it), "
            "or set http.listen to another port"
        )
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"cannot listen on {host}:{port}: {reason}; set http.listen to an address of this machine and a free port"
