"""`make demo`: a separate stack, simulated traffic replayed into it in real time, and the live view.

The simulator writes the traffic and its truth: what the daemon must report for every transaction `observe_after_s` (of
the scenario) after the last event. So the demo ends with a verdict. Its exit code is 1 if the daemon, the replay or a
single transaction is wrong, or if a transaction became stuck and its page or its resolve does not arrive. Kafka starts
empty each time. At the end, also after Ctrl-C, the demo stops everything, unless DEMO_KEEP=1.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from shutil import rmtree

import msgspec
from rich.console import Console

from txninsightd.tools.receivers import PAGERDUTY, Message, read_record
from txninsightd.tools.simulation.scenario import Scenario
from txninsightd.tools.stack import StackError
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import Program, Supervisor
from txninsightd.tools.stack.up import DAEMON, down, scenario_of, up, urls
from txninsightd.tools.watch import Client, LiveView, TransactionSummary, alerts_panel, counts_table, stuck_panel, watch
from txninsightd.visible_text import visible

REPLAY = "replay"
DEFAULT_SECONDS = 15
WRONG_SHOWN = 10
MOST_COMPARED = 10_000
"""The maximum of the daemon's API."""
ANSWER_WITHIN_S = 30.0
"""How long the demo retries to fetch the final listing. The truth holds for one moment only."""
ALERTS_WITHIN_S = 900.0
ALERTS_LATE_S = 60.0
"""How long after the last event a page and its resolve may come with the shipped rules, plus a reserve."""


class Truth(msgspec.Struct, frozen=True):
    """The fields of a line of truth.jsonl that the demo compares. The last line, the totals, has no txn_id."""

    txn_id: str | None = None
    state: str | None = None
    stuck: str | None = None
    reason: str = ""


def demo(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the demo; returns the exit code. DEMO_SECONDS and DEMO_KEEP come from `environment`."""
    keep = environment.get("DEMO_KEEP", "0") == "1"
    seconds = _seconds(environment)
    # Check first: `simulate` empties the data directory of a running demo.
    _refuse_second_stack(settings)
    simulate(settings)
    try:
        return _run(settings, seconds)
    finally:
        if keep:
            print(f"left running:\n{urls(settings)}\nwatch it with make watch, stop it with make down")
        else:
            print("stopping ...", flush=True)
            down(settings)
            print(f"all stopped; logs are in {settings.log_dir}. DEMO_KEEP=1 leaves the stack running.")


def simulate(settings: Settings) -> None:
    """Empty the demo's directory and let txninsight-sim write the scenario's events and truth into it.

    Raises StackError when that fails or yields more transactions than the demo can compare.
    """
    rmtree(settings.demo_dir, ignore_errors=True)
    settings.demo_dir.mkdir(parents=True)
    command = [_installed("txninsight-sim"), str(settings.scenario), "--out", str(settings.demo_dir)]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise StackError(f"the simulation failed: {' '.join(command)}")
    count = len(read_truth(settings.demo_dir / "truth.jsonl"))
    if count > MOST_COMPARED:
        raise StackError(
            f"{settings.scenario} makes {count} transactions, and the demo can compare {MOST_COMPARED} at most: "
            "lower the scenario's key transactions, or choose another scenario with SCENARIO"
        )


def read_truth(path: Path) -> dict[str, Truth]:
    """txn_id -> its expected result."""
    decoder = msgspec.json.Decoder(Truth)
    lines = (decoder.decode(line) for line in path.read_bytes().splitlines())
    return {truth.txn_id: truth for truth in lines if truth.txn_id is not None}


def differences(truth: Mapping[str, Truth], reported: Mapping[str, TransactionSummary]) -> list[str]:
    """A sentence for each transaction with a state that differs from the truth."""
    labels = {txn_id: _reported_label(reported.get(txn_id)) for txn_id in truth}
    return [
        f"{txn_id}: should be {_label(expected)} ({expected.reason}), the daemon says {labels[txn_id]}"
        for txn_id, expected in truth.items()
        if labels[txn_id] != _label(expected)
    ]


def missing_alerts(truth: Mapping[str, Truth], alerts: Sequence[Message]) -> str | None:
    """The missing alerts, in words: a stuck transaction must page, and its page must be resolved."""
    if not any(expected.stuck for expected in truth.values()):
        return None
    pages = [message.is_resolved for message in alerts if message.receiver == PAGERDUTY]
    missing = [word for word, is_there in (("page", False in pages), ("resolve", True in pages)) if not is_there]
    return f"a transaction was stuck, and no {' and no '.join(missing)} arrived" if missing else None


class DemoMonitor:
    """Decides when the demo is done: `seconds` after the replay, once results are compared and alerts have arrived."""

    def __init__(self, settings: Settings, scenario: Scenario, supervisor: Supervisor, seconds: int) -> None:
        self.truth = read_truth(settings.demo_dir / "truth.jsonl")
        self.wrong: list[str] | None = None
        self.record = settings.record
        self._client = Client(settings.url)
        self._supervisor = supervisor
        self._daemon_pid = supervisor.pid(DAEMON)
        self._observe_after_s = scenario.observe_after_s
        self._seconds = seconds
        self._alerts_within_s = ALERTS_LATE_S + ALERTS_WITHIN_S / settings.speedup
        self._replayed_at: float | None = None

    def is_done(self) -> bool:
        """Call this about once a second. Raises StackError when the daemon or the replay failed."""
        # Supervisor restarts it at once, so its state alone would look healthy.
        if self._supervisor.pid(DAEMON) != self._daemon_pid:
            raise StackError(f"the daemon died, see {self._supervisor.log_file(DAEMON)}")
        if self._replayed_at is None:
            self._note_replay()
            return False
        since_s = time.monotonic() - self._replayed_at
        if self.wrong is None and since_s >= self._observe_after_s:
            self._compare(since_s - self._observe_after_s)
        alerts_came = since_s >= self._alerts_within_s or missing_alerts(self.truth, read_record(self.record)) is None
        return self.wrong is not None and since_s >= self._seconds and alerts_came

    def _compare(self, late_s: float) -> None:
        try:
            listed = self._client.list(f"limit={MOST_COMPARED}")
        except (OSError, HTTPException) as error:
            if late_s < ANSWER_WITHIN_S:
                return
            raise StackError(f"the daemon does not list its transactions: {error}") from error
        self.wrong = differences(self.truth, {txn.txn_id: txn for txn in listed})

    def _note_replay(self) -> None:
        if self._supervisor.state(REPLAY) in ("RUNNING", "STARTING"):
            return
        if self._supervisor.exit_code(REPLAY) != 0:
            raise StackError(f"the replay failed, see {self._supervisor.log_file(REPLAY)}")
        self._replayed_at = time.monotonic()


def _run(settings: Settings, seconds: int) -> int:
    console = Console()
    view = LiveView(settings.url, settings.record, _others(settings))
    supervisor = up(settings, _replay(settings))
    monitor = DemoMonitor(settings, scenario_of(settings.scenario), supervisor, seconds)
    supervisor.start(REPLAY)
    try:
        watch(Client(settings.url), view, console, monitor.is_done)
    finally:
        if view.snapshot is not None:
            console.print(counts_table(view.snapshot), stuck_panel(view.snapshot), alerts_panel(view.alerts))
    return _report(console, monitor)


def _report(console: Console, monitor: DemoMonitor) -> int:
    wrong = monitor.wrong or []
    agreed = len(monitor.truth) - len(wrong)
    console.print(f"The daemon agrees with the simulator on {agreed} of {len(monitor.truth)} transactions.")
    for line in wrong[:WRONG_SHOWN]:
        console.print(f"  {visible(line)}", markup=False, soft_wrap=True)
    alerts = read_record(monitor.record)
    console.print(summarize_alerts(alerts), soft_wrap=True, highlight=False)
    late = missing_alerts(monitor.truth, alerts)
    if late is not None:
        console.print(f"{late}: see the logs of prometheus and alertmanager", soft_wrap=True)
    return 1 if wrong or late else 0


def summarize_alerts(alerts: Sequence[Message]) -> str:
    """One sentence about the alerts that were sent."""
    counts = Counter((message.receiver, message.is_resolved) for message in alerts)
    parts = [
        f"{receiver} {counts[receiver, False]} that fired and {counts[receiver, True]} that were resolved"
        for receiver in sorted({message.receiver for message in alerts})
    ]
    return f"Alerts sent: {', '.join(parts) or 'none'}."


def _others(settings: Settings) -> str:
    """More addresses, for the view's last line."""
    grafana = [settings.grafana_url] if settings.has_grafana else []
    return "   ".join([f"{settings.prometheus_url}/alerts", f"{settings.alertmanager_url}/#/alerts", *grafana])


def _replay(settings: Settings) -> Program:
    events = settings.demo_dir / "events.jsonl"
    command = [_installed("txninsight-replay"), str(events), "--bootstrap", settings.bootstrap]
    return Program(name=REPLAY, command=command, is_service=False)


def _refuse_second_stack(settings: Settings) -> None:
    if Supervisor(settings.run_dir, settings.log_dir).is_up():
        raise StackError("a stack is already running: stop it with make down")


def _seconds(environment: Mapping[str, str]) -> int:
    text = environment.get("DEMO_SECONDS", str(DEFAULT_SECONDS))
    if not text.isdecimal():
        raise StackError(f"DEMO_SECONDS={text} is not a whole number of seconds")
    return int(text)


def _installed(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def _label(truth: Truth) -> str:
    return f"{truth.state}, stuck ({truth.stuck})" if truth.stuck else str(truth.state)


def _reported_label(txn: TransactionSummary | None) -> str:
    if txn is None:
        return "nothing"
    return f"{txn.state}, stuck ({txn.cause})" if txn.stuck else txn.state
