"""The proxy of the broker tests does to a connection what it says: pass, delay, reset, swallow, refuse."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.proxy import HOST, Proxy
from txninsightd.tools.stack import machine

HANG_GUARD_S = 30.0
SHORT_S = 0.2
DELAY_S = 0.3


class Echo(socketserver.BaseRequestHandler):
    """Says what it hears, until it hears that nothing more comes; then says goodbye."""

    def handle(self) -> None:
        try:
            while heard := self.request.recv(1 << 16):
                self.request.sendall(heard)
            self.request.sendall(b"goodbye")
        except ConnectionResetError:
            assert isinstance(self.server, EchoServer)
            self.server.was_reset.set()


class EchoServer(socketserver.ThreadingTCPServer):
    """Serves on a thread of its own. `was_reset`: one of its connections ended so."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.was_reset = threading.Event()
        super().__init__((HOST, 0), Echo)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[Proxy]:
    with Proxy(machine.free_ports(1)[0], echo.server_address[1]) as running:
        yield running


@contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    """A client's connection through the proxy, over which something has been said and heard."""
    with socket.create_connection((HOST, proxy.port), HANG_GUARD_S) as client:
        say(client, b"first")
        yield client


def say(client: socket.socket, words: bytes) -> None:
    """Say something and hear it come back."""
    client.sendall(words)
    heard = b""
    while len(heard) < len(words):
        chunk = client.recv(1 << 16)
        assert chunk
        heard += chunk
    assert heard == words


def require_silence(client: socket.socket) -> None:
    """What is said is not answered, and the connection does not end."""
    client.settimeout(SHORT_S)
    client.sendall(b"hello?")
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(HANG_GUARD_S)


def test_it_passes_on_what_is_said_and_that_it_ended(proxy: Proxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        say(one, b"x" * 1_000_000)
        say(other, b"y")
        assert proxy.links == 2
        one.shutdown(socket.SHUT_WR)
        assert one.recv(100) == b"goodbye"
        assert one.recv(100) == b""
        say(other, b"still there")


def test_it_holds_back_in_order_for_as_long_as_it_is_told(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.delay_s = DELAY_S
        began = time.monotonic()
        client.sendall(b"a")
        client.sendall(b"b")
        heard = b""
        while len(heard) < 2:
            heard += client.recv(2)
        assert heard == b"ab"
        assert time.monotonic() - began >= 2 * DELAY_S


def test_a_reset_ends_what_is_open_and_newcomers_are_served(proxy: Proxy, echo: EchoServer) -> None:
    with connected(proxy) as client:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert echo.was_reset.wait(HANG_GUARD_S)
    with connected(proxy) as client:
        say(client, b"again")
        assert proxy.links == 1


def test_it_refuses_until_it_passes_on_again(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, proxy.port), HANG_GUARD_S)
    assert proxy.links == 0
    proxy.pass_on()
    with connected(proxy) as client:
        say(client, b"again")


def test_what_it_swallowed_once_is_silent_for_ever(proxy: Proxy, echo: EchoServer) -> None:
    with connected(proxy) as before:
        proxy.fall_silent()
        require_silence(before)
        with socket.create_connection((HOST, proxy.port), HANG_GUARD_S) as meanwhile:
            require_silence(meanwhile)
            proxy.pass_on()
            require_silence(meanwhile)
            require_silence(before)
        with connected(proxy) as after:
            say(after, b"newcomers fare better")
            assert proxy.links == 3
        before.shutdown(socket.SHUT_WR)
        require_never_told(before)
        proxy.reset()
        assert echo.was_reset.wait(HANG_GUARD_S)


def require_never_told(client: socket.socket) -> None:
    """Neither does the target's end come back."""
    client.settimeout(SHORT_S)
    with pytest.raises(TimeoutError):
        client.recv(1)


def test_without_a_target_it_hangs_up(proxy: Proxy, echo: EchoServer) -> None:
    echo.shutdown()
    echo.server_close()
    with socket.create_connection((HOST, proxy.port), HANG_GUARD_S) as client:
        assert client.recv(1) == b""
