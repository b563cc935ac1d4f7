"""Operator commands: a Unix socket in the state directory, separate from the HTTP API, which changes nothing.

File permissions control access: the socket has mode 0600 in a directory of mode 0700. One daemon locks the directory,
so an existing socket is left over from a dead daemon. A command is answered once a checkpoint holds its effect. So no
crash undoes a confirmed command. If the socket's file is removed while the daemon runs, it is made again.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgspec
import structlog
from aiohttp import web

from txninsightd.expose.answers import error_response, errors_as_json, json_response
from txninsightd.expose.connections import Connections, TimeLimits
from txninsightd.expose.refusals import Refusals
from txninsightd.expose.source import Source
from txninsightd.visible_text import from_visible

OWNER_ONLY_UMASK = 0o177
MOST_CONNECTIONS = 8
USUAL_LIMITS = TimeLimits(idle_s=10.0)
STOP_TIMEOUT_S = 2.0
"""A command is answered once a checkpoint holds its effect. The last checkpoint and HTTP need time, too."""
LOOK_EVERY_S = 2.0

log = structlog.get_logger()


class ForgetCommand(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /forget`."""

    txn_id: str


class OperatorSocket:
    """Runs operator commands on one source. Call `start` and `stop` once each, on the running loop.

    `owns_directory`: whether the socket's directory is locked by this daemon at present.
    """

    def __init__(
        self, source: Source, limits: TimeLimits = USUAL_LIMITS, owns_directory: Callable[[], bool] = lambda: True
    ) -> None:
        self._source = source
        self._limits = limits
        self._owns_directory = owns_directory
        self._failed = False
        self._listening: asyncio.Task[None] | None = None
        app = web.Application(middlewares=[errors_as_json])
        app.add_routes([web.post("/forget", self.forget)])
        self._connections = Connections(app, Refusals(monotonic), limits, MOST_CONNECTIONS, STOP_TIMEOUT_S)

    async def start(self, path: Path) -> None:
        """Listen at this path. If that fails, the daemon runs on without operator commands, and logs the failure."""
        await self._listen(path)
        self._listening = asyncio.create_task(self._keep_listening(path))

    async def _keep_listening(self, path: Path) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._owns_directory() and not os.path.lexists(path):
                await self._listen(path)

    async def _listen(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        # umask, not chmod: before a chmod any local user could connect for a moment.
        before = os.umask(OWNER_ONLY_UMASK)
        try:
            _remove_stale_socket(path)
            await self._connections.listen(lambda factory: loop.create_unix_server(factory, str(path)))
            self._failed = False
        except OSError as failure:
            error = failure.strerror or str(failure)
            advice = f"check {path.name} in state.directory and restart; until then `txninsightd forget` does not work"
            if not self._failed:
                log.error("control_socket_failed", error=error, advice=advice)
            self._failed = True
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Accept no more commands, and finish the running ones."""
        if self._listening is not None:
            self._listening.cancel()
        await self._connections.stop()

    async def forget(self, request: web.Request) -> web.Response:
        """End a live transaction that the operator knows is dead."""
        try:
            async with asyncio.timeout(self._limits.request_s):
                command = await request.read()
            txn_id = msgspec.json.decode(command, type=ForgetCommand).txn_id
        except TimeoutError:
            return error_response("the request was not complete in time", 408)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return error_response('expected {"txn_id": "..."} in UTF-8', 400)
        if not self._source.forget(txn_id) and not self._source.forget(from_visible(txn_id)):
            return error_response(self._absence(txn_id), 404)
        # It has ended even if the checkpoint fails: a second request gets 404.
        log.info("transaction_forgotten", txn_id=txn_id)
        try:
            await self._source.durable()
        except OSError as failure:
            return error_response(_not_durable(txn_id, failure), 503)
        return json_response({"forgotten": txn_id})

    def _absence(self, txn_id: str) -> str:
        if self._source.ledger.archive.was_aborted(txn_id) is not None:
            return f"transaction '{txn_id}' has already ended: there is nothing to forget"
        missing = self._source.missing()
        unread = f"; not all records have been read yet: {missing[0]}" if missing else ""
        return f"no live transaction '{txn_id}' is known: check the id{unread}"


def _remove_stale_socket(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(0, "a file that is not a socket is in its place")
        path.unlink()


def _not_durable(txn_id: str, failure: OSError) -> str:
    return (
        f"transaction '{txn_id}' has ended, but no checkpoint could be written ({failure.strerror or failure}), so a "
        "crash would bring it back: make state.directory writable; the next checkpoint will hold the change"
    )
