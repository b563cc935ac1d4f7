"""What partitions cost in which nothing is written: the daemon beside idle topics, process by process.

    .venv/bin/python -m tests.bench.partitions                      1, 1,000 and 5,000 partitions, and 1,000 topics
    .venv/bin/python -m tests.bench.partitions --cases 1000 --idle-s 10

Each case has a daemon with the default configuration. Measured are the time from its start until it is ready, the CPU
time of each of its processes while nothing is written, as a share of one core, how long `/metrics` and
`/api/v1/partitions` take, and its stop. The broker's own CPU time is not counted. Figures are in
.run/bench-partitions.json.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from tests.bench import report
from tests.harness.daemon import Daemon
from tests.harness.kafka import ask_until
from tests.harness.paths import RUN_DIR
from tests.harness.processes import CpuTime
from tests.harness.waiting import HANG_GUARD_S
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, admin, create_topics
from txninsightd.tools.stack.jars import ensure_jars
from txninsightd.vocabulary import PartitionRef

MARKERS = "<!-- bench partitions: begin -->", "<!-- bench partitions: end -->"
PROCESSES = ("parent", "aggregator", "monitor-0", "validator-0")
ASKED_TIMES = 5
CREATED_AT_ONCE = 250


class Case(NamedTuple):
    """Idle topics, each with so many partitions."""

    topics: int
    partitions: int

    @property
    def name(self) -> str:
        return f"idle-{self.topics}x{self.partitions}"

    @property
    def names(self) -> list[str]:
        return [f"{self.name}-{i}" for i in range(self.topics)]


CASES = {"1": Case(1, 1), "1000": Case(1, 1000), "1000x1": Case(1000, 1), "5000": Case(1, 5000)}


def main() -> int:
    """Entry point; gives the exit code."""
    options = _parser().parse_args()
    with TemporaryDirectory() as directory:
        port, controller_port = machine.free_ports(2)
        libs = ensure_jars(RUN_DIR / "kafka")
        # A broker that makes 5,000 partitions on a busy machine is fenced after 9 s, and leads none of them then.
        patient = {"broker.session.timeout.ms": "60000"}
        with Broker(Path(directory), libs, port, controller_port, heap="1g", properties=patient) as broker:
            found = [measure(broker, CASES[name], options.idle_s) for name in options.cases]
    facts = report.facts()
    figures = {"facts": facts, "cases": found}
    report.publish(figures, markdown(found, facts), options.json, MARKERS if options.docs else None)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.partitions", description="Measure idle partitions.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--idle-s", type=float, default=30.0, help="how long each case is watched (30)")
    parser.add_argument("--json", type=Path, default=RUN_DIR / "bench-partitions.json", help="where the figures go")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    return parser


def measure(broker: Broker, case: Case, idle_s: float) -> dict[str, Any]:
    """One daemon's life beside the topics of one case."""
    for i in range(0, case.topics, CREATED_AT_ONCE):
        create_topics(broker.bootstrap, dict.fromkeys(case.names[i : i + CREATED_AT_ONCE], case.partitions))
    refs = [PartitionRef(name, partition) for name in case.names for partition in range(case.partitions)]
    await_led(broker, refs)
    with TemporaryDirectory() as directory:
        # The topics of the cases before are there too, but no entry of the configuration covers them.
        sections: dict[str, Any] = {"topics": [{"pattern": f"{case.name}-.*"}], "discovery": {"every_s": 2}}
        started = time.monotonic()
        daemon = Daemon(Path(directory), broker.bootstrap, sections).start()
        try:
            daemon.await_ready()
            ready_s = time.monotonic() - started
            time.sleep(min(idle_s, 10.0))  # let it come to rest
            cpu = _idle_cpu(daemon, idle_s)
            asked = {path: _asked_s(daemon, path) for path in ("/metrics", "/api/v1/partitions")}
            stopping = time.monotonic()
            exit_code = daemon.stop()
            stop_s = time.monotonic() - stopping
        finally:
            daemon.end()
    return {
        "case": case.name,
        "topics": case.topics,
        "partitions": case.partitions,
        "ready_s": ready_s,
        "cpu_percent": cpu,
        "asked_s": asked,
        "stop_s": stop_s,
        "exit_code": exit_code,
    }


def await_led(broker: Broker, refs: list[PartitionRef]) -> None:
    """Return once the broker leads all partitions: it says so earlier, and then makes their logs."""
    wanted = {TopicPartition(ref.topic, ref.partition): OffsetSpec.latest() for ref in refs}
    client = admin(broker.bootstrap)

    def leads() -> bool:
        client.list_topics(timeout=HANG_GUARD_S)
        return not any(future.exception() for future in client.list_offsets(wanted).values())

    ask_until(leads, f"the leader of {len(refs)} partitions")


def _idle_cpu(daemon: Daemon, idle_s: float) -> dict[str, float]:
    """By process, percent of one core."""
    cpu, began = CpuTime(daemon.all_pids()), time.monotonic()
    time.sleep(idle_s)
    passed_s = time.monotonic() - began
    return {name: 100 * cpu_s / passed_s for name, cpu_s in cpu.used().items()}


def _asked_s(daemon: Daemon, path: str) -> float:
    """The median of a few answers, in seconds."""
    times = []
    for _ in range(ASKED_TIMES):
        began = time.monotonic()
        daemon.read(path)
        times.append(time.monotonic() - began)
    return sorted(times)[ASKED_TIMES // 2]


def markdown(found: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The table for docs/performance.md."""
    lines = [
        f"Measured {facts['date'][:10]} at {facts['commit']}: {facts['cpu']}, {facts['cores']} cores shared with the "
        f"broker, librdkafka {facts['librdkafka']}, Kafka {facts['kafka']}. Load average at the end: "
        f"{facts['load_average']:.1f}.",
        "",
        "| topics x partitions | parent | aggregator | monitor | validator | **sum** | ready | `/metrics` "
        "| `/api/v1/partitions` | stop |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for each in found:
        cpu = each["cpu_percent"]
        shares = " | ".join(f"{cpu[name]:.1f}%" for name in PROCESSES)
        asked = " | ".join(f"{1000 * seconds:.0f} ms" for seconds in each["asked_s"].values())
        lines.append(
            f"| {each['topics']:,} x {each['partitions']:,} | {shares} | **{sum(cpu.values()):.1f}%** "
            f"| {each['ready_s']:.1f} s | {asked} | {each['stop_s']:.1f} s, exit {each['exit_code']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
