"""What an operator may order: a Unix socket in the state directory, apart from the HTTP API, which changes nothing.

Who may speak is for the file system to say: the socket has mode 0600 in a directory of mode 0700. One daemon holds the
directory, so a socket that lies there already is that of a dead one. An order is answered when a checkpoint holds what
came of it, so that no crash undoes what was confirmed.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from aiohttp import web

from txninsightd.expose.api import errors_as_json, json_response
from txninsightd.expose.source import Source

ONLY_THE_OWNER = 0o177
STOP_TIMEOUT_S = 5.0

log = structlog.get_logger()


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /forget`."""

    txn_id: str


class OperatorSocket:
    """Takes orders for one source. `start` and `stop` once each, on the running loop."""

    def __init__(self, source: Source) -> None:
        self._source = source
        app = web.Application(middlewares=[errors_as_json])
        app.add_routes([web.post("/forget", self.forget)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_TIMEOUT_S)

    async def start(self, path: Path) -> None:
        """Listen at this path. Where that fails, the daemon goes on, and takes no orders; the log says so."""
        await self._runner.setup()
        # By umask, since a chmod would come after a moment in which anybody could connect.
        before = os.umask(ONLY_THE_OWNER)
        try:
            _make_way(path)
            await web.UnixSite(self._runner, path).start()
        except OSError as failure:
            error = failure.strerror or str(failure)
            advice = f"see to {path.name} in state.directory and restart; until then `txninsightd forget` cannot work"
            log.error("control_socket_failed", error=error, advice=advice)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Take no more orders, and let those that are being carried out end."""
        await self._runner.cleanup()

    async def forget(self, request: web.Request) -> web.Response:
        """End a live transaction that the operator knows to be dead."""
        try:
            txn_id = msgspec.json.decode(await request.read(), type=Order).txn_id
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return json_response({"error": 'expected {"txn_id": "..."} in UTF-8'}, 400)
        if not self._source.forget(txn_id):
            return json_response({"error": self._absence(txn_id)}, 404)
        # From here on it is over, whatever becomes of the checkpoint: who asks again is told so.
        log.info("transaction_forgotten", txn_id=txn_id)
        try:
            await self._source.durable()
        except OSError as failure:
            return json_response({"error": _not_durable(txn_id, failure)}, 503)
        return json_response({"forgotten": txn_id})

    def _absence(self, txn_id: str) -> str:
        if self._source.ledger.archive.was_aborted(txn_id) is not None:
            return f"transaction '{txn_id}' is over already: there is nothing to forget"
        missing = self._source.missing()
        unread = f"; not everything was read so far: {missing[0]}" if missing else ""
        return f"no live transaction '{txn_id}' is known: check the id{unread}"


def _make_way(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(0, "something that is no socket is in its place")
        path.unlink()


def _not_durable(txn_id: str, failure: OSError) -> str:
    return (
        f"transaction '{txn_id}' is ended, but no checkpoint could be written ({failure.strerror or failure}), so that "
        "it would be back after a crash: make state.directory writable; the next checkpoint will hold it"
    )
