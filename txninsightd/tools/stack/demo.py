"""`make demo`: a stack of its own, simulated traffic replayed into it at its own pace, and the live view.

The simulator writes what shall happen and, beside it, the truth: what the daemon must say of every transaction once
the scenario's `observe_after_s` have passed since the last event. So the demo can close with a judgement, and its exit
code is 1 when the daemon, the replay or a single transaction is not as it should be, or when something became stuck and
the page, or the word that it is over, does not arrive. Kafka starts empty each time. All is stopped at the end, also
after Ctrl-C, unless DEMO_KEEP=1.
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
from txninsightd.tools.watch import Client, Picture, Seen, alerts_panel, counts_table, stuck_panel, watch

REPLAY = "replay"
DEFAULT_SECONDS = 15
WRONG_SHOWN = 10
MOST_JUDGED = 10_000
"""As many as the daemon's API lists at once."""
ANSWER_WITHIN_S = 30.0
"""How long it is asked for the final listing: the truth is that of one moment, and not of one much later."""
ALERTS_WITHIN_S = 900.0
ALERTS_LATE_S = 60.0
"""How long after the last event a page and its resolve may come, by the rules as they ship, and beside that."""


class Truth(msgspec.Struct, frozen=True):
    """What the demo compares of a line of truth.jsonl; its last line, the totals, has no txn_id."""

    txn_id: str | None = None
    state: str | None = None
    stuck: str | None = None
    reason: str = ""


def demo(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the demo to its end; returns the exit code. DEMO_SECONDS and DEMO_KEEP are read from `environment`."""
    keep = environment.get("DEMO_KEEP", "0") == "1"
    seconds = _seconds(environment)
    # Before `simulate`, which empties the directory that a running demo has its data in.
    _refuse_second_stack(settings)
    simulate(settings)
    try:
        return _play(settings, seconds)
    finally:
        if keep:
            print(f"left running:\n{urls(settings)}\nlook on with make watch, stop it with make down")
        else:
            print("stopping ...", flush=True)
            down(settings)
            print(f"all stopped; logs are in {settings.log_dir}. Next time DEMO_KEEP=1 leaves it running.")


def simulate(settings: Settings) -> None:
    """Empty the demo's directory and let txninsight-sim write the scenario's events and truth into it.

    Raises StackError when that fails, or makes more transactions than can be judged.
    """
    rmtree(settings.demo_dir, ignore_errors=True)
    settings.demo_dir.mkdir(parents=True)
    command = [_installed("txninsight-sim"), str(settings.scenario), "--out", str(settings.demo_dir)]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise StackError(f"the simulation failed: {' '.join(command)}")
    count = len(read_truth(settings.demo_dir / "truth.jsonl"))
    if count > MOST_JUDGED:
        raise StackError(
            f"{settings.scenario} makes {count} transactions, and the demo can judge {MOST_JUDGED} at most: "
            "give it a scenario with fewer, by its key transactions or in SCENARIO"
        )


def read_truth(path: Path) -> dict[str, Truth]:
    """txn_id -> what must become of it."""
    decoder = msgspec.json.Decoder(Truth)
    lines = (decoder.decode(line) for line in path.read_bytes().splitlines())
    return {truth.txn_id: truth for truth in lines if truth.txn_id is not None}


def judge(truth: Mapping[str, Truth], said: Mapping[str, Seen]) -> list[str]:
    """A sentence for each transaction of which the daemon says something else than the truth."""
    return [
        f"{txn_id}: should be {_label(wanted)} ({wanted.reason}), the daemon says {_said(said.get(txn_id))}"
        for txn_id, wanted in truth.items()
        if _said(said.get(txn_id)) != _label(wanted)
    ]


def lacking(truth: Mapping[str, Truth], alerts: Sequence[Message]) -> str | None:
    """What should have reached the receivers and did not, in words: who is stuck pages, and is resolved later."""
    if not any(wanted.stuck for wanted in truth.values()):
        return None
    pages = [message.is_resolved for message in alerts if message.receiver == PAGERDUTY]
    missing = [word for word, is_there in (("page", False in pages), ("resolve", True in pages)) if not is_there]
    return f"something was stuck, and no {' and no '.join(missing)} arrived" if missing else None


class Ending:
    """Says when the demo is over: some seconds after the replay ended, once the daemon was judged and alerts came."""

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

    def is_over(self) -> bool:
        """To be asked about once a second; raises StackError when the daemon or the replay failed."""
        # Supervisor starts it again at once: by its state alone it would look well.
        if self._supervisor.pid(DAEMON) != self._daemon_pid:
            raise StackError(f"the daemon died, see {self._supervisor.log_file(DAEMON)}")
        if self._replayed_at is None:
            self._note_replay()
            return False
        since_s = time.monotonic() - self._replayed_at
        if self.wrong is None and since_s >= self._observe_after_s:
            self._judge(since_s - self._observe_after_s)
        alerts_came = since_s >= self._alerts_within_s or lacking(self.truth, read_record(self.record)) is None
        return self.wrong is not None and since_s >= self._seconds and alerts_came

    def _judge(self, late_s: float) -> None:
        try:
            listed = self._client.list(f"limit={MOST_JUDGED}")
        except (OSError, HTTPException) as error:
            if late_s < ANSWER_WITHIN_S:
                return
            raise StackError(f"the daemon does not say what became of the transactions: {error}") from error
        self.wrong = judge(self.truth, {seen.txn_id: seen for seen in listed})

    def _note_replay(self) -> None:
        if self._supervisor.state(REPLAY) in ("RUNNING", "STARTING"):
            return
        if self._supervisor.exit_code(REPLAY) != 0:
            raise StackError(f"the replay failed, see {self._supervisor.log_file(REPLAY)}")
        self._replayed_at = time.monotonic()


def _play(settings: Settings, seconds: int) -> int:
    console = Console()
    picture = Picture(settings.url, settings.record, _others(settings))
    supervisor = up(settings, _replay(settings))
    ending = Ending(settings, scenario_of(settings.scenario), supervisor, seconds)
    supervisor.start(REPLAY)
    try:
        watch(Client(settings.url), picture, console, ending.is_over)
    finally:
        if picture.answers is not None:
            console.print(counts_table(picture.answers), stuck_panel(picture.answers), alerts_panel(picture.alerts))
    return _report(console, ending)


def _report(console: Console, ending: Ending) -> int:
    wrong = ending.wrong or []
    agreed = len(ending.truth) - len(wrong)
    console.print(f"The daemon agrees with the simulator on {agreed} of {len(ending.truth)} transactions.")
    for line in wrong[:WRONG_SHOWN]:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    alerts = read_record(ending.record)
    console.print(tell(alerts), soft_wrap=True, highlight=False)
    late = lacking(ending.truth, alerts)
    if late is not None:
        console.print(f"{late}: see the logs of prometheus and alertmanager", soft_wrap=True)
    return 1 if wrong or late else 0


def tell(alerts: Sequence[Message]) -> str:
    """What people would have been sent, in one sentence."""
    counts = Counter((message.receiver, message.is_resolved) for message in alerts)
    told = [
        f"{receiver} {counts[receiver, False]} that fired and {counts[receiver, True]} that were resolved"
        for receiver in sorted({message.receiver for message in alerts})
    ]
    return f"Alerts sent: {', '.join(told) or 'none'}."


def _others(settings: Settings) -> str:
    """Where else to look, for the view's last line."""
    grafana = [settings.grafana_url] if settings.has_grafana else []
    return "   ".join([f"{settings.prometheus_url}/alerts", f"{settings.alertmanager_url}/#/alerts", *grafana])


def _replay(settings: Settings) -> Program:
    events = settings.demo_dir / "events.jsonl"
    command = [_installed("txninsight-replay"), str(events), "--bootstrap", settings.bootstrap]
    return Program(name=REPLAY, command=command, is_service=False)


def _refuse_second_stack(settings: Settings) -> None:
    if Supervisor(settings.run_dir, settings.log_dir).is_up():
        raise StackError("a stack runs already: stop it first with make down")


def _seconds(environment: Mapping[str, str]) -> int:
    text = environment.get("DEMO_SECONDS", str(DEFAULT_SECONDS))
    if not text.isdecimal():
        raise StackError(f"DEMO_SECONDS={text} is not a whole number of seconds")
    return int(text)


def _installed(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def _label(truth: Truth) -> str:
    return f"{truth.state}, stuck ({truth.stuck})" if truth.stuck else str(truth.state)


def _said(seen: Seen | None) -> str:
    if seen is None:
        return "nothing"
    return f"{seen.state}, stuck ({seen.cause})" if seen.stuck else seen.state
