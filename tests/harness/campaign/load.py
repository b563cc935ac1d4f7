"""The load: rounds of simulated traffic (load.yaml), replayed one after the other until told to stop; and its truth.

Each round has a seed of its own, so its transactions are its own, and what is true of all is the sum of what is true of
each. The next round begins when the one before has played its time, also when that one is held up by a broker that does
not answer: then they overlap.
"""

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from confluent_kafka import KafkaException

from tests.harness.paths import PROGRAMS
from tests.harness.waiting import await_that
from txninsightd.tools.stack.broker import admin

SCENARIO = Path(__file__).with_name("load.yaml")
MOST_AT_ONCE = 3
HANG_GUARD_S = 600.0
ANSWER_TIMEOUT_S = 5.0
REFUSED = 2
"""The replayer's exit code when it has published nothing: a broker of many partitions is long in coming back."""
MOST_REFUSALS = 5

UNSPECIFIED = "unspecified"

Labels = tuple[str, ...]
Counts = dict[str, Counter[Labels]]
"""By metric, and by the values of its labels in the order of LABELS."""

LABELS = {
    "txninsight_transactions_opened_total": ("txn_type",),
    "txninsight_transactions_finished_total": ("txn_type", "outcome", "status"),
    "txninsight_stuck_total": ("txn_type", "cause"),
    "txninsight_anomalies_total": ("kind",),
    "txninsight_records_total": ("view", "topic", "result"),
    "txninsight_transaction_duration_seconds_count": ("txn_type",),
    "txninsight_step_duration_seconds_count": ("txn_type", "step"),
    "txninsight_step_gap_seconds_count": ("txn_type", "step"),
    "txninsight_commit_delay_seconds_count": ("txn_type",),
}
"""The counters that the log determines, and their labels."""


class LoadBroken(Exception):
    """What was written is not what was planned, so nothing can be said of the daemon.

    A producer gave up a Kafka transaction: librdkafka does, now and then, when a broker is killed under it ("skipped
    sequence numbers").
    """


class Truth(NamedTuple):
    """What must be so in the end: of each transaction, and in each counter but for the validator's records.

    `aborted_share`: of the Kafka transactions that were begun, how many were aborted. `judged_after_s`: so long after
    the last record is it true.
    """

    transactions: dict[str, dict[str, Any]]
    counts: Counts
    aborted_share: float
    judged_after_s: float


class Round:
    """One seed: its files, and the replayer that plays it."""

    def __init__(self, directory: Path, bootstrap: str) -> None:
        self.directory = directory
        self._bootstrap = bootstrap
        self.play()

    def play(self) -> None:
        """Begin, or begin again what was refused: then nothing of it was published."""
        command: list[str | Path] = [PROGRAMS / "txninsight-replay", self.directory / "events.jsonl", "--strict"]
        command += ["--bootstrap", self._bootstrap]
        with self.output.open("wb") as output:
            self.replay = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    @property
    def output(self) -> Path:
        """What the replayer says."""
        return self.directory / "replay.out"


class Load:
    """Runs beside everything else, in `directory`. `seed`: of the first round."""

    def __init__(self, directory: Path, bootstrap: str, seed: int) -> None:
        self._directory = directory
        self._bootstrap = bootstrap
        self._seed = seed
        self._admin = admin(bootstrap)
        self._rounds: list[Round] = []
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._next = self._simulate(0)

    # --- Before it begins ---------------------------------------------------------------------------------------------

    def sections(self) -> dict[str, Any]:
        """Those of the daemon's config that the truth takes as set."""
        sections: dict[str, Any] = yaml.safe_load((self._next / "sections.yaml").read_text())
        return sections

    def topics(self) -> dict[str, int]:
        """The topics and their numbers of partitions."""
        with (self._next / "events.jsonl").open() as events:
            header = json.loads(events.readline())["header"]
        return {name: topic["partitions"] for name, topic in header["topics"].items()}

    # --- While it runs ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the first round."""
        self._thread.start()

    def stop(self) -> None:
        """Let what was begun come to its end. Raises what went wrong."""
        self._stopping.set()
        self._thread.join(HANG_GUARD_S)
        assert not self._thread.is_alive(), "the load does not end"
        self.require_sound()

    def require_sound(self) -> None:
        """Raises what went wrong, if something did."""
        if self._failure is not None:
            raise self._failure

    def kill(self) -> None:
        """End it, whatever happened."""
        self._stopping.set()
        for each in self._rounds:
            each.replay.kill()

    def truth(self) -> Truth:
        """What is true of all rounds together; also written to truth.jsonl."""
        lines = [line for each in self._rounds for line in (each.directory / "truth.jsonl").read_text().splitlines()]
        (self._directory / "truth.jsonl").write_text("\n".join([*lines, ""]))
        rows = [json.loads(line) for line in lines]
        totals = [row["totals"] for row in rows if "totals" in row]
        kafka = sum((Counter(each["kafka"]) for each in totals), Counter[str]())
        scenario = yaml.safe_load(SCENARIO.read_text())
        return Truth(
            {row["txn_id"]: row for row in rows if "totals" not in row},
            _counts(totals),
            kafka["abort"] / kafka["begin"],
            scenario["observe_after_s"],
        )

    # --- The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            duration_s = yaml.safe_load(SCENARIO.read_text())["duration_s"]
            while not self._stopping.is_set():
                self._await_broker()
                self._rounds.append(Round(self._next, self._bootstrap))
                self._next = self._simulate(len(self._rounds))
                self._stopping.wait(duration_s)
                if len(self._rounds) >= MOST_AT_ONCE:
                    self._await_end(self._rounds[-MOST_AT_ONCE])
            for each in self._rounds:
                self._await_end(each)
        except BaseException as failure:
            self._failure = failure

    def _await_broker(self) -> None:
        await_that(self._broker_answers, "the broker answers", HANG_GUARD_S)

    def _broker_answers(self) -> bool:
        try:
            return bool(self._admin.list_topics(timeout=ANSWER_TIMEOUT_S).brokers)
        except KafkaException:
            return False

    def _simulate(self, number: int) -> Path:
        directory = self._directory / f"round-{number}"
        command: list[str | Path] = [PROGRAMS / "txninsight-sim", SCENARIO, "--seed", str(self._seed + number)]
        outputs: list[str | Path] = ["--out", directory, "--daemon-config", directory / "sections.yaml"]
        subprocess.run([*command, *outputs, "--quiet"], check=True)
        return directory

    def _await_end(self, played: Round) -> None:
        code = played.replay.wait(HANG_GUARD_S)
        for _ in range(MOST_REFUSALS):
            if code != REFUSED:
                break
            self._await_broker()
            played.play()
            code = played.replay.wait(HANG_GUARD_S)
        if code != 0:
            raise LoadBroken(f"a replay ended with {code}: {played.output.read_text()[-3000:]}")


def _counts(totals: Iterable[dict[str, Any]]) -> Counts:
    """What the counters must show, by the totals of the rounds."""
    counts: Counts = {name: Counter() for name in LABELS}
    rows = {
        "txninsight_transactions_opened_total": "opened",
        "txninsight_transactions_finished_total": "finished",
        "txninsight_stuck_total": "stuck_total",
        "txninsight_transaction_duration_seconds_count": "durations",
        "txninsight_step_duration_seconds_count": "step_durations",
        "txninsight_step_gap_seconds_count": "step_gaps",
    }
    for each in totals:
        assert not each["borderline"]
        assert not each["late_events"]
        for name, key in rows.items():
            for row in each[key]:
                counts[name][tuple(row[label] or UNSPECIFIED for label in LABELS[name])] += row["count"]
        for kind, count in each["anomalies"].items():
            counts["txninsight_anomalies_total"][kind,] += count
        for topic, by_result in each["records"].items():
            for result, count in by_result.items():
                counts["txninsight_records_total"]["monitor", topic, result] += count
        for row in each["finished"]:
            if row["outcome"] == "closed":
                counts["txninsight_commit_delay_seconds_count"][row["txn_type"],] += row["count"]
    return counts
