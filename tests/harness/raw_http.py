"""HTTP in bytes: for clients that do what no library does, and for servers with limits of the test's own."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.harness.expose_world import World
from txninsightd.expose.connections import TimeLimits
from txninsightd.expose.server import HttpServer

HANG_GUARD_S = 60.0
LONG = TimeLimits(3600.0, 3600.0, 3600.0)
"""No time-out ends what a test does."""


class Reply(NamedTuple):
    """An answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, text: str | bytes) -> None:
        """Send it without waiting."""
        self.writer.write(text.encode() if isinstance(text, str) else text)

    def get(self, path: str, *headers: str) -> None:
        """Send a request."""
        self.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]))

    async def reply(self) -> Reply:
        """The next answer, with its body by its length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(status_line.split()[1]), headers, body)

    async def ended(self) -> None:
        """Wait until the server has ended the connection; what it sent before is dropped."""
        try:
            while await self.reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        """End it from this side."""
        self.writer.close()


async def connect(port: int, receive_buffer_bytes: int | None = None, limit: int = 1 << 16) -> Client:
    """A connection. With a small receive buffer and `limit` (bytes in this process) it takes little of an answer."""
    connection = socket.socket()
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return Client(*await asyncio.open_connection(sock=connection, limit=limit))


@asynccontextmanager
async def serving(world: World, limits: TimeLimits = LONG) -> AsyncIterator[tuple[HttpServer, int]]:
    """A server and its port, for as long as the hang guard allows."""
    server = HttpServer(world, world.config, world.monotonic_counters, limits)
    port = await server.start("127.0.0.1", 0)
    async with asyncio.timeout(HANG_GUARD_S):
        try:
            yield server, port
        finally:
            await server.stop()


async def ask_once(port: int, request: str | bytes) -> Reply:
    """Send this on a connection of its own, and give the answer."""
    client = await connect(port)
    try:
        client.send(request)
        return await client.reply()
    finally:
        client.close()
