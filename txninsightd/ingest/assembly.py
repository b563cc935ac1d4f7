"""Puts a reader together from the config: the clients, the role, and for the first monitor the scout."""

from collections.abc import Callable

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from txninsightd.config import Config
from txninsightd.core.decoding import Decoder
from txninsightd.ingest.complaints import Complaints, client_logger
from txninsightd.ingest.discovery import PartitionScout
from txninsightd.ingest.ends import EndQuestions
from txninsightd.ingest.identity import Identity
from txninsightd.ingest.reader import Health, Reader
from txninsightd.ingest.settings import UnusableClient, admin_settings, consumer_settings, require_safe_client
from txninsightd.ingest.views import MonitorBuilder, ValidatorBuilder, ViewBuilder
from txninsightd.vocabulary import Line, Mapping, View


def make_reader(config: Config, view: View, index: int, line: Line, health: Health, now: Callable[[], float]) -> Reader:
    """A reader that is ready to run. Raises UnusableClient."""
    require_safe_client()
    logger = client_logger(now)
    try:
        admin = AdminClient(admin_settings(config.kafka.client), logger=logger)
        scouts = view is View.MONITOR and index == 0
        return Reader(
            make_consumer=lambda: Consumer(consumer_settings(config.kafka.client, view), logger=logger),
            builder=make_builder(config, view, now),
            questions=EndQuestions(admin, view, now),
            identity=Identity(admin, now),
            line=line,
            health=health,
            now=now,
            batch_records=config.limits.batch_records,
            queue_batches=config.limits.queue_batches,
            scout=PartitionScout(admin, config, now) if scouts else None,
        )
    except (KafkaException, ValueError, TypeError) as refusal:
        raise UnusableClient(f"correct kafka.client in the configuration: {refusal}") from refusal


def make_builder(config: Config, view: View, now: Callable[[], float]) -> ViewBuilder:
    """The role of a view."""
    if view is View.VALIDATOR:
        return ValidatorBuilder()
    tolerance_s = config.events.future_tolerance_s

    def decoder_for(topic: str) -> Decoder:
        entry = config.topic_for(topic)
        mapping = entry.mapping if entry is not None and entry.mapping is not None else Mapping()
        return Decoder(mapping, config.limits.value_bytes, tolerance_s)

    return MonitorBuilder(decoder_for, tolerance_s, Complaints(now))
