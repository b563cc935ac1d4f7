"""The composition root: what starts, in which order, wired to what. Read this first.

    parent  supervise.Parent: forks and restarts the `children`; no threads, no Kafka client
      aggregator    uvloop: lines -> Aggregator -> Ledger; HTTP from the same loop
      monitor-i     Reader + MonitorBuilder (decodes), read_uncommitted; monitor-0 also runs the scout
      validator-i   Reader + ValidatorBuilder (offsets only), read_committed

Receivers start first and stop last. Each child imports what it needs after the fork: librdkafka does not survive one,
and prometheus_client decides at its import whether it writes the workers' files or serves the registry.
"""

import asyncio
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from txninsightd import clock, host_limits, logs, redaction
from txninsightd.aggregate.state_directory import DirectoryLock, StateUnusable
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.config import Config
from txninsightd.log_output import OUTPUT
from txninsightd.supervise.channel import Channel
from txninsightd.supervise.children import ChildContext, ChildSpec, LineKind
from txninsightd.supervise.config_reload import ConfigReload, ReloadLimits
from txninsightd.supervise.control import Reporter, read_memory_file, receive
from txninsightd.supervise.current_config import CurrentConfig, unpickled
from txninsightd.supervise.exit_codes import EXIT_CANNOT_LISTEN, EXIT_NOT_SAVED, EXIT_STATE
from txninsightd.supervise.notify import Notifier
from txninsightd.supervise.parent import Limits, Parent
from txninsightd.supervise.signals import Signals
from txninsightd.vocabulary import (
    Attach,
    ChildrenStatus,
    FromParent,
    ReaderRole,
    Reload,
    Stop,
    UpdateReaderSettings,
    View,
)

if TYPE_CHECKING:
    from txninsightd.aggregate.aggregator import Aggregator
    from txninsightd.aggregate.recovery import Recovered
    from txninsightd.aggregate.strict import StrictLoop
    from txninsightd.core.sinks import Sink
    from txninsightd.expose.monotonic_counters import MonotonicCounters, StateOrigin

AGGREGATOR = "aggregator"
SCOUT = "monitor-0"
LONGEST_TICK_S = 1.0
TICKS_A_TIMEOUT = 4
WORKERS_PREFIX = "workers-"
OWNER_ONLY_UMASK = 0o077

log = structlog.get_logger()


class Shared(NamedTuple):
    """What all children have in common. `started_at`: the daemon's start; a restarted aggregator keeps it.

    `multiproc_dir`: where the children write their own health for the metrics; its name is another for each parent.
    `lock`: that of the state directory.
    """

    current: CurrentConfig
    started_at: float
    multiproc_dir: Path
    lock: DirectoryLock

    @property
    def config(self) -> Config:
        """The config at the moment of the fork."""
        return self.current.config


def children(shared: Shared) -> list[ChildSpec]:
    """Every process below the parent. A new kind of child is one entry here."""
    roles = reader_roles(shared.config)
    return [
        ChildSpec(AGGREGATOR, partial(run_aggregator, shared), LineKind.CONTROL),
        *(ChildSpec(name, partial(run_reader, shared, role), LineKind.DATA) for name, role in roles.items()),
    ]


def sinks() -> "list[Sink]":
    """What takes the ledger's facts beside the figures. A new sink is one entry here."""
    from txninsightd.aggregate.stuck_log import StuckLog

    return [StuckLog()]


def reader_roles(config: Config) -> dict[str, ReaderRole]:
    """The readers by name, and what each reads."""
    counts = {View.MONITOR: config.readers.monitors, View.VALIDATOR: config.readers.validators}
    return {f"{view}-{i}": ReaderRole(view, i) for view, count in counts.items() for i in range(count)}


def run_daemon(config: Config, path: Path) -> int:
    """Run until a signal; gives the exit code. `path`: the config's file, read again on SIGHUP."""
    redaction.hide(config.secrets())
    log.info("configured", config=config.redacted())
    # All that the daemon writes is about the content of events.
    os.umask(OWNER_ONLY_UMASK)
    state = Path(config.state.directory)
    lock = DirectoryLock(state)
    try:
        # From here on SIGTERM is a stop in order: the lock may be waited for.
        signals = Signals()
        signals.install()
        host_limits.prepare(config.readers.monitors + config.readers.validators)
        # Lock before any fork and never unlock: the children share the lock, and the next daemon waits for the last.
        lock.acquire()
        with workers_directory(os.environ, state) as directory:
            current = CurrentConfig(config, path)
            specs = children(Shared(current, clock.now(), directory, lock))
            notifier = Notifier.from_environment(os.environ)
            config_reload = ConfigReload(current, ReloadLimits())
            return Parent(specs, _limits(config), notifier, time.monotonic, config_reload, signals).run()
    except Exception as failure:
        if host_limits.log_if_limit(failure):
            return host_limits.EXIT_HOST_LIMIT
        if not isinstance(failure, StateUnusable):
            raise
        log.error("state_unusable", error=str(failure))
        return EXIT_STATE


def _limits(config: Config) -> Limits:
    s = config.supervise
    return Limits(
        s.backoff_initial_s,
        s.backoff_max_s,
        s.give_up_after,
        s.give_up_window_s,
        s.stop_timeout_s,
        s.heartbeat_timeout_s,
    )


@contextmanager
def workers_directory(environment: Mapping[str, str], state: Path) -> Iterator[Path]:
    """Where the children write their health: in systemd's RuntimeDirectory=, else in the (locked) state directory.

    It need not exist: each reader makes it where it is missing (worker_health.py), also if it is removed later.
    """
    runtime = Path(environment.get("RUNTIME_DIRECTORY", "").partition(":")[0] or state)
    place = runtime if os.access(runtime, os.W_OK | os.X_OK) else state
    # Those of daemons that were killed. No other daemon has one here.
    for leftover in place.glob(f"{WORKERS_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    directory = place / f"{WORKERS_PREFIX}{secrets.token_hex(6)}"
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# --- Readers ----------------------------------------------------------------------------------------------------------


def run_reader(shared: Shared, role: ReaderRole, context: ChildContext) -> None:
    """A monitor or a validator, from after the fork to its end."""
    # Set before the import below, which brings prometheus_client: that reads it once.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared.multiproc_dir)
    from txninsightd import reader_process

    has_scout = context.name == SCOUT
    reader_process.run_reader(shared.config, role.view, has_scout, shared.multiproc_dir, context)


# --- Aggregator -------------------------------------------------------------------------------------------------------


def run_aggregator(shared: Shared, context: ChildContext) -> None:
    """The aggregator, from after the fork to its end."""
    import uvloop

    sys.exit(uvloop.run(_aggregate(shared, context)))


async def _aggregate(shared: Shared, context: ChildContext) -> int:
    from txninsightd.aggregate.strict import StrictLoop
    from txninsightd.expose.operator_socket import OperatorSocket
    from txninsightd.expose.server import HttpServer

    config = shared.config
    control = socket.socket(fileno=context.line)
    loop = StrictLoop(asyncio.get_running_loop())
    stopping = asyncio.Event()
    try:
        aggregator, monotonic_counters = _recover(shared, context, loop)
    except StateUnusable as unusable:
        if host_limits.limit_behind(unusable):
            raise
        log.error("state_unusable", error=str(unusable))
        return EXIT_STATE
    loop.add_reader(control.fileno(), take_control_message, control, aggregator, stopping)
    server = HttpServer(aggregator, config, monotonic_counters)
    try:
        port = await server.start(config.http.host, config.http.port)
    except OSError as failure:
        if host_limits.limit_behind(failure):
            raise
        log.error("http_listen_failed", listen=config.http.listen, error=str(failure))
        return EXIT_CANNOT_LISTEN
    log.info("http_listening", host=config.http.host, port=port)
    operator_socket = OperatorSocket(aggregator, owns_directory=shared.lock.is_held)
    await operator_socket.start(config.state.control_socket)
    tick_s = min(LONGEST_TICK_S, config.supervise.heartbeat_timeout_s / TICKS_A_TIMEOUT)
    await tick_until_stopped(aggregator, Reporter(control), stopping, tick_s)
    # Stop the orders first: each is answered once a checkpoint holds its effect, and the last checkpoint is next.
    await operator_socket.stop()
    aggregator.tick()
    saved = aggregator.close()
    await server.stop()
    return 0 if saved else EXIT_NOT_SAVED


def _recover(shared: Shared, context: ChildContext, loop: "StrictLoop") -> "tuple[Aggregator, MonotonicCounters]":
    """The aggregator with its state, and what its counters have shown. Raises StateUnusable."""
    from txninsightd.aggregate.aggregator import Aggregator
    from txninsightd.aggregate.assembly import make_pipeline, make_rules
    from txninsightd.aggregate.recovery import recover
    from txninsightd.aggregate.wall_time import WallTime
    from txninsightd.core.snapshot import VERSION
    from txninsightd.expose.monotonic_counters import MonotonicCounters

    config, beat = shared.config, context.heartbeat.beat
    state, lock = Path(config.state.directory), shared.lock
    # The directory may have been replaced while the aggregator before this one ran.
    if not lock.is_held():
        lock.acquire()
    store = CheckpointStore(state, VERSION, clock.now, lock)
    wall_time = WallTime.of_this_process()
    recovered = recover(
        store,
        lambda: make_pipeline(config, shared.started_at, sinks()),
        clock.now(),
        beat,
        wall_time.our_clock(),
    )
    monotonic_counters = MonotonicCounters(
        state / "exposed", shared.multiproc_dir.name, _state_origin(config, recovered), lock.claim
    )
    monotonic_counters.restore_label_values(recovered.pipeline.figures)
    aggregator = Aggregator(
        pipeline=recovered.pipeline,
        loop=loop,
        readers=reader_roles(config),
        scout=SCOUT,
        now=clock.now,
        discover_every_s=config.discovery.every_s,
        store=store,
        checkpoint_every_s=config.state.checkpoint_every_s,
        fallbacks=recovered.passed_over,
        multiproc_dir=shared.multiproc_dir,
        beat=beat,
        heartbeat_ages_s=context.heartbeats.ages_s,
        wall_time=wall_time,
        dropped_log_lines=OUTPUT.dropped_lines.counts,
        noters=[OUTPUT.dropped_lines.notes],
    )
    # A restored ledger has the rules of its checkpoint until it adopts those of the file. Thresholds that have changed
    # wait until both views have caught up.
    aggregator.adopt(make_rules(config), config.limits.label_values, config.state.checkpoint_every_s)
    return aggregator, monotonic_counters


async def tick_until_stopped(
    aggregator: "Aggregator", reporter: Reporter, stopping: asyncio.Event, tick_s: float
) -> None:
    """Until the parent has sent `Stop` and all lines have ended."""
    while not (stopping.is_set() and aggregator.drained):
        aggregator.tick()
        reporter.report(redaction.clean(aggregator.status()))
        try:
            await asyncio.wait_for(stopping.wait(), tick_s)
        except TimeoutError:
            continue
        # Once `stopping` is set, the wait above ends at once: without this the loop would spin until the lines end.
        await asyncio.sleep(0.02)


def _state_origin(config: Config, recovered: "Recovered") -> "StateOrigin":
    """Where the aggregator's state came from, as its counters must know."""
    from txninsightd.expose.monotonic_counters import StateOrigin

    if recovered.written_at:
        return StateOrigin.CHECKPOINT
    return StateOrigin.EMPTY_AT_LATEST if config.start.kind == "latest" else StateOrigin.EMPTY


def _adopt(config: Config, aggregator: "Aggregator") -> None:
    """Apply a config that was read again, to the aggregator and its readers."""
    from txninsightd.aggregate.assembly import make_rules

    limits, log_config = config.limits, config.log
    logs.setup(log_config.level, log_config.format)
    aggregator.adopt(make_rules(config), limits.label_values, config.state.checkpoint_every_s)
    aggregator.update_settings(
        UpdateReaderSettings(
            log_level=log_config.level,
            log_format=log_config.format,
            batch_records=limits.batch_records,
            queue_batches=limits.queue_batches,
            value_bytes=limits.value_bytes,
            future_tolerance_s=config.events.future_tolerance_s,
        )
    )


def take_control_message(control: socket.socket, aggregator: "Aggregator", stopping: asyncio.Event) -> None:
    import msgspec

    try:
        body, descriptor = receive(control)
    except BlockingIOError:
        return
    if not body:
        log.warning("parent_gone")
        os._exit(1)
    message = msgspec.msgpack.decode(body, type=FromParent)
    if isinstance(message, Attach) and descriptor is not None:
        aggregator.attach(message.child, Channel(descriptor))
    elif isinstance(message, ChildrenStatus):
        aggregator.children_status, aggregator.reloads = message.children, message.reloads
    elif isinstance(message, Reload) and descriptor is not None:
        _adopt(unpickled(read_memory_file(descriptor)), aggregator)
    elif isinstance(message, Stop):
        stopping.set()
    else:
        # If a line was lost, the child at its other end notices, exits and is restarted.
        log.error(
            "descriptor_lost", message=type(message).__name__, advice="raise the limit of open files (LimitNOFILE=)"
        )
