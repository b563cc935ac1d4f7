"""The one fault of older clients that would make verdicts false, shown on one of them and absent from ours.

librdkafka 2.2.0 to 2.13.0 moved the position past an end of partition that `consume()` handed out. The end carries the
last stable offset; a position beyond it says that the first record of an open transaction was passed without being
delivered: that it was aborted. The same check runs on the installed client and on an older one from the package
registry, kept in `.run/`: a check that could not fail would prove nothing.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.harness.fixtures import MakeTopic
from tests.harness.kafka import TransactionalWriter
from tests.harness.paths import ROOT
from tests.harness.waiting import HANG_GUARD_S
from txninsightd.tools.stack.broker import Broker

OLD_VERSION = "2.13.0"
INSTALL_WITHIN_S = 600

WHERE_A_CLIENT_STANDS = """
import json, sys, time
from confluent_kafka import Consumer, KafkaError, TopicPartition, version

bootstrap, topic, give_up_after_s = sys.argv[1:]
consumer = Consumer({
    "bootstrap.servers": bootstrap, "group.id": "position", "isolation.level": "read_committed",
    "enable.partition.eof": True, "auto.offset.reset": "error", "enable.auto.commit": False,
})
consumer.assign([TopicPartition(topic, 0, 0)])
delivered, end, deadline = [], None, time.monotonic() + float(give_up_after_s)
while end is None and time.monotonic() < deadline:
    for message in consumer.consume(100, 0.1):
        if message.error() is None:
            delivered.append(message.offset())
        elif message.error().code() == KafkaError._PARTITION_EOF:
            end = message.offset()
position = consumer.position([TopicPartition(topic, 0)])[0].offset
print(json.dumps({"version": str(version()), "delivered": delivered, "end": end, "position": position}))
consumer.close()
"""


class Stand(NamedTuple):
    """Where a client stood once `consume()` had given the end of the partition."""

    version: str
    delivered: list[int]
    end: int
    position: int

    @property
    def moved_past_the_end(self) -> bool:
        return self.position > self.end


def where_it_stands(python: Path | str, broker: Broker, topic: str) -> Stand:
    """`python` is an interpreter with some confluent-kafka. `topic`: a committed record, its marker, an open record."""
    command = [str(python), "-I", "-c", WHERE_A_CLIENT_STANDS, broker.bootstrap, topic, str(HANG_GUARD_S)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_GUARD_S, check=False)
    assert run.returncode == 0, f"{python} cannot run the check:\n{run.stdout}{run.stderr}"
    stand = Stand(**json.loads(run.stdout))
    assert (stand.delivered, stand.end) == ([0], 2), stand
    return stand


def interpreter_with(client_version: str) -> Path:
    """A virtual environment's interpreter that has this confluent-kafka; made once, then kept in `.run/`."""
    home = ROOT / ".run" / "old-clients" / f"confluent-kafka-{client_version}-python-{sys.version_info.minor}"
    python = home / "bin" / "python"
    if python.exists():
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home.parent) as making:
        venv.create(Path(making, "env"), symlinks=True)
        run_pip(Path(making, "env"), client_version)
        Path(making, "env").replace(home)
    return python


def run_pip(home: Path, client_version: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(home), "--disable-pip-version-check"]
    wanted = ["install", "--quiet", "--no-deps", "--only-binary=:all:", f"confluent-kafka=={client_version}"]
    run = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False)
    assert run.returncode == 0, (
        f"confluent-kafka {client_version}, which this test needs to show that it can fail, could not be installed. "
        f"Let pip reach its package index, then run the test again. pip said:\n{run.stdout}{run.stderr}"
    )


def test_position_never_passes_an_end_event_as_it_did_in_an_older_client(broker: Broker, topic: MakeTopic) -> None:
    name, producer = topic(), TransactionalWriter(broker)
    producer.committed(name, "committed")
    producer.begin()
    producer.write(name, "open")
    ours = where_it_stands(sys.executable, broker, name)
    assert not ours.moved_past_the_end, f"confluent-kafka {ours.version} gives false verdicts"
    old = where_it_stands(interpreter_with(OLD_VERSION), broker, name)
    assert OLD_VERSION in old.version
    assert old.moved_past_the_end
    producer.abort()
