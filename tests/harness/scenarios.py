"""Runs a scenario as a user would: simulate, start the daemon, replay at the original speed, look at what it says."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.harness.daemon import Daemon
from tests.harness.metrics import Samples
from tests.harness.paths import PROGRAMS, ROOT
from txninsightd.tools.stack.broker import create_topics


class Run(NamedTuple):
    """What a scenario should have led to, and what the daemon said at the moment for which the truth was written."""

    truth: dict[str, dict[str, Any]]
    totals: dict[str, Any]
    replay_exit_code: int
    transactions: dict[str, dict[str, Any]]
    timelines: dict[str, list[dict[str, Any]]]
    partitions: list[dict[str, Any]]
    metrics: Samples
    daemon_exit_code: int


def run_scenario(name: str, directory: Path, bootstrap: str) -> Run:
    """One scenario from simulation to judgement, at the original speed."""
    scenario = ROOT / "scenarios" / f"{name}.yaml"
    subprocess.run(
        [
            PROGRAMS / "txninsight-sim",
            scenario,
            *("--out", directory, "--daemon-config", directory / "sections.yaml", "--quiet"),
        ],
        check=True,
    )
    events = directory / "events.jsonl"
    truth = [json.loads(line) for line in (directory / "truth.jsonl").read_text().splitlines()]
    totals = truth.pop()["totals"]
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    create_topics(bootstrap, {topic: t["partitions"] for topic, t in lines[0]["header"]["topics"].items()})
    last_at = max(line["at"] for line in lines[1:])
    daemon = Daemon(directory, bootstrap, yaml.safe_load((directory / "sections.yaml").read_text()))
    try:
        daemon.start().await_ready()
        replay = subprocess.run(
            [PROGRAMS / "txninsight-replay", events, "--bootstrap", bootstrap, "--strict"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        time.sleep(totals["judged_at"] - last_at)  # the truth is that of a moment
        transactions = daemon.transactions()
        metrics = daemon.metrics()
        timelines = {txn_id: daemon.transaction(txn_id)["timeline"] for txn_id in transactions}
        partitions = daemon.get("/api/v1/partitions")
        code = daemon.stop()
    finally:
        daemon.end()
    return Run(
        {t["txn_id"]: t for t in truth},
        totals,
        replay.returncode,
        transactions,
        timelines,
        partitions,
        metrics,
        code,
    )
