"""A producer that will crash: a process of its own, so that its end is a real kill and its transaction stays open.

Both ends of the pipe are here. The parent's `CrashingPublisher` looks like a `Publisher`: it starts `python -m
txninsightd.tools.replaying.crashing_producer`, sends it the settings and then batches of lines, and waits for the tally
that answers each. The child does what they say with a real Publisher. A batch with a `crash` is answered once all its
records are on the broker, and then the parent kills the child with SIGKILL: nobody ends its Kafka transaction.

A frame is 4 bytes of length and a MessagePack body. The child is in a session of its own, so that Ctrl-C on the
terminal reaches only the parent, and it ends by itself when the parent's end of the pipe is gone.
"""

import contextlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from txninsightd.tools.events_file import Action, Control
from txninsightd.tools.replaying.cluster import Refusal
from txninsightd.tools.replaying.publisher import Due, ProducerSettings, Publisher
from txninsightd.tools.replaying.tally import Tally

_LENGTH = struct.Struct(">I")


class _Answer(msgspec.Struct):
    """From the child: what it counted, or why it cannot work."""

    tally: Tally
    refusal: str | None = None


class _Order(msgspec.Struct):
    """To the child: publish a batch, or (without one) finish, aborting what is open when the replay was stopped."""

    batch: list[Due] | None = None
    stopped: bool = False


class CrashingPublisher:
    """The parent's end: a producer in a child process, killed at its `crash` line."""

    def __init__(self, settings: ProducerSettings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._child: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the child and wait until its producer is ready. Raises Refusal."""
        self._child = subprocess.Popen(
            # It imports from where we do, and nothing from the working directory.
            [sys.executable, "-P", "-m", "txninsightd.tools.replaying.crashing_producer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        answer = self._ask(self._settings)
        if answer.refusal is not None:
            self._kill()
            raise Refusal(answer.refusal)

    def publish(self, batch: Sequence[Due]) -> Tally:
        """Have the child publish the lines; after a crash it is dead. Raises Refusal when it has died before."""
        tally = self._ask(_Order(list(batch))).tally
        # The child answers once the records are on the broker; from here on nobody ends what is open there.
        if any(isinstance(each.line, Control) and each.line.action is Action.CRASH for each in batch):
            self._kill()
            tally.crashes += 1
        return tally

    def finish(self) -> Tally:
        """Nothing to do after the crash; before it (the replay was stopped) the child ends in order."""
        if self._child is None:
            return Tally()
        tally = self._ask(_Order(stopped=self._stopping.is_set())).tally
        self._kill()
        return tally

    def _ask(self, question: ProducerSettings | _Order) -> _Answer:
        frame = None
        if self._child is not None and self._child.stdin is not None and self._child.stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                _send(self._child.stdin, question)
                frame = _receive(self._child.stdout)
        if frame is None:
            self._kill()
            raise Refusal(f"the process of producer {self._settings.name!r} has ended before its crash")
        return msgspec.msgpack.decode(frame, type=_Answer)

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.communicate()


def _send(pipe: IO[bytes], message: msgspec.Struct) -> None:
    body = msgspec.msgpack.encode(message)
    pipe.write(_LENGTH.pack(len(body)) + body)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The body of the next frame; None at the end of the pipe."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = pipe.read(size)
    return body if len(body) == size else None


def _serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """The child's end: a real Publisher, driven by orders until there are no more."""
    settings = _receive(orders)
    if settings is None:
        return
    stopping = threading.Event()
    publisher = Publisher(msgspec.msgpack.decode(settings, type=ProducerSettings), stopping)
    _send(answers, _Answer(Tally(), _try_to_open(publisher)))
    decoder: Any = msgspec.msgpack.Decoder(_Order)
    # It ends where the orders end: nothing is flushed or aborted then, as after a kill.
    while (frame := _receive(orders)) is not None:
        order: _Order = decoder.decode(frame)
        if order.stopped:
            stopping.set()
        tally = publisher.finish() if order.batch is None else publisher.publish(order.batch)
        _send(answers, _Answer(tally))


def _try_to_open(publisher: Publisher) -> str | None:
    try:
        publisher.open()
    except Refusal as refusal:
        return str(refusal)
    return None


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
