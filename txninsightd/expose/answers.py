"""Answers of the HTTP servers: JSON, errors as JSON, and bodies that are written in chunks.

A body is shared by all clients that get it, and nothing copies it: each client has at most one chunk in work. By
themselves aiohttp and uvloop would hold what is left of a body until the client has read it or has gone.
"""

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from txninsightd.expose.loop_yield import LoopYield
from txninsightd.visible_text import visible_json

CHUNK_BYTES = 256 * 1024

SAFE = {"X-Content-Type-Options": "nosniff"}
"""Headers of all answers: browsers must not guess a type from what events say."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


class Body(payload.Payload):
    """The bytes of an answer. Writing waits for the client after each chunk; connections.py limits for how long."""

    def __init__(self, content: bytes, content_type: str) -> None:
        super().__init__(content, content_type=content_type)
        self.content = content
        self._size = len(content)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The text."""
        return self.content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        loop_yield = LoopYield()
        whole = memoryview(self.content)
        for start in range(0, len(whole), CHUNK_BYTES):
            await writer.write(whole[start : start + CHUNK_BYTES])
            await writer.drain()
            await loop_yield.yield_if_due()


def bytes_response(
    content: bytes, content_type: str, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """An answer with this body."""
    return web.Response(body=Body(content, content_type), status=status, headers={**SAFE, **(headers or {})})


def json_response(answer: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer, in which control characters are escaped."""
    return document_response(visible_json(msgspec.json.encode(answer)), status, headers)


def document_response(document: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer that is JSON already."""
    return bytes_response(document, "application/json", status, headers)


def error_response(error: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
    """An error; the text says what to do."""
    return json_response({"error": error}, status, headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer unexpected errors as JSON, and log them. aiohttp's own errors become JSON in connections.py."""
    try:
        return await handler(request)
    except (web.HTTPException, web.RequestPayloadError, ConnectionError):
        raise
    except Exception:
        log.exception("http_request_failed", method=request.method, path=request.path)
        return error_response("the request failed inside txninsightd; see its log", 500)
