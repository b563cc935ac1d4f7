"""A parent over trivial children, as a program: what supervised.py starts, signals and watches.

    python -m tests.harness.dummy_children FAULT

The children do nothing but beat, and note what happens to them, as JSON lines on standard output. `FAULT` says what is
wrong: `none`, `reader-dies`, `aggregator-dies`, `unusable` (the validator can never work), `no-state` (the
aggregator has no place for its state), `no-memory` (the validator gets none at its start), `stubborn` (the validator
ignores SIGTERM), `reader-hangs` (the validator never beats), `reader-undying` (nor can it be killed),
`aggregator-hangs`, `aggregator-dies-slowly` (its end of the control line closes well before its process ends),
`not-serving` (the aggregator works, but does not listen), `restoring` (it does not even look at the control line),
`deaf-systemd` (the first READY=1 after a reload is not delivered), or of the process that reads the config again:
`reload-waits` (it waits for a writer of the pipe named in RELOAD_PIPE before it reads), `reload-hangs`, `reload-grows`
(without bound), `reload-fails` (it raises) or `reload-dies`.

The config is a number, that of reloads so far, or that of the real file named in CONFIG.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from txninsightd import logs, standard_streams
from txninsightd.config import load_config
from txninsightd.supervise.channel import Channel
from txninsightd.supervise.children import ChildContext, ChildSpec, LineKind
from txninsightd.supervise.config_reload import ConfigReload, ReloadLimits
from txninsightd.supervise.control import Reporter, read_memory_file, receive
from txninsightd.supervise.current_config import CurrentConfig, unpickled
from txninsightd.supervise.exit_codes import EXIT_STATE, EXIT_UNUSABLE
from txninsightd.supervise.heartbeats import HeartbeatWriter
from txninsightd.supervise.notify import Notifier
from txninsightd.supervise.parent import Limits, Parent
from txninsightd.vocabulary import Attach, ChildrenStatus, FromParent, Reload

fault = sys.argv[1]

LIMITS = Limits(
    backoff_initial_s=0.05,
    backoff_max_s=0.2,
    give_up_after=5,
    give_up_window_s=300,
    stop_timeout_s=2.0,
    heartbeat_timeout_s=1.0 if fault.endswith(("-hangs", "-undying")) else 2.0,
)
READERS = ["monitor-0", "monitor-1", "validator-0"]
BEAT_EVERY_S = 0.05
RELOAD_LIMITS = ReloadLimits(
    time_s=0.3 if fault == "reload-hangs" else 30.0,
    memory_bytes=64 << 20,
    quiet_s=float(os.environ.get("QUIET_S", "0.05")),
)


def note(process: str, what: str, **more: Any) -> None:
    """One line, in one write."""
    line = json.dumps({"process": process, "pid": os.getpid(), "what": what, **more}) + "\n"
    os.write(sys.stdout.fileno(), line.encode())


def aggregator(context: ChildContext) -> None:
    """Keeps the lines it is given until it is told to stop."""
    note("aggregator", "started", config=config.shown())
    if fault == "aggregator-dies":
        sys.exit(1)
    if fault == "no-state":
        sys.exit(EXIT_STATE)
    lines = []
    control = socket.socket(fileno=context.line)
    reporter = Reporter(control)
    while True:
        beat(context.heartbeat, hangs=fault == "aggregator-hangs")
        if fault == "restoring":
            time.sleep(BEAT_EVERY_S)
            continue
        if fault != "not-serving":
            reporter.report("all is well")
        if not select.select([control], [], [], BEAT_EVERY_S)[0]:
            continue
        body, descriptor = receive(control)
        if not body:
            os._exit(1)
        message = msgspec.msgpack.decode(body, type=FromParent)
        if isinstance(message, Attach):
            assert descriptor is not None
            lines.append(Channel(descriptor))
            note("aggregator", "attached", child=message.child)
            if fault == "aggregator-dies-slowly" and len(lines) == len(READERS):
                die_slowly(control, context.heartbeat)
        elif isinstance(message, ChildrenStatus):
            children = message.children
            note(
                "aggregator",
                "children_status",
                up={c.name: c.up for c in children},
                restarts={c.name: c.restarts for c in children},
                reloads=list(msgspec.to_builtins(message.reloads)),
            )
        elif isinstance(message, Reload):
            assert descriptor is not None
            packed = read_memory_file(descriptor)
            config.adopt(packed)
            note("aggregator", "reloaded", config=config.shown(), bytes=len(packed))
        else:
            note("aggregator", "stopped")
            return


def die_slowly(control: socket.socket, heartbeat: HeartbeatWriter) -> None:
    """As a process does of which the kernel frees much memory."""
    control.close()
    note("aggregator", "closed")
    for _ in range(20):
        time.sleep(BEAT_EVERY_S)
        heartbeat.beat()
    sys.exit(1)


def beat(heartbeat: HeartbeatWriter, hangs: bool) -> None:
    """Once round the loop, or never again."""
    if hangs:
        signal.pause()
    heartbeat.beat()


def reader(context: ChildContext) -> None:
    """Lives until it is told to stop, or its line ends."""
    is_faulty = context.name == "validator-0"
    if fault == "stubborn" and is_faulty:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    held = [str(descriptor.readlink()) for descriptor in Path("/proc/self/fd").iterdir() if descriptor.is_symlink()]
    memory_files = sum("memfd:" in file for file in held)
    note(context.name, "started", config=config.shown(), descriptors=len(held), memory_files=memory_files)
    if is_faulty and fault == "reader-dies":
        sys.exit(1)
    if is_faulty and fault == "no-memory":
        bytearray(1 << 60)
    if is_faulty and fault == "unusable":
        sys.exit(EXIT_UNUSABLE)
    line = Channel(context.line)
    while not context.stopping() and not line.closed:
        beat(context.heartbeat, hangs=is_faulty and fault in ("reader-hangs", "reader-undying"))
        select.select([line.fileno()], [], [], BEAT_EVERY_S)
        line.receive()
    note(context.name, "stopped" if context.stopping() else "line ended")


class DeafOnce(Notifier):
    """Does not deliver the first READY=1 after a reload."""

    misses = False

    def reloading(self) -> None:
        super().reloading()
        self.misses = True

    def ready(self) -> bool:
        if self.misses:
            self.misses = False
            return False
        return super().ready()


class CountedConfig:
    """A config that is the number of times that its file was read. Every third reading is refused; others are long."""

    def __init__(self) -> None:
        self._asked = 0
        self._shown = "config 0"

    def read(self) -> bytes:
        reading_fault()
        return b"" if (self._asked + 1) % 3 == 0 else f"config {self._asked + 1}".encode().ljust(300_000)

    def take(self, answer: bytes) -> bytes | None:
        self._asked += 1
        if not answer:
            return None
        self.adopt(answer)
        return answer

    def refuse(self, reason: str) -> None:
        self._asked += 1
        note("parent", "refused", reason=reason)

    def adopt(self, packed: bytes) -> None:
        self._shown = packed.decode().rstrip()

    def shown(self) -> str:
        return self._shown


class RealConfig(CurrentConfig):
    """The daemon's own, of a real file; `stuck.idle_after_s` shows which one it is."""

    def read(self) -> bytes:
        reading_fault()
        return super().read()

    def adopt(self, packed: bytes) -> None:
        self._config = unpickled(packed)

    def shown(self) -> str:
        return f"{self.config.stuck.idle_after_s:g}"


def reading_fault() -> None:
    """In the process that reads the config again."""
    note("config-reader", "started")
    if fault == "reload-waits":
        Path(os.environ["RELOAD_PIPE"]).read_bytes()
    elif fault == "reload-hangs":
        signal.pause()
    elif fault == "reload-grows":
        hoard = [b""]
        while True:
            hoard.append(b"x" * (1 << 20))
    elif fault == "reload-fails":
        raise ValueError("of the reading")
    elif fault == "reload-dies":
        os.kill(os.getpid(), signal.SIGKILL)


file = os.environ.get("CONFIG")
config: CountedConfig | RealConfig = CountedConfig()
if file is not None:
    config = RealConfig(load_config(Path(file), os.environ), Path(file))

if __name__ == "__main__":
    standard_streams.take_over()
    logs.setup("debug", "json")
    if fault == "reader-undying":
        kill = BaseProcess.kill
        BaseProcess.kill = lambda self: None if self.name == "validator-0" else kill(self)  # type: ignore[method-assign]
    notifier = (DeafOnce if fault == "deaf-systemd" else Notifier).from_environment(os.environ)
    specs = [ChildSpec("aggregator", aggregator, LineKind.CONTROL)]
    specs += [ChildSpec(name, reader, LineKind.DATA) for name in READERS]
    reload = ConfigReload(config, RELOAD_LIMITS)
    sys.exit(Parent(specs, LIMITS, notifier, time.monotonic, reload).run())
