"""Clients that cost: many at once, slow, silent or hanging ones, and what is no HTTP. All over real sockets."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import structlog
import uvloop
from aiohttp import web

from tests.harness.expose_world import World, ask
from tests.harness.paths import ROOT
from tests.harness.raw_http import HANG_GUARD_S, LONG, Client, ask_once, connect, serving
from txninsightd.config.model import Config, HttpConfig
from txninsightd.core.histogram import Histogram
from txninsightd.expose import connections as connections_module
from txninsightd.expose import pacing
from txninsightd.expose.answers import CHUNK_BYTES, json_response
from txninsightd.expose.connections import Connections, TimeLimits
from txninsightd.expose.hosts import AllowedHosts, own_names
from txninsightd.expose.negotiation import patience_s
from txninsightd.expose.refusals import Refusal, Refusals
from txninsightd.expose.rendering import OPENMETRICS, PLAIN, Renderings
from txninsightd.expose.server import HttpServer, registry_of
from txninsightd.expose.turns import Busy, Turns
from txninsightd.expose.unread import SMALL_BYTES, UnreadBodies

NON_READERS = 40
SMALL_BUFFER_BYTES = 4096


def large_world(steps: int = 1_000) -> World:
    """Its metrics are about three megabytes."""
    world = World()
    bounds = world.config.metrics.duration_buckets_s
    for i in range(steps):
        world.figures.step_durations["order", f"step-{i}-{'x' * 60}"] = Histogram(bounds)
    return world


def refused(server: HttpServer) -> dict[str, int]:
    """The refusals so far, without zeros."""
    return {reason.value: n for reason, n in server.connections.refusals.counts.items() if n}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the callers' hang guard ends the wait."""
    while not condition():
        await asyncio.sleep(0.01)


# --- Many at once -----------------------------------------------------------------------------------------------------


class CountedWorld(World):
    """Counts how often its metrics are collected."""

    collected = 0

    def children(self) -> list[object]:  # type: ignore[override]
        """Each collection asks for them once."""
        self.collected += 1
        return []


def test_those_who_ask_meanwhile_share_one_rendering() -> None:
    world = CountedWorld()
    world.whole("t1")

    async def main() -> None:
        renderings = Renderings(registry_of(world, world.config))
        bodies = await asyncio.gather(*(renderings.body(PLAIN, False) for _ in range(50)))
        assert world.collected == 1
        assert len({id(body) for body in bodies}) == 1
        await asyncio.gather(renderings.body(PLAIN, False), renderings.body(OPENMETRICS, False))
        assert world.collected == 3
        world.whole("t2")
        assert b'opened_total{txn_type="order"} 2.0' in await renderings.body(PLAIN, False)

    uvloop.run(main())


def test_a_client_that_goes_takes_the_rendering_from_nobody() -> None:
    world = large_world(50)

    async def main() -> None:
        renderings = Renderings(registry_of(world, world.config))
        goes, stays = (asyncio.ensure_future(renderings.body(PLAIN, True)) for _ in range(2))
        await asyncio.sleep(0)
        goes.cancel()
        assert (await stays).startswith(b"\x1f\x8b")

    uvloop.run(main())


CROWD = pacing.FEW + 1
FOR_EVER_S = 1e9
CLOCK_S = 0.002
"""The event loop counts whole milliseconds."""


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rendering the next one has to wait for ever, unless somebody's patience ends."""
    monkeypatch.setattr(pacing, "SHARE", 1e-12)
    monkeypatch.setattr(pacing, "USUAL_PATIENCE_S", FOR_EVER_S)
    monkeypatch.setattr(pacing, "LEAST_PATIENCE_S", 0)
    monkeypatch.setattr(pacing, "PATIENCE_SHARE", 1)
    monkeypatch.setattr(pacing, "ANSWERS_LEFT", 0)


@pytest.mark.usefixtures("costly")
def test_in_a_crowd_all_who_ask_get_the_next_rendering_before_the_first_loses_patience() -> None:
    world = CountedWorld()

    async def main() -> None:
        loop, renderings = asyncio.get_running_loop(), Renderings(registry_of(world, world.config), lambda: CROWD)
        await renderings.body(PLAIN, False)
        asked_at = loop.time()
        waits = [renderings.body(PLAIN, False, patience_s) for patience_s in (FOR_EVER_S, 0.3, FOR_EVER_S)]
        await asyncio.gather(*waits)
        assert world.collected == 2
        assert loop.time() >= asked_at + 0.3 - CLOCK_S

    uvloop.run(main())


@pytest.mark.usefixtures("costly")
def test_each_format_is_rendered_before_patience_ends() -> None:
    world = CountedWorld()

    async def main() -> None:
        renderings = Renderings(registry_of(world, world.config), lambda: CROWD)
        kinds = [(form, gzip) for form in (PLAIN, OPENMETRICS) for gzip in (False, True)]
        for _ in range(2):
            await asyncio.gather(*(renderings.body(form, gzip, 0.3) for form, gzip in kinds))
        assert world.collected == 2 * len(kinds)

    uvloop.run(main())


@pytest.mark.usefixtures("costly")
def test_the_wait_ends_with_the_crowd() -> None:
    world, clients = CountedWorld(), CROWD

    async def main() -> None:
        nonlocal clients
        renderings = Renderings(registry_of(world, world.config), lambda: clients)
        await renderings.body(PLAIN, False)
        waiting = asyncio.ensure_future(renderings.body(PLAIN, False, FOR_EVER_S))
        await asyncio.sleep(0)
        clients = pacing.FEW
        async with asyncio.timeout(HANG_GUARD_S):
            await waiting
        assert world.collected == 2

    uvloop.run(main())


@pytest.mark.usefixtures("costly")
def test_a_crowd_is_those_who_ask_for_metrics_and_a_stop_does_not_wait_for_it() -> None:
    async def main() -> None:
        async with serving(World()) as (server, port):
            _silent = [await connect(port) for _ in range(CROWD)]
            clients = [await connect(port) for _ in range(CROWD)]
            for client in clients[1:] * 3:
                client.get("/metrics")
                assert (await client.reply()).status == 200
            clients[0].get("/healthz")
            assert (await clients[0].reply()).status == 200
            assert server.connections.scraping == pacing.FEW
            for client in clients:
                client.get("/metrics")
            await until(lambda: server.connections.at_work == CROWD)
            assert server.connections.scraping == CROWD
            async with asyncio.timeout(5 * connections_module.STOP_TIMEOUT_S):
                await server.stop()
            for client in clients:
                await client.ended()

    uvloop.run(main())


async def a_crowd(port: int, count: int) -> list[Client]:
    """So many clients that have asked for metrics, and have them."""
    clients = [await connect(port) for _ in range(count)]
    for client in clients:
        client.get("/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 0")
        assert (await client.reply()).status == 200
    return clients


@pytest.mark.usefixtures("costly")
def test_a_client_that_goes_in_the_pause_leaves_no_work() -> None:
    async def main() -> None:
        async with serving(World()) as (server, port):
            _crowd = await a_crowd(port, CROWD)
            tasks = len(asyncio.all_tasks())
            going = [await connect(port) for _ in range(20)]
            for client in going:
                client.get("/metrics")
            await until(lambda: server.connections.at_work == len(going))
            for client in going:
                client.writer.transport.abort()
            # The rendering that they have asked for stays.
            await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)
            assert server.connections.open == CROWD

    uvloop.run(main())


@pytest.mark.usefixtures("costly")
def test_those_who_wait_for_a_rendering_leave_room_for_others() -> None:
    async def main() -> None:
        async with serving(World()) as (server, port):
            most = server.connections.most_waiting
            clients = await a_crowd(port, most)
            for client in clients:
                client.get("/metrics")
            await until(lambda: server.connections.at_work == most)
            other = await connect(port)
            other.get("/metrics")
            reply = await other.reply()
            assert (reply.status, reply.json["error"]) == (503, "too many such requests are in work: ask again later")
            other.get("/healthz")
            assert (await other.reply()).status == 200
            assert refused(server) == {"busy": 1}

    uvloop.run(main())


@pytest.mark.parametrize(
    "said", ["", "soon", "-1", "inf", "nan", "1e3", "0x10", "\u0663", "1" * 10, "9.", "10", "1.1179999999999999"]
)
def test_a_time_out_of_a_scrape_is_a_plain_number_of_seconds(said: str) -> None:
    assert patience_s(said, usual_s=7.0) == {"9.": 9.0, "10": 10.0, "1.1179999999999999": 1.1179999999999999}.get(
        said, 7.0
    )


@pytest.mark.usefixtures("costly")
def test_a_rendering_that_fails_is_waited_for_as_well() -> None:
    class Failing(World):
        asked = 0

        def children(self) -> list[object]:  # type: ignore[override]
            self.asked += 1
            raise RuntimeError("no children")

    world = Failing()

    async def main() -> None:
        renderings = Renderings(registry_of(world, world.config), lambda: CROWD)
        for asked in range(2):
            waits = [renderings.body(PLAIN, False, 0.2 * asked) for _ in range(3)]
            failures = await asyncio.gather(*waits, return_exceptions=True)
            assert {str(failure) for failure in failures} == {"no children"}
        assert world.asked == 2
        waiting = asyncio.ensure_future(renderings.body(PLAIN, False))
        assert not (await asyncio.wait([waiting], timeout=2 * pacing.LOOK_AGAIN_S))[0]

    uvloop.run(main())


def test_what_renderings_cost_without_a_crowd_is_not_owed_for_long() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time
        crowd = pacing.Pacing(lambda: CROWD)
        for _ in range(1000):
            crowd.note(busy_s=1.0, took_s=1.0, answers=1, size=0)
        asked_at = now()
        # A client is answered in time, also if it says that it waits for less than it can.
        assert (
            crowd.begin_by(FOR_EVER_S) <= now() + pacing.PATIENCE_SHARE * pacing.USUAL_PATIENCE_S - pacing.ANSWERS_LEFT
        )
        assert crowd.begin_by(0) <= now() + pacing.LEAST_PATIENCE_S
        crowd.note(busy_s=0.0, took_s=0.0, answers=0, size=0)
        assert crowd.next_at <= now() + pacing.USUAL_PATIENCE_S
        await crowd.wait(lambda: asked_at)

    uvloop.run(main())


def test_the_pause_follows_from_what_rendering_and_answers_cost() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time
        crowd, began_at = pacing.Pacing(lambda: CROWD), now()
        crowd.note(busy_s=0.0005, took_s=0.0005, answers=2, size=50_000)
        crowd.note(busy_s=0.0005, took_s=0.0005, answers=0, size=0)  # another format
        await crowd.wait(lambda: began_at + FOR_EVER_S)
        assert now() >= began_at + 0.0015 * (1 / pacing.SHARE - 1) - CLOCK_S

    uvloop.run(main())


def test_fifty_scrapes_at_once_get_the_whole_answer() -> None:
    world = large_world()

    async def main() -> None:
        async with serving(world) as (server, port):
            clients = [await connect(port, limit=1 << 24) for _ in range(50)]
            for client in clients:
                client.get("/metrics")
            replies = await asyncio.gather(*(client.reply() for client in clients))
            assert len({reply.body for reply in replies}) <= 2
            assert len(replies[0].body) > 10 * CHUNK_BYTES
            assert refused(server) == {}

    uvloop.run(main())


def test_too_many_listings_are_refused() -> None:
    world = World()
    world.many_open(20_000)

    async def main() -> None:
        async with serving(world) as (server, port):
            clients = [await connect(port, limit=1 << 21) for _ in range(40)]
            for client in clients:
                client.get("/api/v1/transactions?limit=2000", "Connection: close")
            replies = await asyncio.gather(*(client.reply() for client in clients))
            busy = [reply for reply in replies if reply.status == 503]
            assert len(busy) == 40 - 16
            assert all("ask again later" in reply.json["error"] for reply in busy)
            assert refused(server) == {"busy": len(busy)}

    uvloop.run(main())


def test_between_two_turns_the_event_loop_serves_others() -> None:
    async def main() -> None:
        turns, order = Turns(most=3), list[str]()

        async def take(name: str) -> None:
            async with turns.turn():
                order.append(name)
                asyncio.get_running_loop().call_soon(order.append, "other work")

        await asyncio.gather(take("a"), take("b"), take("c"))
        assert order[:5] == ["a", "other work", "b", "other work", "c"]
        with pytest.raises(Busy):
            await asyncio.gather(*(take("x") for _ in range(4)))

    asyncio.run(main())


# --- Clients that do not read -----------------------------------------------------------------------------------------


async def non_readers(port: int, count: int, path: str = "/metrics") -> list[Client]:
    """Clients that have asked and do not read."""
    clients = [await connect(port, SMALL_BUFFER_BYTES, limit=1) for _ in range(count)]
    for client in clients:
        client.get(path)
    return clients


def test_clients_that_do_not_read_hold_one_body_and_a_stop_does_not_wait_for_them() -> None:
    world = large_world()

    async def main() -> None:
        async with serving(world) as (server, port):
            unread = server.connections.unread
            clients = await non_readers(port, NON_READERS)
            await until(lambda: unread.readers == NON_READERS)
            assert 0 < unread.size_bytes < 6_000_000  # at most two renderings
            assert 0 < server.connections.waiting_bytes <= NON_READERS * (CHUNK_BYTES + 1024)
            assert (await ask_once(port, "GET /healthz HTTP/1.0\r\n\r\n")).status == 200
            async with asyncio.timeout(10 * connections_module.STOP_TIMEOUT_S):
                await server.stop()
            await asyncio.gather(*(client.ended() for client in clients))
            await until(lambda: unread.size_bytes == server.connections.waiting_bytes == 0)

    uvloop.run(main())


def test_an_answer_that_is_not_taken_in_time_ends_the_connection() -> None:
    world = large_world()

    async def main() -> None:
        async with serving(world, LONG._replace(answer_s=0.3)) as (server, port):
            clients = await non_readers(port, 5)
            await until(lambda: refused(server) == {"slow_reader": 5} and server.connections.open == 0)
            await until(lambda: server.connections.unread.size_bytes == server.connections.waiting_bytes == 0)
            await asyncio.gather(*(client.ended() for client in clients))

    uvloop.run(main())


def test_the_readers_of_the_oldest_body_make_way() -> None:
    unread = UnreadBodies(most_bytes=3 * SMALL_BYTES)
    old, new, newest = (bytes([i]) * 2 * SMALL_BYTES for i in range(3))
    ended: list[str] = []
    with unread.reading(b"small", lambda: ended.append("small")), unread.reading(old, lambda: ended.append("old")):
        with unread.reading(old, lambda: ended.append("old, too")):
            assert (unread.size_bytes, ended) == (2 * SMALL_BYTES, [])
            with unread.reading(new, lambda: ended.append("new")):
                assert (unread.size_bytes, sorted(ended)) == (2 * SMALL_BYTES, ["old", "old, too"])
        with unread.reading(newest * 5, lambda: ended.append("newest")):
            assert unread.size_bytes == 10 * SMALL_BYTES
    assert unread.size_bytes == 0
    assert len(ended) == 2


# --- Clients that do not ask ------------------------------------------------------------------------------------------


async def drip(client: Client) -> None:
    """A header without an end, byte by byte."""
    client.send("GET / HTTP/1.1\r\nX: ")
    while not client.writer.is_closing():
        client.send("x")
        await asyncio.sleep(0.02)


def test_silent_half_sent_and_dripping_requests_are_ended() -> None:
    async def main() -> None:
        async with serving(World(), LONG._replace(request_s=0.3)) as (server, port):
            silent, half, dripping = [await connect(port) for _ in range(3)]
            half.send("GET /healthz HTTP/1.1\r\nHost: loc")
            drops = asyncio.ensure_future(drip(dripping))
            await asyncio.gather(silent.ended(), half.ended(), dripping.ended())
            drops.cancel()
            assert refused(server) == {"slow_request": 3}

    uvloop.run(main())


def test_a_kept_connection_is_for_its_next_request_and_ends_when_idle() -> None:
    async def main() -> None:
        async with serving(World(), LONG._replace(idle_s=1.0)) as (server, port):
            client = await connect(port)
            for _ in range(3):
                client.get("/healthz")
                assert (await client.reply()).status == 200
            await client.ended()
            assert refused(server) == {}

    uvloop.run(main())


def test_the_next_request_has_the_time_limit_of_a_request() -> None:
    async def main() -> None:
        async with serving(World(), LONG._replace(request_s=1.0)) as (server, port):
            client = await connect(port)
            client.get("/healthz")
            await client.reply()
            client.send("GET")
            await client.ended()
            assert refused(server) == {"slow_request": 1}

    uvloop.run(main())


def test_a_body_that_no_route_wants_does_not_hold_the_connection() -> None:
    async def main() -> None:
        async with serving(World()) as (_, port):
            client = await connect(port)
            client.get("/healthz", "Content-Length: 1000000")
            assert (await client.reply()).status == 200
            await client.ended()

    uvloop.run(main())


# --- The bound on connections -----------------------------------------------------------------------------------------


def test_a_new_connection_takes_the_place_of_the_longest_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "GRACE_S", 0.0)

    async def main() -> None:
        async with serving(World()) as (server, port):
            silent = [await connect(port) for _ in range(server.connections.most)]
            await until(lambda: server.connections.open == server.connections.most)
            assert (await ask_once(port, "GET /healthz HTTP/1.0\r\n\r\n")).status == 200
            await silent[0].ended()
            assert refused(server) == {"too_many_connections": 1}
            silent[1].get("/healthz")
            assert (await silent[1].reply()).status == 200

    uvloop.run(main())


def test_a_server_whose_places_are_all_at_work_refuses() -> None:
    async def main() -> None:
        at_work, done = 0, asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            nonlocal at_work
            at_work += 1
            await done.wait()
            return json_response("done")

        app = web.Application()
        app.add_routes([web.get("/", handler)])
        served = Connections(app, Refusals(lambda: 0.0), LONG, most=2)
        loop = asyncio.get_running_loop()
        server = await served.listen(lambda factory: loop.create_server(factory, "127.0.0.1", 0))
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(HANG_GUARD_S):
            clients = [await connect(port) for _ in range(2)]
            for client in clients:
                client.get("/")
            await until(lambda: at_work == 2)
            reply = await (await connect(port)).reply()
            assert (reply.status, reply.headers["connection"]) == (503, "close")
            assert reply.json == {"error": "too many connections are open: try again later"}
            done.set()
            assert [(await client.reply()).json for client in clients] == ["done", "done"]
            await served.stop()

    uvloop.run(main())


@pytest.fixture
def cramped() -> "subprocess.Popen[str]":
    """A server in a process with 64 descriptors; its first line is its port."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.harness.cramped_server", "64"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_thousand_silent_connections_leave_descriptors_free(cramped: "subprocess.Popen[str]") -> None:
    assert cramped.stdout is not None
    port = int(cramped.stdout.readline())

    async def main() -> None:
        async with asyncio.timeout(HANG_GUARD_S):
            clients = [await connect(port) for _ in range(1_000)]
            await asyncio.sleep(connections_module.GRACE_S)
            assert (await ask_once(port, "GET /healthz HTTP/1.0\r\n\r\n")).status == 200
            assert len(list(Path(f"/proc/{cramped.pid}/fd").iterdir())) < 48
            for client in clients:
                client.close()

    try:
        asyncio.run(main())
    finally:
        _, logged = cramped.communicate("", timeout=HANG_GUARD_S)
    assert cramped.returncode == 0
    lines = [json.loads(line) for line in logged.splitlines()]
    assert {line["reason"] for line in lines} == {"too_many_connections"}
    assert len(lines) < 10  # one each ten seconds


# --- What is no HTTP --------------------------------------------------------------------------------------------------

HOST = "Host: localhost\r\n"
NO_HTTP = {
    "no request line": "GARBAGE\r\n\r\n",
    "another protocol": "GET / SPDY/3\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "a header without a colon": f"GET / HTTP/1.1\r\n{HOST}nonsense\r\n\r\n",
    "a NUL in a header": f"GET / HTTP/1.1\r\n{HOST}X: a\0b\r\n\r\n",
    "a URL that is too long": f"GET /{'x' * 20_000} HTTP/1.1\r\n{HOST}\r\n",
    "a header that is too long": f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 10_000}\r\n\r\n",
    "too many headers": f"GET / HTTP/1.1\r\n{HOST}" + "X: y\r\n" * 100 + "\r\n",
    "no Host": "GET / HTTP/1.1\r\n\r\n",
    "two Hosts": f"GET / HTTP/1.1\r\n{HOST}{HOST}\r\n",
    "a bad length": f"GET / HTTP/1.1\r\n{HOST}Content-Length: x\r\n\r\n",
    "two framings": f"GET / HTTP/1.1\r\n{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", NO_HTTP.values(), ids=NO_HTTP.keys())
def test_what_is_no_http_is_told_as_json_and_in_one_line(
    request_bytes: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(World()) as (server, port):
            for _ in range(20):
                reply = await ask_once(port, request_bytes)
                assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
                assert reply.headers["x-content-type-options"] == "nosniff"
                assert set(reply.json) == {"error"}
            assert refused(server) == {"bad_request": 20}

    with structlog.testing.capture_logs() as logged:
        uvloop.run(main())
    [line] = logged
    assert (line["event"], line["reason"], line["client"]) == ("http_request_refused", "bad_request", "127.0.0.1")
    assert "xxx" not in str(line)
    assert caplog.records == []


ODD = {
    "no version": "GET /healthz\r\n\r\n",
    "no URL": f"GET //[ HTTP/1.1\r\n{HOST}\r\n",
    "absolute form": "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
    "upgrade": f"GET /healthz HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nrest",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "asterisk": f"OPTIONS * HTTP/1.1\r\n{HOST}\r\n",
    "an unknown expectation": f"GET /healthz HTTP/1.1\r\n{HOST}Expect: the worst\r\n\r\n",
    "a body that breaks off": f"GET /healthz HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "an encoded NUL": f"GET /%00%ff%fe HTTP/1.1\r\n{HOST}\r\n",
    "bytes in the URL": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method of one's own": f"BREW / HTTP/1.1\r\n{HOST}\r\n",
}


@pytest.mark.parametrize("request_bytes", ODD.values(), ids=ODD.keys())
def test_odd_requests_get_json_and_leave_no_traceback(
    request_bytes: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(World()) as (_, port):
            reply = await ask_once(port, request_bytes)
            assert reply.status < 500
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.json

    with structlog.testing.capture_logs() as logged:
        uvloop.run(main())
    assert {line["event"] for line in logged} <= {"http_request_refused"}
    assert caplog.records == []


# --- Hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:9840", True),
        ("10.1.2.3", True),
        ("[::1]:9840", True),
        ("[fe80::1]", True),
        ("localhost:9840", True),
        ("LOCALHOST", True),
        ("localhost.", True),
        ("web1", True),
        ("metrics.example.com:443", True),
        ("metrics.example.com.", True),
        ("below.svc.cluster.local", True),
        ("svc.cluster.local", True),
        ("metrics.example.com.evil.com", False),
        ("evilsvc.cluster.local", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("127.0.0.1:80:evil.com", False),
        ("[evil.com]", False),
        ("", False),
    ],
)
def test_hosts(host: str, allowed: bool) -> None:
    assert AllowedHosts(["Metrics.example.com", ".svc.cluster.local"], ["web1"]).allows(host) == allowed
    assert AllowedHosts(["*"]).allows(host)


def test_the_machine_knows_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Pod-0")
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("# pod-0 x\n127.0.0.1 localhost\n10.0.0.7\tpod-0.things.ns.svc pod-0 # own\n::2 other\nx\n\n")
    resolver.write_text("nameserver 10.0.0.1\nsearch example.com ns.local.\n")
    assert own_names(hosts, resolver) == {"pod-0", "pod-0.things.ns.svc", "pod-0.example.com", "pod-0.ns.local"}
    assert own_names(tmp_path / "none", tmp_path) == {"pod-0"}


def test_a_strange_host_is_refused_with_the_key_to_set() -> None:
    world = World(config=Config(http=HttpConfig(allowed_hosts=("proxy.example.com",))))
    for path in ("/metrics", "/nowhere", "/api/v1/transactions"):
        answer = ask(world, path, Host="evil.example.com")
        assert answer.status == 421
        assert "http.allowed_hosts" in answer.json["error"]
    assert ask(world, "/metrics", Host="proxy.example.com").status == 200


# --- Small ones -------------------------------------------------------------------------------------------------------


def test_the_longest_ids_can_be_looked_up() -> None:
    world = World()
    for txn_id in ("😀" * 1_000, "\U0010ffff" * 1_024):
        world.event("transaction_open", txn_id)
        answer = ask(world, f"/api/v1/transactions/{quote(txn_id, safe='')}")
        assert (answer.status, answer.json["txn_id"]) == (200, txn_id)


def test_no_browser_may_guess_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    world, failing = World(), World()
    monkeypatch.setattr(failing, "missing", lambda: 1 / 0)
    answers = [
        ask(world, "/healthz"),
        ask(world, "/metrics", method="HEAD"),
        ask(world, "/nowhere"),
        ask(world, "/healthz", method="POST"),
        ask(failing, "/readyz"),
        ask(world, "/api/v1/transactions?limit=0"),
        ask(world, "/healthz", Host="evil.com"),
        ask(world, "/metrics", Accept_Encoding="*;q=0"),
        ask(world, "/healthz", Expect="nothing"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 404, 405, 500, 400, 421, 406, 417]
    assert {answer.headers["X-Content-Type-Options"] for answer in answers} == {"nosniff"}


def test_refusals_are_counted_from_zero() -> None:
    text = ask(World(), "/metrics").text
    counts = re.findall(r'(?m)^txninsight_http_requests_refused_total\{reason="(\w+)"\} 0\.0$', text)
    assert set(counts) == {reason.value for reason in Refusal}


def test_prometheus_keeps_its_connection_from_scrape_to_scrape() -> None:
    # Its scrape interval is at most a minute in almost all setups; its own limit for idle connections is 5 minutes.
    assert TimeLimits().idle_s > 60
