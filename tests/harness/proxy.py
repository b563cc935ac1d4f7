"""A TCP proxy that misbehaves on demand: the network between a client and a broker, for tests that break it.

It listens on the loopback interface and forwards each connection to one target port. Told so, it closes its door and
ends what is open with a reset (`refuse`), ends what is open but lets newcomers in (`reset`), or goes silent: it keeps
connections open and swallows all that comes over them, in both directions (`fall_silent`), as a firewall does that has
forgotten them. What was swallowed once is silent for ever, also after `pass_on`; only newcomers fare better then.
`delay_s` holds everything back for so long on its way, in order, in each direction.

One event loop on a thread of its own does the work; every method returns when what it says has happened.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from typing import Any, Self

HOST = "127.0.0.1"
HANG_GUARD_S = 30.0
CHUNK_BYTES = 1 << 16
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """A client's connection and ours to the target for it. `silent`: what comes is thrown away, even that it ended."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter, silent: bool) -> None:
        self.silent = silent
        self.work = asyncio.current_task()
        self._writers = (client, target)

    def reset(self) -> None:
        """End both connections, unsent bytes lost, so that both ends are told by a reset."""
        for writer in self._writers:
            connection: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()


class Proxy:
    """Forwards connections on `port` (drawn now, kept for ever) to `target_port`, once started."""

    def __init__(self, port: int, target_port: int) -> None:
        self.port = port
        self.target_port = target_port
        self.delay_s = 0.0
        self._silent = False
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{port}", daemon=True)

    # --- What it is told ----------------------------------------------------------------------------------------------

    def pass_on(self) -> None:
        """Let newcomers in, and forward what they say."""
        self._do(self._open())

    def refuse(self) -> None:
        """Reset what is open, and refuse newcomers."""
        self._do(self._close())

    def reset(self) -> None:
        """Reset what is open; newcomers fare as before."""
        self._do(self._reset())

    def fall_silent(self) -> None:
        """Swallow whatever comes from now on, over open connections and new ones."""
        self._do(self._swallow())

    @property
    def links(self) -> int:
        """How many connections are open, silent ones included."""
        return len(self._links)

    def __enter__(self) -> Self:
        self._thread.start()
        self.pass_on()
        return self

    def __exit__(self, *failure: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(HANG_GUARD_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(HANG_GUARD_S)

    # --- What the loop does -------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._silent = False
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self) -> None:
        ending = [link.work for link in self._links if link.work is not None]
        for work in ending:
            work.cancel()
        if ending:
            await asyncio.wait(ending)

    async def _swallow(self) -> None:
        self._silent = True
        for link in self._links:
            link.silent = True

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_target, to_target = await asyncio.open_connection(HOST, self.target_port)
        except OSError:  # the target is down: so are we
            to_client.transport.abort()
            return
        link = Link(to_client, to_target, self._silent)
        if self._server is None:  # the door was closed meanwhile
            link.reset()
            return
        self._links.add(link)
        try:
            await asyncio.gather(
                self._forward(link, from_client, to_target), self._forward(link, from_target, to_client)
            )
        except asyncio.CancelledError:  # it was reset, which is what was wanted
            pass
        finally:
            link.reset()
            self._links.discard(link)

    async def _forward(self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """One direction, until its source ends."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(_deliver(link, on_the_way, sink))
        try:
            data = b"-"
            while data:
                data = await _read(source)
                on_the_way.put_nowait((time.monotonic() + self.delay_s, data))
            await arriving
        finally:
            arriving.cancel()


async def _read(source: asyncio.StreamReader) -> bytes:
    """What has come; nothing at the end, however the other side ended."""
    try:
        return await source.read(CHUNK_BYTES)
    except OSError:
        return b""


async def _deliver(link: Link, on_the_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
    """Hand over what is due, at last that the stream ended; a silent link delivers nothing and never ends."""
    while True:
        due_at, data = await on_the_way.get()
        await asyncio.sleep(max(0.0, due_at - time.monotonic()))
        if link.silent:
            continue
        with contextlib.suppress(OSError):  # the other side has gone; its reader tells
            if data:
                sink.write(data)
                await sink.drain()
            else:
                sink.write_eof()
        if not data:
            return
