"""Pipes that are full, or are emptied."""

import contextlib
import os


def fill(writer: int) -> None:
    """Write to a pipe until it takes no more. It is blocking afterwards, as it was."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)


def drained(reader: int) -> bytes:
    """What a pipe, a socket or a terminal holds now."""
    os.set_blocking(reader, False)
    content = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(reader, 1 << 20):
            content += part
    return content
