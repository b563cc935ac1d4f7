"""The composition root: what starts, in which order, wired to what. Read this first.

    parent  supervise.Parent: forks and restarts everything below; no threads, no Kafka client
      aggregator    uvloop: lines -> Aggregator -> Ledger; HTTP from the same loop
      monitor-i     Reader + MonitorBuilder (decodes), read_uncommitted; monitor-0 also looks for partitions
      validator-i   Reader + ValidatorBuilder (offsets only), read_committed

Receivers start first and stop last. Each child imports what it needs after the fork: librdkafka does not survive one,
and prometheus_client decides at its import whether it writes the workers' files or serves the registry.
"""

import asyncio
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import TYPE_CHECKING, ParamSpec

import structlog

from txninsightd import clock, logs
from txninsightd.aggregate.store import CheckpointStore, DirectoryLock, StateUnusable
from txninsightd.config import Config
from txninsightd.supervise.channel import Channel
from txninsightd.supervise.child import become
from txninsightd.supervise.control import Reporter, from_memory, receive
from txninsightd.supervise.heartbeats import Heart, Heartbeats
from txninsightd.supervise.notify import Notifier
from txninsightd.supervise.parent import (
    EXIT_CANNOT_LISTEN,
    EXIT_STATE,
    EXIT_UNUSABLE,
    Limits,
    Parent,
    Programs,
    child_names,
    reader_name,
)
from txninsightd.supervise.running import Running, unpacked
from txninsightd.vocabulary import Attach, ChildrenStatus, FromParent, Reload, Stop, UpdateReaderSettings, View

if TYPE_CHECKING:
    from txninsightd.aggregate.aggregator import Aggregator
    from txninsightd.aggregate.resuming import Resumed
    from txninsightd.aggregate.strict import StrictLoop
    from txninsightd.core.ledger import Ledger, Rules
    from txninsightd.expose.monotonic_counters import MonotonicCounters, StateOrigin

LONGEST_TICK_S = 1.0
TICKS_A_TIMEOUT = 4
DIRECTORY_PREFIX = "txninsightd-"

P = ParamSpec("P")

log = structlog.get_logger()


def run_daemon(config: Config, path: Path) -> int:
    """Run until a signal; gives the exit code. `path`: the config's file, to be read again on SIGHUP."""
    log.info("configured", config=config.redacted())
    _remove_leftovers()
    directory = Path(mkdtemp(prefix=f"{DIRECTORY_PREFIX}{os.getpid()}-"))
    # Once, before any fork: an aggregator that begins anew must mean the same moment by `start` as the one before.
    started_at = clock.now()
    heartbeats = Heartbeats(child_names(reader_counts(config)))
    running = Running(config, path)

    @_failing_in_one_line
    def aggregator(control: socket.socket) -> None:
        become("aggregator", on_terminate=None)
        sys.exit(run_aggregator(running.config, control, started_at, directory, heartbeats))

    @_failing_in_one_line
    def reader(view: View, index: int, descriptor: int) -> None:
        run_reader(running.config, view, index, descriptor, directory, heartbeats.heart(reader_name(view, index)))

    lock = DirectoryLock(Path(config.state.directory))
    try:
        # Before any fork, never let go: all children hold it with the parent, and the next daemon waits for the last.
        lock.acquire()
        notifier = Notifier.from_environment(os.environ)
        programs, counts = Programs(aggregator, reader), reader_counts(config)
        limits = _limits(config)
        return Parent(programs, counts, limits, heartbeats, notifier, time.monotonic, running.reload).run()
    except StateUnusable as unusable:
        log.error("state_unusable", error=str(unusable))
        return EXIT_STATE
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def reader_counts(config: Config) -> dict[View, int]:
    """How many readers share each view."""
    return {View.MONITOR: config.readers.monitors, View.VALIDATOR: config.readers.validators}


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


def _failing_in_one_line(program: Callable[P, None]) -> Callable[P, None]:
    """What ends a child is one line of the log, not a bare traceback."""

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            program(*args, **kwargs)
        except Exception:
            log.exception("child_failed")
            sys.exit(1)

    return run


def _remove_leftovers() -> None:
    """The directories of daemons that were killed."""
    for path in Path(gettempdir()).glob(f"{DIRECTORY_PREFIX}*"):
        pid = path.name.removeprefix(DIRECTORY_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)


# --- Readers ----------------------------------------------------------------------------------------------------------


def run_reader(config: Config, view: View, index: int, descriptor: int, multiproc_dir: Path, heart: Heart) -> None:
    """A monitor or a validator, from after the fork to its end."""
    name = reader_name(view, index)
    stops: list[None] = []
    become(name, on_terminate=lambda: stops.append(None))
    # Before the imports, since prometheus_client looks for it at its own.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(multiproc_dir)
    from txninsightd.expose.worker_health import WorkerHealth
    from txninsightd.ingest.assembly import make_reader
    from txninsightd.ingest.reader import ClientLost
    from txninsightd.ingest.settings import UnusableClient

    try:
        health = WorkerHealth(name, multiproc_dir, heart.beat)
        reader = make_reader(config, view, index, Channel(descriptor), health, clock.now)
    except UnusableClient as unusable:
        log.error("kafka_client_unusable", error=str(unusable))
        sys.exit(EXIT_UNUSABLE)
    try:
        reader.run(stopping=lambda: bool(stops))
    except ClientLost as lost:
        log.error("kafka_client_lost", clients=lost.clients, advice="none needed: this reader is replaced at once")
        sys.exit(1)


# --- Aggregator -------------------------------------------------------------------------------------------------------


def run_aggregator(
    config: Config,
    control: socket.socket,
    started_at: float,
    multiproc_dir: Path,
    heartbeats: Heartbeats,
) -> int:
    """The aggregator, from after the fork to its end; gives the exit code."""
    import uvloop

    return uvloop.run(_aggregate(config, control, started_at, multiproc_dir, heartbeats))


async def _aggregate(
    config: Config,
    control: socket.socket,
    started_at: float,
    multiproc_dir: Path,
    heartbeats: Heartbeats,
) -> int:
    from txninsightd.aggregate.strict import StrictLoop
    from txninsightd.expose.operator_socket import OperatorSocket
    from txninsightd.expose.server import HttpServer

    loop = StrictLoop(asyncio.get_running_loop())
    stopping = asyncio.Event()
    try:
        aggregator, monotonic_counters = _resume(config, loop, started_at, multiproc_dir, heartbeats)
    except StateUnusable as unusable:
        log.error("state_unusable", error=str(unusable))
        return EXIT_STATE
    loop.add_reader(control.fileno(), _on_control, control, aggregator, stopping)
    server = HttpServer(aggregator, config, monotonic_counters)
    try:
        port = await server.start(config.http.host, config.http.port)
    except OSError as failure:
        log.error("http_listen_failed", listen=config.http.listen, error=str(failure))
        return EXIT_CANNOT_LISTEN
    log.info("http_listening", host=config.http.host, port=port)
    orders = OperatorSocket(aggregator)
    await orders.start(config.state.control_socket)
    tick_s = min(LONGEST_TICK_S, config.supervise.heartbeat_timeout_s / TICKS_A_TIMEOUT)
    await _tick(aggregator, Reporter(control), stopping, tick_s)
    # An order is answered once a checkpoint holds what came of it, so no order may come after the last checkpoint.
    await orders.stop()
    aggregator.tick()
    aggregator.close()
    await server.stop()
    return 0


def _resume(
    config: Config, loop: "StrictLoop", started_at: float, multiproc_dir: Path, heartbeats: Heartbeats
) -> "tuple[Aggregator, MonotonicCounters]":
    """The aggregator with its state, and what its counters have shown. Raises StateUnusable."""
    from txninsightd.aggregate.aggregator import Aggregator
    from txninsightd.aggregate.resuming import resume
    from txninsightd.core.snapshot import VERSION
    from txninsightd.expose.monotonic_counters import MonotonicCounters

    beat = heartbeats.heart("aggregator").beat
    state = Path(config.state.directory)
    store = CheckpointStore(state, VERSION, clock.now)
    resumed = resume(store, lambda: make_ledger(config, started_at), clock.now(), beat)
    monotonic_counters = MonotonicCounters(state / "exposed", multiproc_dir.name, _state_origin(config, resumed))
    monotonic_counters.restore_label_values(resumed.ledger.figures)
    aggregator = Aggregator(
        ledger=resumed.ledger,
        loop=loop,
        counts=reader_counts(config),
        now=clock.now,
        discover_every_s=config.discovery.every_s,
        store=store,
        checkpoint_every_s=config.state.checkpoint_every_s,
        fallbacks=resumed.passed_over,
        multiproc_dir=multiproc_dir,
        beat=beat,
        heartbeat_ages_s=heartbeats.ages_s,
    )
    # A restored ledger judges by the rules of its checkpoint until it adopts those of the file; thresholds that have
    # changed wait until both views have caught up.
    aggregator.adopt(make_rules(config), config.limits.label_values, config.state.checkpoint_every_s)
    return aggregator, monotonic_counters


async def _tick(aggregator: "Aggregator", reporter: Reporter, stopping: asyncio.Event, tick_s: float) -> None:
    """Until the parent says stop, and all lines have ended."""
    while not (stopping.is_set() and aggregator.drained):
        aggregator.tick()
        reporter.report(aggregator.status())
        try:
            await asyncio.wait_for(stopping.wait(), tick_s)
        except TimeoutError:
            continue
        # Once `stopping` is set, the wait above is none: without this the loop would spin until the lines end.
        await asyncio.sleep(0.02)


def _state_origin(config: Config, resumed: "Resumed") -> "StateOrigin":
    """How the aggregator came by its state, as its counters must know."""
    from txninsightd.expose.monotonic_counters import StateOrigin

    if resumed.written_at:
        return StateOrigin.CHECKPOINT
    return StateOrigin.EMPTY_AT_LATEST if config.start.kind == "latest" else StateOrigin.EMPTY


def make_ledger(config: Config, started_at: float) -> "Ledger":
    """An empty ledger with the operator's rules."""
    from txninsightd.core.figures import Figures
    from txninsightd.core.ledger import Ledger
    from txninsightd.core.transaction import UNSEEN

    start_at = {"earliest": UNSEEN, "latest": started_at, "ago": started_at - config.start.ago_s}[config.start.kind]
    figures = Figures(config.metrics.duration_buckets_s, config.limits.label_values, config.transaction_types)
    return Ledger(make_rules(config), figures, start_at)


def make_rules(config: Config) -> "Rules":
    """What the operator decides of the ledger."""
    from txninsightd.core.ledger import Objectives, Rules

    state, limits, types = config.state, config.limits, config.transaction_types
    return Rules(
        colocated=config.events.colocated,
        settle_lateness_s=state.settle_lateness_s,
        settle_max_s=state.settle_max_s,
        retry_grace_s=state.retry_grace_s,
        linger_s=state.linger_s,
        remember_s=state.remember_s,
        most_lingering=limits.lingering,
        most_remembered=limits.remembered_ids,
        stuck=config.stuck,
        stuck_by_type={name: own.thresholds for name, own in types.items()},
        most_open=limits.open_transactions,
        most_events_each=limits.events_per_transaction,
        most_events=limits.kept_events,
        most_undecided=limits.undecided_records,
        objectives=Objectives(config.objective, {name: own.objective for name, own in types.items()}),
    )


def _go_by(config: Config, aggregator: "Aggregator") -> None:
    """The config was read anew, for the aggregator and its readers."""
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


def _on_control(control: socket.socket, aggregator: "Aggregator", stopping: asyncio.Event) -> None:
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
        aggregator.attach(message.view, message.index, Channel(descriptor))
    elif isinstance(message, ChildrenStatus):
        aggregator.children_status, aggregator.reloads = message.children, message.reloads
    elif isinstance(message, Reload) and descriptor is not None:
        _go_by(unpacked(from_memory(descriptor)), aggregator)
    elif isinstance(message, Stop):
        stopping.set()
    else:
        # A line that got lost is heard by its reader, which ends and is started again.
        log.error(
            "descriptor_lost", message=type(message).__name__, advice="raise the limit of open files (LimitNOFILE=)"
        )
