"""Detects a Kafka client of this process that will never work again.

A broker that its controller has fenced (it hung for longer than `broker.session.timeout.ms`, or is being rolled) may
answer a metadata request with topics and no brokers. librdkafka (2.12 to 2.16 at least, its issue 5301) then removes
all brokers, and sometimes every way to reconnect: each later request fails as in an outage, for as long as the process
lives. A newly created client tells the two apart. If a new client finds a broker several times in a row and the old one
finds none, the old one is lost, and the process must be replaced. That costs no record.

And librdkafka's threads wait by the wall clock (its issue 2145, open): after that was set back by an hour, a wait of a
second lasts an hour longer. Whether any of them was waiting cannot be seen, so then all clients count as lost. The work
loop may be held up too; then the parent misses its heartbeats.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import TimeoutError as NoAnswer
from contextvars import copy_context

import structlog
from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

CHECK_EVERY_S = 5.0
ANSWER_WITHIN_S = 3.0
MOST_FAILURES = 3
"""A client is lost when so many times in a row a new client finds a broker and it does not. A working client has tried
to connect by then."""

SET_BACK_S = 5.0
"""Waits that last so much longer are put up with."""

REMEMBERED_CHECKS = 12
"""The clock is compared with where it was at one of so many checks: what waited longer ago has its answer."""

FindsBroker = Callable[[], bool]
"""Whether a client finds a broker. May wait, some times `ANSWER_WITHIN_S`."""

log = structlog.get_logger()


class ClientWatchdog:
    """Checks each client that it must `watch`, on its own thread; `new_client` creates a client and checks that.

    `clock_ahead_s`: by how many seconds the wall clock is ahead of a steady one.
    """

    def __init__(self, new_client: FindsBroker, clock_ahead_s: Callable[[], float]) -> None:
        self._new_client = new_client
        self._clock_ahead_s = clock_ahead_s
        self._ahead_s = deque([clock_ahead_s()], REMEMBERED_CHECKS)
        self._was_set_back = False
        self._clients: dict[str, FindsBroker] = {}
        self._failures: dict[str, int] = {}
        self._stop = threading.Event()

    @property
    def lost(self) -> list[str]:
        """The clients that will never work again."""
        if self._was_set_back:
            return list(self._clients)
        return [name for name, times in self._failures.items() if times >= MOST_FAILURES]

    def look_at_clock(self) -> None:
        """Note if the wall clock was set back. For the work loop: the watchdog's own thread may be held up by that."""
        ahead_s, most_ahead_s = self._clock_ahead_s(), max(self._ahead_s)
        if ahead_s > most_ahead_s:
            self._ahead_s.append(ahead_s)
        elif most_ahead_s - ahead_s > SET_BACK_S and not self._was_set_back:
            self._was_set_back = True
            log.warning(
                "clock_set_back", seconds=round(most_ahead_s - ahead_s, 3), effect="Kafka clients may hang for so long"
            )

    def watch(self, name: str, finds_broker: FindsBroker) -> None:
        """Check this client, too. Only before `start`."""
        self._clients[name] = finds_broker

    def start(self) -> None:
        """Begin to check."""
        context = copy_context()  # so that the thread's log lines carry the process's name
        threading.Thread(target=context.run, args=(self._run,), name="client_watchdog", daemon=True).start()

    def stop(self) -> None:
        """Check no more."""
        self._stop.set()

    def check(self) -> None:
        """Check each client once."""
        self._ahead_s.append(self._clock_ahead_s())
        failing = [name for name, finds_broker in self._clients.items() if not finds_broker()]
        outage = bool(failing) and not self._new_client()
        # A client that finds a broker begins at 0 again; in an outage all do. A new dict, since the work loop reads it
        # at the same time.
        self._failures = {name: self._failures.get(name, 0) + 1 for name in failing if not outage}

    def consumer_finds_broker(self, consumer: Consumer, topic: str) -> bool:
        """Whether the consumer finds a broker."""
        return consumer_finds_broker(consumer, topic)

    def _run(self) -> None:
        while not self._stop.wait(CHECK_EVERY_S):
            try:
                self.check()
            except Exception as failure:  # any failure: the thread must go on
                if not self._stop.is_set():
                    log.warning("client_watchdog_failed", error=repr(failure))


def admin_finds_broker(admin: AdminClient) -> bool:
    """Whether any broker answers. The controller that the client knows may be dead: then any other broker will do."""
    return _broker_count(admin) is not None or _has_metadata(lambda: admin.list_topics(timeout=ANSWER_WITHIN_S))


def consumer_finds_broker(consumer: Consumer, topic: str) -> bool:
    """Whether any broker answers. `topic` is one that the consumer reads; a question about all topics may take long."""
    return _has_metadata(lambda: consumer.list_topics(topic, ANSWER_WITHIN_S))


def new_client_finds_broker(make_admin: Callable[[], AdminClient]) -> bool:
    """Whether a new admin client learns of a broker. It does not if only a fenced broker answers it."""
    try:
        admin = make_admin()
    except KafkaException:
        return False
    return bool(_broker_count(admin))


def _broker_count(admin: AdminClient) -> int | None:
    """How many brokers the controller names; None: no answer."""
    try:
        cluster = admin.describe_cluster(request_timeout=ANSWER_WITHIN_S).result(ANSWER_WITHIN_S + 1)
    except (KafkaException, NoAnswer):
        return None
    return len(cluster.nodes)


def _has_metadata(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except KafkaException:
        return False
    return True
