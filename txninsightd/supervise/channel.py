"""The line between one child and the aggregator: bounded, for one process of the child, with one writer each way.

It uses a `multiprocessing.Pipe`, not a `multiprocessing.Queue`: a queue's feeder thread and the lock that all its
writers share do not survive a kill -9 (see docs/decisions/queues.md). Messages are MessagePack frames behind a
four-byte length. Neither end ever blocks: frames that the pipe does not take stay in the outbox, and the sender watches
its depth. When the other process dies, everything that it had written is still received, and then `closed` is set.
"""

import os
import socket
import struct
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import msgspec

READ_BYTES = 1 << 20
# A request: the kernel grants what net.core.wmem_max allows.
BUFFER_BYTES = 4 << 20
LENGTH = struct.Struct(">I")
# The other end has gone; the second error comes when it left data of ours unread.
BROKEN = (BrokenPipeError, ConnectionResetError)


class Channel:
    """One end. Owns its descriptor from construction to `close`."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._encode = msgspec.msgpack.Encoder().encode
        # `_written` bytes of the first frame are already in the pipe; the rest of it must follow before another frame.
        self._outbox: deque[bytes] = deque()
        self._written = 0
        self._inbox = bytearray()
        self.closed = False

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._descriptor

    @property
    def depth(self) -> int:
        """How many messages wait here to be written."""
        return len(self._outbox)

    def send(self, message: msgspec.Struct) -> None:
        """Queue a message, and write what the pipe takes."""
        body = self._encode(message)
        self._outbox.append(LENGTH.pack(len(body)) + body)
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes."""
        try:
            while self._outbox:
                frame = self._outbox[0]
                self._written += os.write(self._descriptor, memoryview(frame)[self._written :])
                if self._written == len(frame):
                    self._outbox.popleft()
                    self._written = 0
        except BlockingIOError:
            return
        except BROKEN:
            # The other end has gone, but what it wrote before may still be unread: `receive` reports the end.
            self._outbox.clear()
            self._written = 0

    def receive(self) -> list[bytes]:
        """The whole frames that have arrived, at most about one megabyte of them a call."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        except BROKEN:
            data = b""
        if not data:
            self.closed = True
        self._inbox += data
        return self._frames()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
        self.closed = True

    def _frames(self) -> list[bytes]:
        frames, start, inbox = [], 0, self._inbox
        while len(inbox) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(inbox, start)
            end = start + LENGTH.size + length
            if len(inbox) < end:
                # The rest comes later; never if the writer was killed, and then it is read from Kafka again.
                break
            frames.append(bytes(inbox[start + LENGTH.size : end]))
            start = end
        del inbox[:start]
        return frames


def descriptor_pair() -> tuple[int, int]:
    """Both ends of a new two-way pipe, as bare descriptors with large buffers."""
    one, other = Pipe(duplex=True)
    with one, other:
        _enlarge_buffer(one)
        _enlarge_buffer(other)
        descriptor = os.dup(one.fileno())
        try:
            return descriptor, os.dup(other.fileno())
        except OSError:
            os.close(descriptor)
            raise


def _enlarge_buffer(connection: "Connection[Any, Any]") -> None:
    # A second descriptor of the same socket, closed by this `with`; the option belongs to the socket and stays set.
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
