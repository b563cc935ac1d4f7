"""The Alertmanager files that ship, run by the real Alertmanager: where messages go, what they say, what is held back.

Alerts are posted as a Prometheus does; what is looked at is what arrived at PagerDuty's and Slack's local stand-ins,
which refuse what those would refuse or cut. Each test has its own transaction type or cluster, and so its own groups.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import yaml

from tests.harness.alertmanager import SHIPPED, Annotations, Labels, PostedAlertmanager
from txninsightd.tools.receivers import PAGERDUTY, SLACK, Message
from txninsightd.tools.stack.alerting import adapt

CONFIG = SHIPPED / "alertmanager.yml"
RULES = SHIPPED.parent / "prometheus" / "rules" / "alerts.yml"
FACTOR = 600.0

STUCK = "TxninsightTransactionsStuck"
STILL_STUCK = "TxninsightTransactionsStillStuck"
DOWN = "TxninsightDown"
BLIND = "TxninsightViewBlind"
RUNBOOK = "https://runbooks.example.com/txninsightd/Some.md"
DAEMON = "orders-1:9840"
OTHER = "orders-2:9840"

# Of a daemon that is blind these are sent all the same: its own health, and what it counted and did not judge.
TOLD_THOUGH_BLIND = {
    *("TxninsightRecordsUnreadable", "TxninsightRecordsLost", "TxninsightLabelValuesCut"),
    *("TxninsightTransactionsEvicted", "TxninsightQueueBackedUp", "TxninsightCheckpointStale"),
    *("TxninsightChildCrashLooping", "TxninsightConfigReloadRefused", "TxninsightDown", "TxninsightAbsent"),
    *("TxninsightNotReady", "TxninsightViewBlind", "TxninsightLogLinesDropped"),
}

Alert = tuple[Labels, Annotations]


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostedAlertmanager]:
    with PostedAlertmanager(tmp_path_factory.mktemp("alertmanager"), FACTOR) as running:
        yield running


def labels(severity: str = "page", name: str = STUCK, **more: str) -> dict[str, str]:
    usual = {"cluster": "prod", "instance": DAEMON, "job": "txninsightd", "cause": "idle"}
    return {"alertname": name, "severity": severity, **usual, **more}


def alert(severity: str = "page", name: str = STUCK, **more: str) -> Alert:
    own = labels(severity, name, **more)
    query = urlencode({"state": "stuck", "cause": own["cause"], "txn_type": own.get("txn_type", "")})
    return own, {
        "summary": f"3 {own.get('txn_type')} newly stuck: {own['cause']}",
        "description": f"About 3 became stuck, as {own['instance']} sees it.",
        "runbook_url": RUNBOOK,
        "transactions_url": f"http://{own['instance']}/api/v1/transactions?{query}",
    }


def of_type(receiver: str, txn_type: str, *, is_resolved: bool = False) -> Callable[[Message], bool]:
    """Tells a message of the group of this transaction type, which must not need escaping."""

    def is_it(message: Message) -> bool:
        return message.receiver == receiver and message.is_resolved == is_resolved and txn_type in str(message.body)

    return is_it


def slack_of(message: Message) -> dict[str, Any]:
    attachment: dict[str, Any] = message.body["attachments"][0]
    return attachment


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# --- The files, without a running Alertmanager ------------------------------------------------------------------------


def test_amtool_takes_the_file() -> None:
    checked = run("amtool", "check-config", CONFIG)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 templates" in checked.stdout


@pytest.mark.parametrize(
    ("own", "receiver"),
    [
        (["severity=page", "txn_type=order"], PAGERDUTY),
        (["severity=ticket", "txn_type=order"], SLACK),
        (["severity=page"], PAGERDUTY),
        (["alertname=Unheard", "txn_type=order"], PAGERDUTY),
        (["severity=pager"], PAGERDUTY),
    ],
    ids=["page", "ticket", "no txn_type", "no severity", "unknown severity"],
)
def test_each_severity_reaches_its_receiver(own: list[str], receiver: str) -> None:
    found = run("amtool", "config", "routes", "test", f"--config.file={CONFIG}", f"--verify.receivers={receiver}", *own)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_rule_has_a_severity_that_is_routed() -> None:
    receivers = {"page": PAGERDUTY, "ticket": SLACK}
    rules = alerting_rules()
    assert rules
    for name, rule in rules.items():
        severity = rule["labels"]["severity"]
        own = [f"alertname={name}", f"severity={severity}"]
        found = run("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *own)
        assert found.stdout.split() == [receivers[severity]], name


def test_a_blind_daemon_holds_back_all_that_is_judged_by_sight_and_nothing_else() -> None:
    pattern = re.search(r'alertname=~"([^"]+)"', blind_rule()["target_matchers"][0])
    assert pattern
    held_back = set(pattern[1].split("|"))
    assert held_back == alerting_rules().keys() - TOLD_THOUGH_BLIND, "a new alert: is it judged by what was seen?"


def test_pages_are_repeated_after_four_hours_and_tickets_after_a_day() -> None:
    route = yaml.safe_load(CONFIG.read_text())["route"]
    repeats = {each["receiver"]: each.get("repeat_interval", route["repeat_interval"]) for each in route["routes"]}
    assert repeats == {PAGERDUTY: "4h", SLACK: "24h"}


def test_only_addresses_secrets_and_waits_are_adapted(tmp_path: Path) -> None:
    shipped = yaml.safe_load(CONFIG.read_text())
    adapted = adapt(shipped, tmp_path, "http://127.0.0.1:1")
    for document in (shipped, adapted):
        document["receivers"][0]["pagerduty_configs"][0].pop("routing_key_file")
        document["receivers"][1]["slack_configs"][0].pop("api_url_file")
    assert adapted["receivers"][0]["pagerduty_configs"][0].pop("url") == "http://127.0.0.1:1/v2/enqueue"
    assert adapted.pop("global") == {"resolve_timeout": "300s"}
    assert adapted["route"]["routes"][1].pop("repeat_interval") == "86400s"
    assert shipped["route"]["routes"][1].pop("repeat_interval") == "24h"
    for key in ("group_wait", "group_interval", "repeat_interval"):
        for route in (shipped["route"], adapted["route"], shipped["route"]["routes"][1], adapted["route"]["routes"][1]):
            route.pop(key, None)
    assert adapted == shipped


def test_a_receiver_without_a_local_one_is_refused(tmp_path: Path) -> None:
    shipped = yaml.safe_load(CONFIG.read_text())
    shipped["receivers"].append({"name": "mail", "email_configs": [{"to": "oncall@example.com"}]})
    with pytest.raises(ValueError, match="receiver mail has email_configs"):
        adapt(shipped, tmp_path, "http://127.0.0.1:1")


def alerting_rules() -> dict[str, Any]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def blind_rule() -> dict[str, Any]:
    rules: list[dict[str, Any]] = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    return next(rule for rule in rules if BLIND in rule["source_matchers"][0])


# --- PagerDuty --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_page_says_all_and_its_end_bears_the_same_key(alertmanager: PostedAlertmanager) -> None:
    fired = alert(txn_type="loan")
    alertmanager.fire(fired)
    page = alertmanager.await_message(of_type(PAGERDUTY, "loan")).body
    assert page["event_action"] == "trigger"
    payload = page["payload"]
    assert payload["summary"] == "3 loan newly stuck: idle [prod]"
    assert {key: payload[key] for key in ("severity", "source", "component", "group", "class")} == {
        "severity": "critical",
        "source": DAEMON,
        "component": "loan",
        "group": "prod",
        "class": STUCK,
    }
    url = fired[1]["transactions_url"]
    assert page["links"] == [
        {"href": RUNBOOK, "text": "Runbook"},
        {"href": url, "text": f"Transactions (idle) on {DAEMON}"},
    ]
    details = payload["custom_details"]
    assert details["firing"] == (
        f"3 loan newly stuck: idle\nAbout 3 became stuck, as {DAEMON} sees it.\n"
        f"cause=idle, cluster=prod, instance={DAEMON}, job=txninsightd, txn_type=loan\n{url}"
    )
    assert {key: value for key, value in details.items() if key != "firing"} == {
        "cause": "idle",
        "txn_type": "loan",
        "runbook": RUNBOOK,
        "resolved": "",
        "num_firing": "1",
        "num_resolved": "0",
    }
    alertmanager.resolve(fired)
    end = alertmanager.await_message(of_type(PAGERDUTY, "loan", is_resolved=True)).body
    assert (end["event_action"], end["dedup_key"]) == ("resolve", page["dedup_key"])
    assert end["payload"]["summary"] == "3 loan newly stuck: idle [prod]"


@pytest.mark.slow
def test_a_page_for_many_says_how_many_more_there_are(alertmanager: PostedAlertmanager) -> None:
    many = [alert(txn_type="invoice", instance=f"host-{number:02}:9840") for number in range(12)]
    alertmanager.fire(*many)
    page = alertmanager.await_message(lambda m: of_type(PAGERDUTY, "invoice")(m) and num_firing(m) == 12).body
    assert page["payload"]["summary"] == "3 invoice newly stuck: idle, and 11 more like it [prod]"
    assert page["payload"]["source"] == "host-00:9840 and others"
    assert [link["href"] for link in page["links"]] == [RUNBOOK, *(texts["transactions_url"] for _, texts in many[:3])]
    listed = page["payload"]["custom_details"]["firing"]
    assert [texts["transactions_url"] in listed for _, texts in many] == [True] * 10 + [False] * 2
    assert listed.endswith("\n\nand 2 more")


@pytest.mark.slow
def test_a_page_without_annotations_names_its_labels(alertmanager: PostedAlertmanager) -> None:
    alertmanager.fire((labels(txn_type="bare-page"), {}))
    page = alertmanager.await_message(of_type(PAGERDUTY, "bare-page")).body
    said = f"cause=idle, cluster=prod, instance={DAEMON}, job=txninsightd, txn_type=bare-page"
    assert page["payload"]["summary"] == f"{STUCK} ({said}) [prod]"
    assert "links" not in page


@pytest.mark.slow
def test_an_alert_without_severity_or_instance_pages(alertmanager: PostedAlertmanager) -> None:
    alertmanager.fire(({"alertname": "Unheard", "cluster": "lonely"}, {"summary": "unknown"}))
    page = alertmanager.await_message(of_type(PAGERDUTY, "lonely")).body
    assert page["payload"]["summary"] == "unknown [lonely]"
    assert page["payload"]["severity"] == "error"
    assert (page["payload"]["source"], page["payload"]["component"]) == ("txninsightd", "txninsightd")


@pytest.mark.slow
def test_an_alert_with_nothing_but_a_name_pages_it(alertmanager: PostedAlertmanager) -> None:
    """As amtool alert add does for a test."""
    alertmanager.fire(({"alertname": "TestPage", "severity": "page"}, {}))
    page = alertmanager.await_message(of_type(PAGERDUTY, "TestPage")).body
    assert page["payload"]["summary"] == "TestPage"


# --- Slack ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_ticket_says_all_and_that_it_is_over(alertmanager: PostedAlertmanager) -> None:
    fired = alert("ticket", STILL_STUCK, txn_type="parcel")
    alertmanager.fire(fired)
    ticket = slack_of(alertmanager.await_message(of_type(SLACK, "parcel")))
    url = fired[1]["transactions_url"]
    assert ticket["title"] == f"[FIRING:1] {STILL_STUCK} parcel [prod]"
    assert (ticket["title_link"], ticket["color"]) == (url, "warning")
    assert ticket["fallback"] == "3 parcel newly stuck: idle"
    assert ticket["text"].splitlines() == [
        "*3 parcel newly stuck: idle*",
        f"About 3 became stuck, as {DAEMON} sees it.",
        f"<{url.replace('&', '&amp;')}|These transactions>",
        f"<{RUNBOOK}|Runbook>",
    ]
    alertmanager.resolve(fired)
    end = slack_of(alertmanager.await_message(of_type(SLACK, "parcel", is_resolved=True)))
    assert end["title"] == f"[RESOLVED] {STILL_STUCK} parcel [prod]"
    assert end["fallback"] == "Resolved: 3 parcel newly stuck: idle"
    assert end["text"].splitlines() == ["resolved: 3 parcel newly stuck: idle", f"<{RUNBOOK}|Runbook>"]


@pytest.mark.slow
def test_a_ticket_for_many_says_how_many_more_there_are(alertmanager: PostedAlertmanager) -> None:
    many = [alert("ticket", STILL_STUCK, txn_type="bill", instance=f"host-{number}:9840") for number in range(7)]
    alertmanager.fire(*many)
    text = slack_of(alertmanager.await_message(lambda m: of_type(SLACK, "bill")(m) and num_firing(m) == 7))["text"]
    assert text.count("|These transactions>") == 4
    assert "\nand 3 more firing\n" in text
    assert text.count("|Runbook>") == 1
    alertmanager.resolve(*many[:6])
    text = slack_of(alertmanager.await_message(lambda m: of_type(SLACK, "bill")(m) and num_firing(m) == 1))["text"]
    assert text.count("|These transactions>") == 1
    assert text.count("resolved: 3 bill newly stuck: idle\n") == 4
    assert "\nand 2 more resolved\n" in text


@pytest.mark.slow
def test_a_ticket_without_annotations_names_its_labels(alertmanager: PostedAlertmanager) -> None:
    alertmanager.fire((labels("ticket", txn_type="bare-ticket"), {}))
    ticket = slack_of(alertmanager.await_message(of_type(SLACK, "bare-ticket")))
    said = f"cause=idle, cluster=prod, instance={DAEMON}, job=txninsightd, txn_type=bare-ticket"
    assert ticket["text"].strip() == f"*{STUCK} ({said})*"
    assert "title_link" not in ticket


# --- Texts that are out of the ordinary -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_special_characters_arrive_as_they_are(alertmanager: PostedAlertmanager, severity: str) -> None:
    txn_type = f'a {severity} / of <b> & "c" über|all'
    fired = alert(severity, txn_type=txn_type)
    alertmanager.fire(fired)
    receiver = {"page": PAGERDUTY, "ticket": SLACK}[severity]
    message = alertmanager.await_message(of_type(receiver, f"a {severity} / of"))
    assert message.summary.removesuffix(" [prod]") == f"3 {txn_type} newly stuck: idle"
    if severity == "page":
        assert message.body["payload"]["component"] == txn_type
        href = message.body["links"][1]["href"]
    else:
        text = slack_of(message)["text"]
        assert f'*3 a {severity} / of &lt;b&gt; &amp; "c" über|all newly stuck: idle*' in text
        shown = re.search(r"<([^<>|]+)\|These transactions>", text)
        assert shown
        href = shown[1].replace("&amp;", "&")
    assert parse_qs(urlsplit(href).query)["txn_type"] == [txn_type]


@pytest.mark.slow
@pytest.mark.parametrize("filler", ["x", "&", "ü"])
@pytest.mark.parametrize(("severity", "receiver"), [("page", PAGERDUTY), ("ticket", SLACK)])
def test_the_longest_texts_are_cut_and_taken(
    alertmanager: PostedAlertmanager, severity: str, receiver: str, filler: str
) -> None:
    """The local receivers refuse what PagerDuty or Slack would refuse or cut, so it is proof enough that it arrives."""
    long = dict.fromkeys(("summary", "description"), filler * 5000)
    texts = {**long, "runbook_url": RUNBOOK, "transactions_url": f"http://{DAEMON}/?{'x' * 460}"}
    txn_type = f"endless-{severity}-{ord(filler)}"
    many = [(labels(severity, txn_type=txn_type, child=f"{number}"), texts) for number in range(20)]
    alertmanager.fire(*many)
    message = alertmanager.await_message(of_type(receiver, txn_type))
    assert re.match(rf"{filler}{{50,250}}….{{0,50}}$", message.summary)
    alertmanager.resolve(*many[:10])
    alertmanager.await_message(lambda m: of_type(receiver, txn_type)(m) and num_firing(m) == 10)


@pytest.mark.slow
def test_a_link_too_long_for_slack_is_left_out_whole(alertmanager: PostedAlertmanager) -> None:
    own, texts = alert("ticket", txn_type="far")
    alertmanager.fire((own, {**texts, "transactions_url": f"http://{DAEMON}/?{'x' * 501}"}))
    text = slack_of(alertmanager.await_message(of_type(SLACK, "far")))["text"]
    assert "These transactions" not in text
    assert "xxx" not in text


# --- What is held back ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_daemon_that_is_down_holds_back_all_else_of_itself(alertmanager: PostedAlertmanager) -> None:
    names = alerting_rules().keys() - {DOWN, BLIND}
    alertmanager.fire(alert(name=DOWN, cluster="dark"))
    assert f"instance={DAEMON}" in firing_text(alertmanager, DOWN, "dark")
    alertmanager.fire(*[alert(name=name, cluster="dark", instance=each) for name in names for each in (DAEMON, OTHER)])
    for name in names:
        await_inhibition(alertmanager, name, "dark")
        assert not alertmanager.inhibited(alertname=name, cluster="dark", instance=OTHER)
        text = firing_text(alertmanager, name, "dark")
        assert f"instance={OTHER}" in text
        assert f"instance={DAEMON}" not in text
    alertmanager.fire(alert(name=BLIND, cluster="dark"))
    await_inhibition(alertmanager, BLIND, "dark")
    assert not alertmanager.inhibited(alertname=DOWN, cluster="dark", instance=DAEMON)


@pytest.mark.slow
def test_a_blind_daemon_holds_back_what_it_judges_by_sight(alertmanager: PostedAlertmanager) -> None:
    names = alerting_rules().keys() - {BLIND, DOWN}
    alertmanager.fire(alert(name=BLIND, cluster="fog"))
    assert f"instance={DAEMON}" in firing_text(alertmanager, BLIND, "fog")
    alertmanager.fire(*[alert(name=name, cluster="fog", instance=each) for name in names for each in (DAEMON, OTHER)])
    for name in names - TOLD_THOUGH_BLIND:
        await_inhibition(alertmanager, name, "fog")
        assert not alertmanager.inhibited(alertname=name, cluster="fog", instance=OTHER)
        text = firing_text(alertmanager, name, "fog")
        assert f"instance={OTHER}" in text
        assert f"instance={DAEMON}" not in text
    for name in names & TOLD_THOUGH_BLIND:
        assert not alertmanager.inhibited(alertname=name, cluster="fog", instance=DAEMON)
        assert f"instance={DAEMON}" in firing_text(alertmanager, name, "fog")


@pytest.mark.slow
def test_nothing_is_held_back_in_another_cluster(alertmanager: PostedAlertmanager) -> None:
    alertmanager.fire(alert(name=DOWN, cluster="east"), alert(name=BLIND, cluster="east"))
    alertmanager.fire(alert(cluster="east", txn_type="ferry"), alert(cluster="west", txn_type="ferry"))
    await_inhibition(alertmanager, STUCK, "east")
    assert not alertmanager.inhibited(alertname=STUCK, cluster="west", instance=DAEMON)
    alertmanager.await_message(lambda m: of_type(PAGERDUTY, "ferry")(m) and "[west]" in m.summary)


def await_inhibition(alertmanager: PostedAlertmanager, name: str, cluster: str) -> None:
    """Wait until this alert of DAEMON is held back."""
    alertmanager.await_that(
        lambda: alertmanager.inhibited(alertname=name, cluster=cluster, instance=DAEMON), f"{name} is inhibited"
    )


def firing_text(alertmanager: PostedAlertmanager, name: str, cluster: str) -> str:
    """The list of firing alerts in the first page of this group."""

    def is_it(message: Message) -> bool:
        payload = message.body.get("payload", {})
        return (payload.get("class"), payload.get("group")) == (name, cluster)

    details: dict[str, str] = alertmanager.await_message(is_it).body["payload"]["custom_details"]
    return details["firing"]


def num_firing(message: Message) -> int:
    if message.receiver == PAGERDUTY:
        return int(message.body["payload"]["custom_details"]["num_firing"])
    found = re.match(r"\[FIRING:(\d+)\] ", slack_of(message)["title"])
    return int(found[1]) if found else 0
