"""A real Kafka broker as a local process: format, start, wait until ready, stop, kill, restart.

`make up` lets supervisor run `Broker.command`; the tests call `start`. It is one node in combined mode, broker and
controller, with little memory and few internal partitions. It does not create topics automatically. It aborts a Kafka
transaction about a second after its time-out. Ready means that the broker answered an admin client; no code here sleeps
and hopes.

The process that called `start` owns the broker: if it dies, the kernel kills the broker as well. For that, call `start`
from the main thread.
"""

import base64
import logging
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata
from confluent_kafka.cimpl import NewTopic

from txninsightd.tools.stack import StackError, machine

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0

_quiet = logging.getLogger("txninsightd.tools.stack.kafka-client")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Broker:
    """A broker that keeps its files in `data_dir` and listens on the loopback interface.

    `libs` is the folder of `jars.ensure_jars`. `properties` are added to server.properties and override the defaults.
    Brokers of one cluster share `cluster_id`. The data survives `stop` and `kill`: the next `start` uses it, on the
    same port.
    """

    def __init__(
        self,
        data_dir: Path,
        libs: Path,
        port: int,
        controller_port: int,
        *,
        heap: str = "512m",
        properties: Mapping[str, str] | None = None,
        cluster_id: str | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.libs = libs.absolute()
        self.port = port
        self.controller_port = controller_port
        self.heap = heap
        self.properties = dict(properties or {})
        self.cluster_id = cluster_id or new_cluster_id()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """host:port, for bootstrap.servers."""
        return f"{machine.HOST}:{self.port}"

    @property
    def properties_file(self) -> Path:
        """The server.properties that `prepare` writes."""
        return self.data_dir / "server.properties"

    @property
    def log_dir(self) -> Path:
        """Kafka's log.dirs: a folder <topic>-<partition> for each partition."""
        return self.data_dir / "log"

    @property
    def output(self) -> Path:
        """The broker's stdout and stderr: warnings and errors."""
        return self.data_dir / "broker.out"

    @property
    def command(self) -> list[str]:
        """The command line that runs the broker in the foreground, once prepared."""
        return [*self._java(f"-Xmx{self.heap}"), "kafka.Kafka", str(self.properties_file)]

    @property
    def pid(self) -> int:
        """The process id of a broker from `start`, for signals such as SIGSTOP."""
        if self._process is None:
            raise StackError("the broker is not running")
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process from `start` is alive."""
        return self._process is not None and self._process.poll() is None

    def prepare(self) -> None:
        """Write server.properties, and format the data directory on first use."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.properties_file.write_text("".join(f"{key}={value}\n" for key, value in self._server_properties().items()))
        if not (self.log_dir / "meta.properties").exists():
            self.run_tool(
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={self.cluster_id}",
                f"--config={self.properties_file}",
            )

    def start(self) -> None:
        """Prepare, start, and return once the broker answers."""
        self.launch()
        try:
            self.await_ready()
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Prepare and start, without waiting until it answers."""
        if self.is_running():
            raise StackError(f"the broker at {self.bootstrap} is already running")
        self.prepare()
        kill_with_parent = ["setpriv", "--pdeathsig", "KILL", "--"]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*kill_with_parent, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.data_dir,
            )

    def await_ready(self, require_alive: Callable[[], None] | None = None, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once the broker answers; raise StackError if its process ends first, or after the time-out.

        `require_alive` is for a broker that another process started: it raises when that broker has ended.
        """
        require_alive = require_alive or self._require_alive
        client = admin(self.bootstrap)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            require_alive()
            if _answers(client):
                return
        raise StackError(
            f"the broker at {self.bootstrap} did not answer within {timeout_s:.0f} s:\n{self._last_output()}"
        )

    def stop(self) -> None:
        """Stop in order and wait (killed after `STOP_TIMEOUT_S`); does nothing when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill the broker as a power cut would, and wait for its end."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop in order and start again, with the same data and ports."""
        self.stop()
        self.start()

    def run_tool(self, main_class: str, *arguments: str) -> str:
        """Run one of Kafka's command-line tools and return its output; StackError when it fails."""
        command = [*self._java("-Xmx256m"), main_class, *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StackError(f"{main_class} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _java(self, heap: str) -> list[str]:
        # Only the fast compiler and the serial collector: the broker has little work, and should start fast in little
        # memory.
        flags = [heap, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return ["java", *flags, "-cp", f"{self.libs}/*"]

    def _server_properties(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{machine.HOST}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{machine.HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.log_dir),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "3",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            "log.cleaner.dedupe.buffer.size": "8388608",
            **self.properties,
        }

    def _require_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise StackError(f"the broker ended with code {self._process.returncode}:\n{self._last_output()}")

    def _last_output(self) -> str:
        return machine.last_lines(self.output.read_text(errors="replace")) if self.output.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def admin(bootstrap: str) -> AdminClient:
    """An admin client that does not log while the broker is not up yet."""
    reconnect: dict[str, str | int | float | bool] = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 250}
    return AdminClient({"bootstrap.servers": bootstrap, **reconnect}, logger=_quiet)


def create_topics(bootstrap: str, partitions: Mapping[str, int], config: Mapping[str, str] | None = None) -> None:
    """Create the topics (name -> number of partitions) and return once they are writable; StackError if one fails.

    `config` has topic properties such as cleanup.policy, for all of them.
    """
    client = admin(bootstrap)
    new = [NewTopic(name, count, config=dict(config or {})) for name, count in partitions.items()]
    for name, future in client.create_topics(new).items():
        try:
            future.result()
        except KafkaException as error:
            raise StackError(f"topic {name} could not be created: {error.args[0].str()}") from error
    _await_leaders(client, partitions)


def _await_leaders(client: AdminClient, partitions: Mapping[str, int]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    missing = set(partitions)
    while missing:
        if time.monotonic() > deadline:
            raise StackError(
                f"topics without a leader {READY_TIMEOUT_S:.0f} s after they were created: {sorted(missing)}"
            )
        cluster = client.list_topics(timeout=10)
        missing = {name for name in missing if _led_partitions(cluster, name) < partitions[name]}


def _led_partitions(cluster: ClusterMetadata, topic: str) -> int:
    """How many partitions of a topic have a live leader."""
    if topic not in cluster.topics:
        return 0
    return sum(partition.leader in cluster.brokers for partition in cluster.topics[topic].partitions.values())


def _answers(client: AdminClient) -> bool:
    try:
        return bool(client.list_topics(timeout=1.0).brokers)
    except KafkaException:
        return False


def new_cluster_id() -> str:
    """A new, unique cluster id."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
