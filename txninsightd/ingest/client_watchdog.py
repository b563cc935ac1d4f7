"""Notices that a Kafka client of this process has given up for ever.

A broker that its controller has fenced (it hung for longer than `broker.session.timeout.ms`, or is being rolled) may
answer a question for metadata with topics and not one broker. librdkafka (2.12 to 2.16 at least, its issue 5301) then
puts all brokers away, and with them, now and then, its way back: every later question fails as in an outage, for as
long as the process lives. What tells the two apart is a client made just now. Does that find a broker, again and again,
and ours finds none, then ours is lost, and the process must be replaced: that costs no record.
"""

import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as NoAnswer
from contextvars import copy_context

import structlog
from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

ASK_EVERY_S = 5.0
ANSWER_WITHIN_S = 3.0
IN_VAIN = 3
"""So many times in a row a new client finds a broker and ours does not. A living one has tried to connect by then."""

Finds = Callable[[], bool]
"""Whether a client finds a broker. May wait, some times `ANSWER_WITHIN_S`."""

log = structlog.get_logger()


class ClientWatchdog:
    """Asks each client that it is to `watch`, on a thread of its own; `newcomer` makes a client and asks that."""

    def __init__(self, newcomer: Finds) -> None:
        self._newcomer = newcomer
        self._clients: dict[str, Finds] = {}
        self._in_vain: dict[str, int] = {}
        self._stop = threading.Event()

    @property
    def lost(self) -> list[str]:
        """The clients that will find no broker any more."""
        return [name for name, times in self._in_vain.items() if times >= IN_VAIN]

    @property
    def stopped(self) -> bool:
        """Nobody needs an answer any more."""
        return self._stop.is_set()

    def watch(self, name: str, finds: Finds) -> None:
        """Ask this client, too."""
        self._clients[name] = finds

    def start(self) -> None:
        """Begin to ask; no client is added from now on."""
        context = copy_context()  # the log lines of the thread carry the process's name, too
        threading.Thread(target=context.run, args=(self._run,), name="client_watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def look(self) -> None:
        """Ask each of them once."""
        silent = [name for name, finds in self._clients.items() if not finds()]
        outage = bool(silent) and not self._newcomer()
        # Who found somebody begins at 0 again, in an outage all. A new dict, since the work loop reads it meanwhile.
        self._in_vain = {name: self._in_vain.get(name, 0) + 1 for name in silent if not outage}

    def _run(self) -> None:
        while not self._stop.wait(ASK_EVERY_S):
            try:
                self.look()
            except Exception as failure:  # whatever it is, the thread must go on
                if not self.stopped:
                    log.warning("lifeline_failed", error=repr(failure))


def admin_finds(admin: AdminClient) -> bool:
    """Whether anybody answers it. The controller that it knows may be dead: then any broker will do."""
    return _nodes(admin) is not None or _has_metadata(lambda: admin.list_topics(timeout=ANSWER_WITHIN_S))


def consumer_finds(consumer: Consumer, topic: str) -> bool:
    """Whether anybody answers it. `topic` is one that it reads, since to ask for all may take long."""
    return _has_metadata(lambda: consumer.list_topics(topic, ANSWER_WITHIN_S))


def newcomer_finds(make_admin: Callable[[], AdminClient]) -> bool:
    """Whether an admin client made now is told of a broker; one that is answered by a fenced broker only, is not."""
    try:
        newcomer = make_admin()
    except KafkaException:
        return False
    return bool(_nodes(newcomer))


def _nodes(admin: AdminClient) -> int | None:
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
