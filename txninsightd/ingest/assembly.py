"""Puts a reader together from the config: the clients, the role, and for the first monitor the scout."""

from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from txninsightd.config import Config
from txninsightd.ingest.client_watchdog import ClientWatchdog, admin_finds, newcomer_finds
from txninsightd.ingest.discovery import PartitionScout
from txninsightd.ingest.ends import EndQuestions
from txninsightd.ingest.reader import Health, Reader
from txninsightd.ingest.refresh import Refresh
from txninsightd.ingest.rejected_records import RejectedRecords, client_logger
from txninsightd.ingest.settings import UnusableClient, admin_settings, consumer_settings, require_safe_client
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.ingest.views import MonitorBuilder, ValidatorBuilder, ViewBuilder
from txninsightd.vocabulary import Line, Mapping, View


def make_reader(
    config: Config, view: View, has_scout: bool, line: Line, health: Health, now: Callable[[], float]
) -> Reader:
    """A reader that is ready to run. Raises UnusableClient."""
    require_safe_client()
    logger = client_logger(now)

    def make_admin() -> AdminClient:
        return AdminClient(admin_settings(config.kafka.client), logger=logger)

    try:
        admin = make_admin()
        refresh = Refresh(admin, now)
        client_watchdog = ClientWatchdog(lambda: newcomer_finds(make_admin))
        client_watchdog.watch("admin", lambda: admin_finds(admin))
        settings = consumer_settings(config.kafka.client, view, config.limits.prefetch_bytes)
        return Reader(
            make_consumer=lambda: Consumer(settings, logger=logger),
            builder=make_builder(config, view, now),
            questions=EndQuestions(admin, refresh, view, now),
            topic_id_gate=TopicIdGate(admin, refresh, now),
            client_watchdog=client_watchdog,
            line=line,
            health=health,
            now=now,
            batch_records=config.limits.batch_records,
            queue_batches=config.limits.queue_batches,
            scout=PartitionScout(admin, config, now) if has_scout else None,
        )
    except (KafkaException, ValueError, TypeError) as refusal:
        raise UnusableClient(f"correct kafka.client in the configuration: {refusal}") from refusal


def make_builder(config: Config, view: View, now: Callable[[], float]) -> ViewBuilder:
    """The role of a view."""
    if view is View.VALIDATOR:
        return ValidatorBuilder()

    def mapping_for(topic: str) -> Mapping:
        entry = config.topic_for(topic)
        return entry.mapping if entry is not None and entry.mapping is not None else Mapping()

    return MonitorBuilder(
        mapping_for, config.limits.value_bytes, config.events.future_tolerance_s, RejectedRecords(now)
    )
