"""The connections of one HTTP server: how many there may be, and how long each may keep the server waiting.

aiohttp parses requests, runs handlers and keeps connections alive. It has no time-out for a request that is sent slowly
or an answer that is read slowly, no bound on connections, and answers what is no HTTP with a traceback in the log. So
`Connection` is aiohttp's protocol with these four phases, of which each but WORK has a time limit:

    REQUEST --(complete)--> WORK --(answer known)--> ANSWER --(all taken by the kernel)--> IDLE --(a byte)--> REQUEST

Nothing of an answer stays in a buffer of this process after ANSWER: the transport's high-water mark is 0. So a closed
connection really is closed, however its client behaves.

When all places are taken, a new connection gets the place of the one that has kept the server waiting longest, be it
idle or a client that does not read. So such clients cannot keep others out. A server whose clients all wait for *it*
refuses new ones with 503.
"""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, NamedTuple, cast

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError, InvalidHeader, LineTooLong

from txninsightd.expose.answers import SAFE, Body, Handler, error_response
from txninsightd.expose.refusals import Refusal, Refusals
from txninsightd.expose.unread import UnreadBodies

MOST_CONNECTIONS = 100
DESCRIPTORS_A_CONNECTION = 4
"""Of the process's limit of open files, connections use at most one in so many."""
KEPT_FREE = 10
GRACE_S = 1.0
"""A connection is not ended in favor of a new one before it has kept the server waiting for as long as this."""
STOP_TIMEOUT_S = 1.0
"""How long requests in work may take after the server stops, by default."""
MOST_URL_BYTES = 16 * 1024
"""Enough for the longest id (1,024 characters), each percent-encoded from four bytes."""
MOST_HEADERS = 64
SEND_BUFFER_BYTES = 256 * 1024
"""What the kernel may hold of an answer; else it is some megabytes for each connection."""

PARSER_SETTINGS: dict[str, Any] = {
    "access_log": None,
    "max_line_size": MOST_URL_BYTES,
    "max_headers": MOST_HEADERS,
    "auto_decompress": False,
    # How long a body that no handler wants is read and dropped before the connection is closed.
    "lingering_time": 1.0,
}

ProtocolFactory = Callable[[], asyncio.Protocol]
Listen = Callable[[ProtocolFactory], Awaitable[asyncio.Server]]

log = structlog.get_logger()


class Phase(Enum):
    """What a connection waits for."""

    REQUEST = auto()
    WORK = auto()
    ANSWER = auto()
    IDLE = auto()


class TimeLimits(NamedTuple):
    """The longest time in each phase, in seconds. Prometheus keeps connections open from one scrape to the next."""

    request_s: float = 10.0
    answer_s: float = 60.0
    idle_s: float = 75.0

    def of(self, phase: Phase) -> float | None:
        """The limit of a phase; None for WORK: that time is the server's own."""
        return {Phase.REQUEST: self.request_s, Phase.ANSWER: self.answer_s, Phase.IDLE: self.idle_s}.get(phase)


class Connections:
    """Serves one application. Call `start` and `stop` once each, on the running loop."""

    def __init__(
        self,
        app: web.Application,
        refusals: Refusals,
        limits: TimeLimits,
        most: int = MOST_CONNECTIONS,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        app.middlewares.insert(0, _note_work)
        self.refusals = refusals
        self.limits = limits
        self.unread = UnreadBodies()
        self.most = min(most, _affordable())
        self._stop_timeout_s = stop_timeout_s
        # A request whose client has gone holds no place, so it must not stay in work either. The runner's own time-out
        # is only for what `stop` does not end.
        self._runner = web.AppRunner(
            app, handle_signals=False, shutdown_timeout=2 * stop_timeout_s, handler_cancellation=True
        )
        self._server: asyncio.Server | None = None
        # A dict keeps their order: of two that have waited equally long, the older one goes first.
        self._open: dict[Connection, None] = {}

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._open)

    @property
    def most_waiting(self) -> int:
        """How many may wait for a rendering: not all, since somebody may ask for /healthz meanwhile."""
        return self.most - min(KEPT_FREE, self.most // 4)

    @property
    def scraping(self) -> int:
        """How many of them have asked for metrics."""
        return sum(connection.scrapes for connection in self._open)

    @property
    def at_work(self) -> int:
        """How many of them wait for the answer to a request."""
        return sum(connection.phase is Phase.WORK for connection in self._open)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of this process's memory wait for clients to read, beside `unread`."""
        return sum(connection.waiting_bytes for connection in self._open)

    async def listen(self, listen: Listen) -> asyncio.Server:
        """Listen with the function given; when called again, there instead. Raises OSError if it does."""
        if self._runner.server is None:
            await self._runner.setup()
        if self._server is not None:
            self._server.close()
            self._server = None
        self._server = await listen(self._connection)
        return self._server

    async def stop(self) -> None:
        """Accept no more connections, end idle ones, and give requests in work the time-out."""
        if self._server is not None:
            self._server.close()
        timer = asyncio.get_running_loop().call_later(self._stop_timeout_s, self._abort_all)
        await self._runner.cleanup()
        timer.cancel()
        self._abort_all()

    def _connection(self) -> "Connection":
        server = self._runner.server
        assert server is not None, "start() has set it up"
        return Connection(server, self)

    def _abort_all(self) -> None:
        for connection in list(self._open):
            connection.abort()

    # --- Called by connections ----------------------------------------------------------------------------------------

    def admit(self, connection: "Connection", now: float) -> bool:
        """Whether there is room for one more connection, perhaps in the place of another."""
        if len(self._open) >= self.most and not self._make_room(now):
            return False
        self._open[connection] = None
        return True

    def gone(self, connection: "Connection") -> None:
        """This connection has ended."""
        self._open.pop(connection, None)

    def _make_room(self, now: float) -> bool:
        waiting = [(c.waiting_since, c) for c in self._open if c.waiting_since is not None]
        since, longest = min(waiting, key=lambda pair: pair[0], default=(now, None))
        if longest is None or now - since < GRACE_S:
            return False
        longest.end(Refusal.TOO_MANY_CONNECTIONS)
        return True


class Connection(web.RequestHandler):
    """One connection, in a `phase`. `scrapes`: whether its client has asked for metrics.

    `waiting_since`: since when its client keeps the server waiting, in the loop's time; else None.

    aiohttp's methods that are overridden here: those of asyncio's protocols, and `handle_error`, `finish_response` and
    `log_exception`, through which each error and each answer passes.
    """

    def __init__(self, server: web.Server, connections: Connections) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **PARSER_SETTINGS)
        self.waiting_since: float | None = None
        self._clock = loop.time
        self._call_later = loop.call_later
        self._connections = connections
        self.phase = Phase.REQUEST
        self.scrapes = False
        self._timer: asyncio.TimerHandle | None = None
        # aiohttp forgets its transport when it closes it, which may be long before the connection has ended.
        self._wire: asyncio.Transport | None = None

    # --- Called by the event loop -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        wire = cast(asyncio.Transport, transport)
        if not self._connections.admit(self, self._clock()):
            self._turn_away(wire)
            return
        self._wire = wire
        wire.set_write_buffer_limits(high=0)
        wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.enter(Phase.REQUEST)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """A part of a request has come. aiohttp also calls this, without data."""
        if data and self.phase is Phase.IDLE:
            self.enter(Phase.REQUEST)
        try:
            super().data_received(data)
        except Exception as failure:
            # The parser has a bug. uvloop would log a traceback for each such request.
            self.end(Refusal.BAD_REQUEST, type(failure).__name__)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended."""
        self._wire = None
        self._stop_timer()
        self._connections.gone(self)
        super().connection_lost(exc)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait in this process for the client to read."""
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    # --- Phases -------------------------------------------------------------------------------------------------------

    def enter(self, phase: Phase) -> None:
        """Another phase begins."""
        self.phase = phase
        self._stop_timer()
        limit_s = self._connections.limits.of(phase)
        if limit_s is None or self._wire is None:
            self.waiting_since = None
            return
        self.waiting_since = self._clock()
        self._timer = self._call_later(limit_s, self._out_of_time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _out_of_time(self) -> None:
        if self.phase is Phase.IDLE:
            self.abort()
        else:
            self.end(Refusal.SLOW_REQUEST if self.phase is Phase.REQUEST else Refusal.SLOW_READER)

    def end(self, reason: Refusal, error: str = "") -> None:
        """End the connection at once, and count why."""
        self._connections.refusals.add(reason, _address(self._wire), error)
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._connections.gone(self)
        if self._wire is not None:
            self._wire.abort()

    def _turn_away(self, wire: asyncio.Transport) -> None:
        self.close()
        self._connections.refusals.add(Refusal.TOO_MANY_CONNECTIONS, _address(wire))
        wire.write(TURNED_AWAY)
        wire.close()

    # --- Called by aiohttp --------------------------------------------------------------------------------------------

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer. Gives it, and whether the client has gone."""
        answer = _as_json(resp) if isinstance(resp, web.HTTPException) else resp
        self.enter(Phase.ANSWER)
        try:
            with self._connections.unread.reading(_content(answer), self._overtaken):
                return await super().finish_response(request, answer, start_time)
        finally:
            self.enter(Phase.IDLE)

    def _overtaken(self) -> None:
        self.end(Refusal.SLOW_READER, "too much of other answers is unread")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no HTTP, or to a failure outside the handlers. The connection is closed after it."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client has gone, or has got a part of the answer") from exc
        if isinstance(exc, HttpProcessingError | web.RequestPayloadError):
            status, error = 400, _what_is_wrong(exc)
            self._connections.refusals.add(Refusal.BAD_REQUEST, _address(self._wire), error)
        else:
            error = "the request failed inside txninsightd; see its log"
            log.error("http_request_failed", status=status, exc_info=exc)
        answer = error_response(error, status)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Something failed outside of requests."""
        log.error("http_connection_failed", error=str(args[0]) if args else "", exc_info=kw.get("exc_info"))


@web.middleware
async def _note_work(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The request is complete: from now on its client waits for the server."""
    connection = request.protocol
    if isinstance(connection, Connection):
        connection.enter(Phase.WORK)
    return await handler(request)


def note_scrape(request: web.Request) -> None:
    """The client of this request asks for metrics."""
    if isinstance(request.protocol, Connection):
        request.protocol.scrapes = True


# --- Answers of the server itself -------------------------------------------------------------------------------------

_TURNED_AWAY_BODY = msgspec.json.encode({"error": "too many connections are open: try again later"})
_TURNED_AWAY_HEADERS = {
    "Content-Type": "application/json",
    "Content-Length": str(len(_TURNED_AWAY_BODY)),
    "Connection": "close",
    "Retry-After": "1",
    **SAFE,
}
TURNED_AWAY = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in _TURNED_AWAY_HEADERS.items())
    + "\r\n"
).encode() + _TURNED_AWAY_BODY


def _as_json(error: web.HTTPException) -> web.Response:
    """One of aiohttp's own errors. Its text may quote the request, so only status and reason are used."""
    allow = error.headers.get("Allow")
    answer = error_response(f"{error.status} {error.reason}", error.status, {"Allow": allow} if allow else None)
    if not error.keep_alive:
        answer.force_close()
    return answer


def _what_is_wrong(error: BaseException) -> str:
    """Why a request cannot be parsed. The text has nothing of the request in it."""
    if isinstance(error, LineTooLong):
        return f"the request's URL ({MOST_URL_BYTES} bytes at most) or one of its headers (8190) is too long"
    if isinstance(error, BadStatusLine):
        return "the request line is not valid HTTP/1.1 (this port speaks no TLS)"
    if isinstance(error, InvalidHeader):
        return "a header of the request is not valid"
    if isinstance(error, web.RequestPayloadError):
        return "the body of the request is not valid"
    return "the request is not valid HTTP/1.1"


def _content(answer: web.StreamResponse) -> bytes:
    body = answer.body if isinstance(answer, web.Response) else None
    return body.content if isinstance(body, Body) else b""


def _address(wire: asyncio.Transport | None) -> str | None:
    peer = wire.get_extra_info("peername") if wire is not None else None
    # Clients of a Unix socket have no address.
    return str(peer[0]) if isinstance(peer, tuple) else None


def _affordable() -> int:
    """As many connections as the process's limit of open files allows."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, limit // DESCRIPTORS_A_CONNECTION) if limit != resource.RLIM_INFINITY else MOST_CONNECTIONS
