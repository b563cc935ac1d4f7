"""The alerting rules: each is shown by promtool to fire, not to fire just below, and to clear; each has what a person
on call needs (summary, description, runbook); and nothing here or in the docs names a metric that does not exist.

The cases are in rules/*.yml, one file an alert, in the form that `promtool test rules` takes; restart.yml holds
what must raise nothing at all.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.dashboards import METRIC, SUFFIXES, rules
from tests.harness.paths import ROOT
from tests.harness.prometheus import RULES
from txninsightd.expose.catalogue import CATALOGUE

CASES = Path(__file__).parent / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(RUNBOOKS.glob("*.md"))]
SECTIONS = ["## What it means", "## How to look", "## What to do", "## How to silence"]
KINDS = ("fires", "does not fire just below", "clears")
HANG_GUARD_S = 120.0

ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
LABELS_WITH_A_CAUSE = {"TxninsightTransactionsStuck", "TxninsightTransactionsStillStuck"}
OF_A_TYPE = re.compile(r"stuck_|finished|objective|oldest_open|abort_ratio")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What promtool says; the test is at fault, not skipped, where it is not installed."""
    program = shutil.which("promtool")
    assert program, "promtool is missing: apt-get install prometheus"
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=HANG_GUARD_S, check=False)


def cases(alert: str) -> list[dict[str, Any]]:
    """The test groups of an alert."""
    document: dict[str, list[dict[str, Any]]] = yaml.safe_load((CASES / f"{alert}.yml").read_text())
    return document["tests"]


def expected(case: dict[str, Any], alert: str) -> list[bool]:
    """Whether the alert is expected at each moment that the case looks at, in order."""
    return [bool(look["exp_alerts"]) for look in case["alert_rule_test"] if look["alertname"] == alert]


def series_names() -> set[str]:
    """Every name that can be asked for."""
    exported = {d.name + suffix for d in CATALOGUE for suffix in SUFFIXES[d.type]}
    return exported | RECORDED


# --- promtool ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CASES.glob("*.yml")), ids=lambda path: path.stem)
def test_the_rules_do_what_the_cases_say(path: Path) -> None:
    said = promtool("test", "rules", path)
    assert said.returncode == 0, f"\n{said.stdout}{said.stderr}"


def test_promtool_accepts_the_config_and_the_rules() -> None:
    said = promtool("check", "config", RULES.parent / "prometheus.yml")
    assert said.returncode == 0, f"\n{said.stdout}{said.stderr}"


def test_a_case_that_is_wrong_is_found(tmp_path: Path) -> None:
    right = (CASES / "TxninsightDown.yml").read_text().replace("../../../monitoring/prometheus/rules", str(RULES))
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(right.replace("exp_alerts: []", "exp_alerts: [{}]"))
    said = promtool("test", "rules", wrong)
    assert said.returncode != 0
    assert "TxninsightDown" in said.stdout + said.stderr


# --- Each alert is whole ----------------------------------------------------------------------------------------------


def test_every_case_file_is_of_an_alert() -> None:
    assert {path.stem for path in CASES.glob("*.yml")} == {*ALERTS, "restart"}


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tried_in_all_three_ways(alert: str) -> None:
    ways: dict[str, list[list[bool]]] = {kind: [] for kind in KINDS}
    for case in cases(alert):
        ways[case["name"].partition(":")[0]].append(expected(case, alert))
    assert any(any(looks) for looks in ways["fires"]), "never seen to fire"
    below = ways["does not fire just below"]
    assert below, "no case just below"
    assert not any(any(looks) for looks in below), "a case just below expects it to fire"
    assert any(looks[0] and not looks[-1] for looks in ways["clears"] if looks), "never seen to fire and then to clear"


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_is_wrong(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    texts = rule["annotations"]
    assert (
        {"summary", "description", "runbook_url"}
        <= set(texts)
        <= {
            *("summary", "description", "runbook_url", "transactions_url"),
        }
    )
    if OF_A_TYPE.search(rule["expr"]):
        assert "$labels.txn_type" in texts["summary"]
        assert "$value" in texts["summary"]
    if alert in LABELS_WITH_A_CAUSE:
        assert "$labels.cause" in texts["summary"]


@pytest.mark.parametrize("alert", ALERTS)
def test_a_figure_that_is_extrapolated_is_rounded(alert: str) -> None:
    rule = ALERTS[alert]
    shown = re.findall(r"\{\{[^}]*\$value[^}]*\}\}", " ".join(rule["annotations"].values()))
    assert all("%.0f" in each or "humanize" in each for each in shown)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_runbook(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["runbook_url"].endswith(f"/{alert}.md")
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS
    assert f"alertname={alert}" in text
    assert f"Severity: {ALERTS[alert]['labels']['severity']}." in text


def test_there_is_no_runbook_of_anything_else() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(ALERTS)


def test_the_guide_lists_every_alert_as_it_is() -> None:
    listed = re.findall(
        r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (page|ticket) \|",
        (ROOT / "docs" / "monitoring.md").read_text(),
        re.M,
    )
    assert listed == [(name, name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]


# --- Names ------------------------------------------------------------------------------------------------------------


def test_the_rules_ask_for_nothing_that_does_not_exist() -> None:
    asked = {name for rule in rules() for name in METRIC.findall(str(rule))}
    assert asked - series_names() == set()


def test_the_docs_name_no_metric_that_does_not_exist() -> None:
    families = {d.name for d in CATALOGUE}
    wrong = {
        (path.name, name)
        for path in DOCS
        for name in METRIC.findall(path.read_text())
        if name not in series_names() | families and not is_a_beginning(name)
    }
    assert wrong == set()


def is_a_beginning(name: str) -> bool:
    """Whether the name ends where several go on, as in `grep ^txninsight_(a|b)` or txninsight_checkpoint_..."""
    return name.endswith("_") and any(d.name.startswith(name) for d in CATALOGUE)


def test_each_metric_is_documented() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    assert [d.name for d in CATALOGUE if f"| `{d.name}` |" not in documented] == []


def test_runbook_links_lead_somewhere() -> None:
    broken = [
        (path.name, target, anchor)
        for path in [ROOT / "docs" / "monitoring.md", *sorted(RUNBOOKS.glob("*.md"))]
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text())
        if not leads_somewhere(path.parent / target if target else path, anchor)
    ]
    assert broken == []


def leads_somewhere(page: Path, anchor: str) -> bool:
    """Whether the page is there, and has a heading of which the anchor is made as GitHub makes it."""
    if not page.exists():
        return False
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
