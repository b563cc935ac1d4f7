"""A reader's process: its parts put together from the config, and its life from after the fork to its end.

Here `ingest` (the consumer, its loop and roles) gets what it needs of `cluster` (ids, metadata, watchdog, scout): the
two packages do not import each other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import structlog

from txninsightd import clock, host_limits
from txninsightd.cluster.client_settings import UnusableClient, refusals_named
from txninsightd.cluster.clients import ClusterClients
from txninsightd.cluster.scout import PartitionScout
from txninsightd.config import Config
from txninsightd.expose.worker_health import WorkerHealth
from txninsightd.ingest.consumer_settings import asking_settings, consumer_factory, consumer_settings
from txninsightd.ingest.end_offset_client import EndOffsetClient
from txninsightd.ingest.end_offsets import EndOffsets
from txninsightd.ingest.reader import ClientLost, Health, Reader
from txninsightd.ingest.record_clock import RecordClock
from txninsightd.ingest.rejected_records import RejectedRecords
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.ingest.views import MonitorBuilder, ValidatorBuilder, ViewBuilder
from txninsightd.supervise.channel import Channel
from txninsightd.supervise.children import ChildContext
from txninsightd.supervise.exit_codes import EXIT_UNUSABLE
from txninsightd.supervise.process_setup import leave
from txninsightd.vocabulary import Line, Mapping, View

EXIT_REPLACE = 1

log = structlog.get_logger()


def run_reader(config: Config, view: View, has_scout: bool, multiproc_dir: Path, context: ChildContext) -> NoReturn:
    """Work until SIGTERM; ends the process. `multiproc_dir`: where this process writes its own health."""
    host_limits.require_threads()
    try:
        health = WorkerHealth(context.name, multiproc_dir, context.heartbeat.beat)
        reader = make_reader(config, view, has_scout, Channel(context.line), health, clock.steady)
    except UnusableClient as unusable:
        log.error("kafka_client_unusable", error=str(unusable))
        leave(EXIT_UNUSABLE)
    try:
        reader.run(context.stopping)
    except ClientLost as lost:
        log.error("kafka_client_lost", clients=lost.clients, advice="none needed: this reader is replaced at once")
        leave(EXIT_REPLACE)
    # Here, while `reader` is still in use: freeing its Kafka clients may wait for a broker.
    leave(0)


def make_reader(
    config: Config, view: View, has_scout: bool, line: Line, health: Health, now: Callable[[], float]
) -> Reader:
    """A reader that is ready to run; `now` is the steady clock. Raises UnusableClient."""
    with refusals_named():
        cluster = ClusterClients(config.kafka.client, now)
        settings = consumer_settings(cluster.settings, view, config.limits.prefetch_bytes)
        make_asking = consumer_factory(asking_settings(cluster.settings, view), cluster.logger)
        end_offset_client = EndOffsetClient(make_asking, cluster.admin, cluster.metadata, view, now)
        return Reader(
            view=view,
            make_consumer=consumer_factory(settings, cluster.logger),
            builder=make_builder(config, view, now),
            end_offsets=EndOffsets(end_offset_client, now),
            topic_id_gate=TopicIdGate(cluster.topic_ids, cluster.metadata, now),
            client_watchdog=cluster.watchdog,
            line=line,
            health=health,
            now=now,
            batch_records=config.limits.batch_records,
            queue_batches=config.limits.queue_batches,
            scout=PartitionScout(cluster.admin, config, now, clock.wall) if has_scout else None,
        )


def make_builder(config: Config, view: View, now: Callable[[], float]) -> ViewBuilder:
    """The role of a view."""
    if view is View.VALIDATOR:
        return ValidatorBuilder()

    def mapping_for(topic: str) -> Mapping:
        entry = config.topic_for(topic)
        return entry.mapping if entry is not None and entry.mapping is not None else Mapping()

    return MonitorBuilder(
        mapping_for, config.limits.value_bytes, config.events.future_tolerance_s, RejectedRecords(now), RecordClock()
    )
