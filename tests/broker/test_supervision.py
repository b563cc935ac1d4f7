"""Kill, stop and starve the daemon's processes: nothing is lost, nothing counted twice, nothing left behind.

Everything is judged from outside: signals to process ids, exit codes, /proc, and the daemon's own API against what was
written.
"""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic, Start
from tests.harness.kafka import publish
from tests.harness.processes import descriptors
from tests.harness.transactions import Written, await_counted, write_transactions
from txninsightd.tools.stack.broker import Broker

PATIENT = {"backoff_initial_s": 0.05, "backoff_max_s": 0.1, "give_up_after": 1000, "heartbeat_timeout_s": 3600}
QUICK = {"retry_grace_s": 0.5}
MEGABYTE = 1 << 20

SECTIONS = {"supervise": PATIENT, "state": QUICK}


def resident_bytes(pid: int) -> int:
    """The memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- Readers ----------------------------------------------------------------------------------------------------------


def test_killed_readers_go_on_where_they_were(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(4)
    daemon = start(name, readers={"monitors": 2, "validators": 2}, limits={"batch_records": 100}).await_ready()
    assert daemon.process is not None
    written = write_transactions(broker.bootstrap, name, "before", 20)
    await_counted(daemon, name, written)
    watched = {pid: descriptors(pid) for pid in (daemon.process.pid, daemon.pids()["aggregator"])}
    readers = ("monitor-0", "validator-0", "monitor-1", "validator-1")
    with ThreadPoolExecutor(1) as beside:
        more = beside.submit(write_transactions, broker.bootstrap, name, "meanwhile", 300)
        for i in range(20):
            kill_alone(daemon, readers[i % 4])
    await_counted(daemon, name, written.plus(more.result()))
    assert daemon.total("txninsight_child_restarts_total") == 20
    assert daemon.total("txninsight_child_up") == 5
    daemon.await_that(lambda: all(descriptors(pid) <= held for pid, held in watched.items()), "no descriptor is left")
    assert daemon.stop() == 0


def kill_alone(daemon: Daemon, reader: str) -> None:
    """kill -9 of one reader; the others must not notice."""
    before = daemon.pids()
    os.kill(before[reader], signal.SIGKILL)
    daemon.await_that(lambda: daemon.pids().get(reader, before[reader]) != before[reader], f"{reader} is restarted")
    assert {child for child, pid in daemon.pids().items() if before[child] != pid} == {reader}


# --- The aggregator ---------------------------------------------------------------------------------------------------


def test_with_the_aggregator_all_go_back_to_the_checkpoint(broker: Broker, topic: MakeTopic, start: Start) -> None:
    """All state is its own: everything goes back to the newest checkpoint, and reads on from there."""
    name = topic(3)
    early = write_transactions(broker.bootstrap, name, "early", 10)
    daemons = {"earliest": start(name), "latest": start(name, start="latest")}
    for daemon in daemons.values():
        daemon.await_ready()
    late = write_transactions(broker.bootstrap, name, "late", 10)
    await_counted(daemons["earliest"], name, early.plus(late))
    await_counted(daemons["latest"], name, late)
    before = {which: daemon.pids() for which, daemon in daemons.items()}
    for children in before.values():
        os.kill(children["aggregator"], signal.SIGKILL)
    late = late.plus(write_transactions(broker.bootstrap, name, "later", 10))
    for which, daemon in daemons.items():
        daemon.await_gone(before[which].values())
        daemon.await_ready()
    await_counted(daemons["earliest"], name, early.plus(late))
    await_counted(daemons["latest"], name, late)
    assert [daemon.stop() for daemon in daemons.values()] == [0, 0]


# --- Back-pressure ----------------------------------------------------------------------------------------------------

FLOOD = 200_000
PADDING = "x" * 300


def flood() -> Iterator[tuple[str, str]]:
    """Many records, with ids as long as they get, so that holding them would show."""
    for i in range(FLOOD):
        txn_id = f"{PADDING}{i // 2}"
        kind = ("transaction_open", "transaction_close")[i % 2]
        yield txn_id, json.dumps({"event": kind, "txn_id": txn_id})


def test_a_stalled_aggregator_pauses_the_readers(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    prefetch = {"queued.max.messages.kbytes": 1024, "queued.min.messages": 1000}
    daemon = start(
        name, limits={"queue_batches": 8, "batch_records": 500, "lingering": 0}, kafka={"client": prefetch}
    ).await_ready()
    pids = daemon.pids()
    readers = [pids["monitor-0"], pids["validator-0"]]
    held = [resident_bytes(pid) for pid in readers]
    os.kill(pids["aggregator"], signal.SIGSTOP)
    try:
        publish(broker.bootstrap, name, flood())
        daemon.await_that(lambda: "monitor-0" in paused(daemon), "the monitor pauses")
        grown = [resident_bytes(pid) - before for pid, before in zip(readers, held, strict=True)]
    finally:
        os.kill(pids["aggregator"], signal.SIGCONT)
    assert max(grown) < 16 * MEGABYTE
    await_counted(daemon, name, Written(FLOOD, FLOOD, FLOOD // 2, 0))
    assert daemon.pids() == pids
    assert daemon.stop() == 0


def paused(daemon: Daemon) -> set[str]:
    """The readers whose last word is that they pause."""
    words = {e["process"]: e["event"] for e in daemon.log() if e["event"] in ("consumer_paused", "consumer_resumed")}
    return {reader for reader, word in words.items() if word == "consumer_paused"}


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_it_stops_in_order_in_the_middle_of_a_backlog(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    publish(broker.bootstrap, name, flood())
    daemon = start(name, limits={"queue_batches": 2, "batch_records": 20, "lingering": 0})
    read = "txninsight_records_total"
    daemon.await_that(lambda: daemon.status("/readyz") != 0 and daemon.total(read, view="monitor") > 0, "it reads")
    assert daemon.total(read, view="monitor") < FLOOD
    assert daemon.stop() == 0
    assert daemon.log()[-1]["event"] == "daemon_stopped"
    assert daemon.log()[-1]["orderly"] is True
    assert daemon.pids() == {}


def test_nothing_outlives_a_killed_parent(broker: Broker, topic: MakeTopic, start: Start) -> None:
    name = topic(2)
    daemon = start(name).await_ready()
    publish(broker.bootstrap, name, [("a", '{"event": "transaction_open", "txn_id": "a"}')])
    assert daemon.process is not None
    pids = daemon.pids()
    assert set(pids) == {"aggregator", "monitor-0", "validator-0"}
    daemon.process.kill()
    daemon.process.wait()
    daemon.await_gone(pids.values())
