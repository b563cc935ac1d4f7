"""A real daemon whose log goes to a pipe that is not read: it reads records, is ready, and logs again later."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.harness.fixtures import MakeTopic
from tests.harness.json_log import parse_lines
from tests.harness.kafka import publish
from tests.harness.pipes import drained, fill
from txninsightd.tools.stack.broker import Broker


@pytest.fixture
def daemon(broker: Broker, topic: MakeTopic, tmp_path: Path) -> Iterator[Daemon]:
    """Not started."""
    made = Daemon(tmp_path, broker.bootstrap, {"topics": [topic()]})
    yield made
    made.end()


def test_rejected_records_do_not_wait_for_the_log(daemon: Daemon, broker: Broker) -> None:
    reader, writer = os.pipe()
    fill(writer)
    daemon.launch(stdout=writer, stderr=writer)
    daemon.await_ready()
    (name,) = {p["topic"] for p in daemon.get("/api/v1/partitions")}
    opened = json.dumps({"event": "transaction_open", "txn_id": "t1"})
    publish(broker.bootstrap, name, [("a", "no json"), ("b", opened), ("c", "nor this")])
    daemon.await_total(2, "txninsight_records_total", view="monitor", result="malformed")
    daemon.await_that(lambda: daemon.transactions().keys() == {"t1"}, "the good record is shown")
    # It is ready, and says so.
    daemon.await_ready()
    assert "log lines were dropped in the last minute (Resource temporarily unavailable)" in daemon.notes()[0]
    assert daemon.total("txninsight_log_lines_dropped_total", process="monitor-0") > 0
    drained(reader)
    assert daemon.stop() == 0
    lines = parse_lines(drained(reader).splitlines())
    assert any(line["lines"] > 0 for line in lines if line["event"] == "log_lines_dropped")
    assert lines[-1]["event"] == "daemon_stopped"
    os.close(reader)
    os.close(writer)
