"""A producer that crashes: a separate process that is killed for real, so its Kafka transaction stays open.

This module has both ends of the pipe. The parent's `CrashingPublisher` has the interface of a `Publisher`. It starts
`python -m txninsightd.tools.replaying.crashing_producer`, sends it the settings and then batches of lines, and waits
for the counts of each batch. The child publishes the lines with a real Publisher. It answers a batch with a `crash`
once all its records are on the broker. Then the parent kills the child with SIGKILL, before anything ends its Kafka
transaction.

A frame is 4 bytes of length and a MessagePack body. The child has its own session, so Ctrl-C on the terminal reaches
only the parent. The child exits when the parent's end of the pipe closes.
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
from txninsightd.tools.replaying.counts import Counts
from txninsightd.tools.replaying.publisher import ProducerSettings, Publisher, ScheduledLine

_LENGTH = struct.Struct(">I")


class _Answer(msgspec.Struct):
    """The child's answer: its counts, or why it cannot work."""

    counts: Counts
    refusal: str | None = None


class _Command(msgspec.Struct):
    """The parent's command: publish a batch, or (without one) finish; `stopped` also aborts an open transaction."""

    batch: list[ScheduledLine] | None = None
    stopped: bool = False


class CrashingPublisher:
    """The parent's end of the pipe: a producer in a child process, killed at its `crash` line."""

    def __init__(self, settings: ProducerSettings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._child: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the child and wait until its producer is ready. Raises Refusal."""
        self._child = subprocess.Popen(
            # It uses our import path, and not the working directory.
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

    def publish(self, batch: Sequence[ScheduledLine]) -> Counts:
        """Let the child publish the lines, and kill it after a crash. Raises Refusal if it has died before."""
        counts = self._ask(_Command(list(batch))).counts
        # The records are on the broker now. No process ends the open transaction.
        if any(isinstance(each.line, Control) and each.line.action is Action.CRASH for each in batch):
            self._kill()
            counts.crashes += 1
        return counts

    def finish(self) -> Counts:
        """Finish in order if the replay was stopped before the crash; after the crash there is nothing to do."""
        if self._child is None:
            return Counts()
        counts = self._ask(_Command(stopped=self._stopping.is_set())).counts
        self._kill()
        return counts

    def _ask(self, question: ProducerSettings | _Command) -> _Answer:
        frame = None
        if self._child is not None and self._child.stdin is not None and self._child.stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                _send(self._child.stdin, question)
                frame = _receive(self._child.stdout)
        if frame is None:
            self._kill()
            raise Refusal(f"the process of producer {self._settings.name!r} died before its crash")
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


def _serve(commands: IO[bytes], answers: IO[bytes]) -> None:
    """The child's end of the pipe: runs commands on a real Publisher until the pipe closes."""
    settings = _receive(commands)
    if settings is None:
        return
    stopping = threading.Event()
    publisher = Publisher(msgspec.msgpack.decode(settings, type=ProducerSettings), stopping)
    _send(answers, _Answer(Counts(), _open_error(publisher)))
    decoder: Any = msgspec.msgpack.Decoder(_Command)
    # At the end of the pipe nothing is flushed or aborted, as after a kill.
    while (frame := _receive(commands)) is not None:
        command: _Command = decoder.decode(frame)
        if command.stopped:
            stopping.set()
        counts = publisher.finish() if command.batch is None else publisher.publish(command.batch)
        _send(answers, _Answer(counts))


def _open_error(publisher: Publisher) -> str | None:
    try:
        publisher.open()
    except Refusal as refusal:
        return str(refusal)
    return None


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
