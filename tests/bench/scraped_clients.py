"""Clients that ask for /metrics again and again, in a process of their own.

    python -m tests.bench.scraped_clients PORT CLIENTS EVERY_S

Each has a connection of its own and asks EVERY_S seconds after it last asked, or at once if the answer took longer. For
each line of standard input it prints how many answers there were up to then, how many of them errors, and the bytes of
all. It ends with standard input.
"""

import asyncio
import sys
from typing import NamedTuple

import uvloop

from txninsightd.tools.stack import machine

LARGEST = 1 << 20


class Count(NamedTuple):
    """What all clients got."""

    answers: int
    errors: int
    size: int


async def ask_again_and_again(port: int, every_s: float, begin_s: float, found: list[tuple[bool, int]]) -> None:
    """One client; after its first answer it waits for `begin_s`. Raises what ends its connection."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(machine.HOST, port, limit=LARGEST)
    while True:
        asked_at = loop.time()
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {machine.HOST}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        left = size = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        while left:
            part = await reader.read(min(left, LARGEST))
            if not part:
                raise ConnectionError("the answer ends early")
            left -= len(part)
        found.append((b" 200 " in head.partition(b"\r\n")[0] + b" ", size))
        # Not all at the same moments. A server need not keep a connection that asks for nothing at first.
        pause_s, begin_s = begin_s or asked_at + every_s - loop.time(), 0.0
        await asyncio.sleep(max(0.0, pause_s))


async def main(port: int, clients: int, every_s: float) -> None:
    """All clients, until standard input ends. Raises what ended one of them."""
    found: list[tuple[bool, int]] = []
    begins = [every_s * i / clients for i in range(clients)]
    asking = [asyncio.create_task(ask_again_and_again(port, every_s, begin_s, found)) for begin_s in begins]
    loop = asyncio.get_running_loop()
    while True:
        line = loop.run_in_executor(None, sys.stdin.readline)
        await asyncio.wait([line, *asking], return_when=asyncio.FIRST_COMPLETED)
        for task in asking:
            if task.done():
                task.result()
        if not await line:
            break
        count = Count(len(found), sum(not good for good, _ in found), sum(size for _, size in found))
        print(*count, flush=True)
    for task in asking:
        task.cancel()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
