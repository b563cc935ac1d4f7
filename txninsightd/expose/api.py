"""The HTTP routes. Handlers read from the `Source` and change nothing.

All answers except `/metrics` are JSON, in which control characters are escaped (visible_text.py). An error is
`{"error": "..."}` and says what to do. Listings and scrapes yield to the event loop (loop_yield.py), one listing runs
at a time, and few may wait (turns.py). So none holds up the aggregator.
"""

import msgspec
from aiohttp import web

from txninsightd import __version__
from txninsightd.core.ledger import Ledger
from txninsightd.expose.answers import (
    Handler,
    bytes_response,
    document_response,
    error_response,
    errors_as_json,
    json_response,
)
from txninsightd.expose.connections import note_scrape
from txninsightd.expose.hosts import AllowedHosts
from txninsightd.expose.listing import BadParameter, parse_query, select
from txninsightd.expose.loop_yield import LoopYield
from txninsightd.expose.negotiation import Coding, coding_for, patience_s, wants_openmetrics
from txninsightd.expose.pacing import USUAL_PATIENCE_S
from txninsightd.expose.partitions import PartitionSummary, partition_summary
from txninsightd.expose.refusals import Refusal, Refusals
from txninsightd.expose.rendering import OPENMETRICS, PLAIN, Renderings
from txninsightd.expose.source import Source
from txninsightd.expose.summaries import Entry, detail_of, summary_of
from txninsightd.expose.turns import Busy, Turns
from txninsightd.redaction import clean
from txninsightd.visible_text import from_visible, visible_json

ROUTES = {
    "/metrics": "all metrics, in Prometheus' text format or as OpenMetrics (with exemplars), by the Accept header",
    "/api/v1/transactions": "live and lingering transactions; filters: state, cause, txn_type, limit",
    "/api/v1/transactions/{txn_id}": "one transaction: its timeline, and the reason for its state",
    "/api/v1/partitions": "how far each partition was read, and its oldest undecided record",
    "/healthz": "200 while the aggregator's event loop runs",
    "/readyz": "200 when nothing is missing, else 503 with what is missing; notes beside it",
}


UNKNOWN_HOST = (
    "the host in this URL is not known to txninsightd: use an IP address, localhost or this machine's name, or add the "
    "host to http.allowed_hosts in its configuration"
)


class Listing(msgspec.Struct):
    """The answer to a listing. `matched` counts all transactions that match, `returned` those in the answer."""

    transactions: list[msgspec.Raw]
    matched: int
    returned: int


class Api:
    """The handlers."""

    def __init__(self, source: Source, renderings: Renderings, hosts: AllowedHosts, refusals: Refusals) -> None:
        self._source = source
        self._renderings = renderings
        self._hosts = hosts
        self._refusals = refusals
        self._listings = Turns()
        # A timeline of ten thousand events takes tens of milliseconds.
        self._details = Turns()

    def application(self) -> web.Application:
        """All routes, as an aiohttp application."""
        app = web.Application(middlewares=[errors_as_json, self.refuse])
        app.add_routes(
            [
                web.get("/", self.index),
                web.get("/metrics", self.metrics),
                web.get("/api/v1/transactions", self.transactions),
                # An id may contain any character, also slashes and line breaks.
                web.get("/api/v1/transactions/{txn_id:(?s:.+)}", self.transaction),
                web.get("/api/v1/partitions", self.partitions),
                web.get("/healthz", self.health),
                web.get("/readyz", self.readiness),
            ]
        )
        return app

    async def index(self, request: web.Request) -> web.Response:
        """Name, version and routes."""
        return json_response({"name": "txninsightd", "version": __version__, "routes": ROUTES})

    async def metrics(self, request: web.Request) -> web.Response:
        """All metrics."""
        form = OPENMETRICS if wants_openmetrics(_all(request, "Accept")) else PLAIN
        coding = coding_for(_all(request, "Accept-Encoding"))
        headers = {"Vary": "Accept, Accept-Encoding"}
        if coding is None:
            return error_response("accept gzip or identity as the encoding of the answer", 406, headers)
        gzip = coding is Coding.GZIP
        if gzip:
            headers["Content-Encoding"] = "gzip"
        note_scrape(request)
        patience = patience_s(request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", ""), USUAL_PATIENCE_S)
        body = await self._renderings.body(form, gzip, patience)
        return bytes_response(body, form.content_type, 200, headers)

    async def transactions(self, request: web.Request) -> web.Response:
        """A listing."""
        try:
            query = parse_query(request.query)
        except BadParameter as e:
            return error_response(str(e), 400)
        ledger, now = self._source.ledger, self._source.now()
        async with self._listings.turn():
            selection = await select(ledger, query)
            loop_yield = LoopYield()
            shown = []
            # A transaction may settle while the loop yields. Its last live state is shown then.
            for entry in selection.entries:
                shown.append(msgspec.Raw(visible_json(msgspec.json.encode(summary_of(ledger, entry, now)))))
                await loop_yield.yield_if_due()
        return document_response(msgspec.json.encode(Listing(shown, selection.matched, len(shown))))

    async def transaction(self, request: web.Request) -> web.Response:
        """One transaction."""
        ledger, txn_id = self._source.ledger, request.match_info["txn_id"]
        async with self._details.turn():
            entry = _entry(ledger, txn_id) or _entry(ledger, from_visible(txn_id))
            if entry is None:
                return error_response(self._absence(txn_id), 404)
            return json_response(detail_of(ledger, entry, self._source.now()))

    def _absence(self, txn_id: str) -> str:
        ledger = self._source.ledger
        # True and False both mean that it has ended; None means that it is unknown.
        if ledger.archive.was_aborted(txn_id) is not None:
            return (
                f"transaction '{txn_id}' has ended and is no longer shown: settled ones are kept for state.linger_s "
                f"({ledger.rules.linger_s:g} s), at most limits.lingering ({ledger.rules.most_lingering}) of them"
            )
        return (
            f"no transaction '{txn_id}' is known: check the id (percent-encode special characters in URLs), and check "
            "on /readyz that all records have been read; transactions that ended long ago are forgotten"
        )

    async def partitions(self, request: web.Request) -> web.Response:
        """All partitions of topics that exist, or existed a moment ago."""
        ledger, loop_yield = self._source.ledger, LoopYield()
        shown: list[PartitionSummary] = []
        async with self._listings.turn():
            # A copy: new partitions may be discovered while the loop yields.
            for partition in [p for p in ledger.partitions.values() if not p.void]:
                shown.append(partition_summary(ledger, partition))
                await loop_yield.yield_if_due()
        return json_response(shown)

    async def health(self, request: web.Request) -> web.Response:
        """Liveness. The event loop that does the work answers, so no answer means that it hangs."""
        return json_response({"alive": True, "up_s": round(self._source.now() - self._source.started_at, 3)})

    async def readiness(self, request: web.Request) -> web.Response:
        """Readiness: 200, or 503 with what is missing. Notes do not decide it."""
        missing = [clean(what) for what in self._source.missing()]
        notes = [clean(note) for note in self._source.notes()]
        return json_response({"ready": not missing, "missing": missing, "notes": notes}, 503 if missing else 200)

    # --- Refusals -----------------------------------------------------------------------------------------------------

    @web.middleware
    async def refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer only what is meant for this daemon and has a route, and not too much at a time."""
        host = request.headers.get("Host")
        # HTTP/1.0 knows no Host. Browsers, which this is about, always send it.
        if host is None and request.version >= (1, 1):
            return self._refused(request, Refusal.BAD_REQUEST, "the header Host is missing", 400)
        if host is not None and not self._hosts.allows(host):
            return self._refused(request, Refusal.HOST, UNKNOWN_HOST, 421)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return json_response({"error": f"there is nothing at {request.path}", "routes": ROUTES}, 404)
        except web.HTTPMethodNotAllowed as e:
            allowed = ", ".join(sorted(e.allowed_methods))
            return error_response(f"{request.path} answers {allowed} only", 405, {"Allow": allowed})
        except Busy:
            return self._refused(request, Refusal.BUSY, "too many such requests are in work: ask again later", 503)

    def _refused(self, request: web.Request, reason: Refusal, error: str, status: int) -> web.Response:
        self._refusals.add(reason, request.remote, error)
        return error_response(error, status, {"Retry-After": "1"} if status == 503 else None)


def _entry(ledger: Ledger, txn_id: str) -> Entry | None:
    # After a late retry the id has a settled life and a live one: show the live one.
    return ledger.live.get(txn_id) or ledger.archive.lingering.get(txn_id)


def _all(request: web.Request, header: str) -> str:
    """A header's list, which may stand in several lines (RFC 9110, section 5.3)."""
    return ",".join(request.headers.getall(header, ()))
