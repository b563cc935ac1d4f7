"""`python -m tests.harness.cramped_server N`: an HTTP server with N descriptors. It prints its port.

It ends with its standard input.
"""

import asyncio
import resource
import sys

import uvloop

from tests.harness.expose_world import World
from txninsightd import logs
from txninsightd.expose.server import HttpServer


async def main(descriptors: int) -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    world, ended = World(), asyncio.Event()
    server = HttpServer(world, world.config)
    print(await server.start("127.0.0.1", 0), flush=True)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    await server.stop()


if __name__ == "__main__":
    logs.setup("info", "json")
    uvloop.run(main(int(sys.argv[1])))
