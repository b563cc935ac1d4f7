"""The line between the parent and the aggregator: small messages, each whole, some with a descriptor in their company.

A Unix socket that keeps message boundaries (SOCK_SEQPACKET), so that a message and the descriptor that belongs to it
arrive together (SCM_RIGHTS). An aggregator forked earlier can so be handed the line to a reader that was forked later.
"""

import os
import socket

import msgspec
import structlog

from txninsightd.vocabulary import FromParent, Starts

MOST_BYTES = 1 << 17
STARTS_A_MESSAGE = 250

log = structlog.get_logger()


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends: the parent's, the aggregator's."""
    parent, aggregator = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return parent, aggregator


def tell(end: socket.socket, message: FromParent | Starts, descriptor: int | None = None) -> bool:
    """Send one message; says whether there was anybody left to take it. Never waits for long."""
    body = msgspec.msgpack.encode(message)
    end.settimeout(5.0)
    try:
        if descriptor is None:
            end.send(body)
        else:
            socket.send_fds(end, [body], [descriptor])
    except OSError as failure:
        log.error("control_message_lost", message=type(message).__name__, error=str(failure))
        return False
    return True


def hear(end: socket.socket) -> tuple[bytes, int | None]:
    """The next message and its descriptor; b"" at the end of the line. Raises BlockingIOError when there is none."""
    end.setblocking(False)
    try:
        body, descriptors, _, _ = socket.recv_fds(end, MOST_BYTES, 1)
    except ConnectionResetError:
        return b"", None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return body, descriptors[0] if descriptors else None
