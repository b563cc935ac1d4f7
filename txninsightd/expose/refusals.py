"""Requests and connections that the HTTP server refuses: counted by reason, and logged in one sampled line."""

from collections.abc import Callable, Iterator
from enum import StrEnum

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from txninsightd.expose import catalogue
from txninsightd.expose.collector import simple
from txninsightd.log_sampling import LogSampler

log = structlog.get_logger()


class Refusal(StrEnum):
    """Why a request is refused, or its connection ended."""

    BAD_REQUEST = "bad_request"
    """It is no HTTP: a bad request line or header, or one that is too long."""
    HOST = "host"
    """Its Host is none of ours."""
    SLOW_REQUEST = "slow_request"
    """It was not complete in time; or a new connection sent none."""
    SLOW_READER = "slow_reader"
    """Its client did not take the answer in time, or in the way of others."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """A connection was refused, or ended in favor of a new one."""
    BUSY = "busy"
    """Too many requests for metrics, listings or timelines were waiting already."""


ADVICE = {
    Refusal.BAD_REQUEST: "check what sends to this port: it speaks no HTTP/1.1, or TLS",
    Refusal.HOST: "if the name is yours, add it to http.allowed_hosts",
    Refusal.SLOW_REQUEST: "check what connects to this port and sends no complete request",
    Refusal.SLOW_READER: "check what asks at this port and does not read the answer",
    Refusal.TOO_MANY_CONNECTIONS: "check what keeps so many connections to this port open",
    Refusal.BUSY: "ask for fewer of them at a time",
}


class Refusals(Collector):
    """The counts, as a metric. `now` is any clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts = dict.fromkeys(Refusal, 0)
        self._sampler = LogSampler(now)

    def add(self, reason: Refusal, client: str | None, error: str = "") -> None:
        """Count one refusal. `client`: its address; `error`: what is wrong, without anything that the client sent."""
        self.counts[reason] += 1
        skipped = self._sampler.sample(reason)
        if skipped is not None:
            log.warning(
                "http_request_refused",
                reason=reason.value,
                client=client,
                error=error or None,
                advice=ADVICE[reason],
                left_out=skipped,
            )

    def collect(self) -> Iterator[Metric]:
        """The counts by reason, from 0."""
        counts = {(reason.value,): count for reason, count in self.counts.items()}
        yield simple(catalogue.HTTP_REQUESTS_REFUSED, counts)
