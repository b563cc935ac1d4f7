"""One process's access to the cluster: an admin client, and what asks through it."""

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka.admin import AdminClient

from txninsightd import clock
from txninsightd.cluster.client_log import client_logger
from txninsightd.cluster.client_settings import admin_settings, client_settings, require_safe_client
from txninsightd.cluster.client_watchdog import ClientWatchdog, admin_finds_broker, new_client_finds_broker
from txninsightd.cluster.metadata_refresh import MetadataRefresh
from txninsightd.cluster.topic_ids import TopicIds


def _wall_clock_ahead_s() -> float:
    clock.follow()
    return clock.stepped_s()


class ClusterClients:
    """`client`: the operator's properties. Raises UnusableClient; an admin client that refuses them raises its own.

    `settings` and `logger` are for further clients of the process; `watchdog` watches the admin client.
    """

    def __init__(self, client: Mapping[str, Any], now: Callable[[], float]) -> None:
        require_safe_client()
        self.logger = client_logger(now)
        self.settings = client_settings(client)
        self._client = client
        self.admin = self._make_admin()
        self.metadata = MetadataRefresh(self.admin, now)
        self.topic_ids = TopicIds(self.admin)
        self.watchdog = ClientWatchdog(lambda: new_client_finds_broker(self._make_admin), _wall_clock_ahead_s)
        self.watchdog.watch("admin", lambda: admin_finds_broker(self.admin))

    def _make_admin(self) -> AdminClient:
        return AdminClient(admin_settings(self._client), logger=self.logger)
