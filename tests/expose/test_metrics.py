"""/metrics, asked over HTTP: what it shows of a ledger's history, in both formats."""

import gzip
import math
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric, Timestamp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from tests.harness.dummy_reader import beat_in_a_fork
from tests.harness.expose_world import BEGIN, World, ask
from txninsightd.config.model import Config, LimitsConfig
from txninsightd.core.histogram import Histogram
from txninsightd.core.rules import Objectives
from txninsightd.expose import catalogue
from txninsightd.expose.catalogue import CATALOGUE
from txninsightd.expose.collector import Ages, histograms
from txninsightd.expose.loop_yield import LoopYield
from txninsightd.expose.monotonic_counters import MonotonicCounters, StateOrigin
from txninsightd.expose.rendering import OPENMETRICS, PLAIN, TextFormat, render
from txninsightd.expose.server import registry_of
from txninsightd.vocabulary import Anomaly, Cause, CheckpointHealth, Objective, Outcome, PartitionRef, RecordResult

ACCEPT_OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


class Shown:
    """The parsed samples of one answer."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)
        self.samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The one sample with this name and exactly these labels."""
        found = [s.value for s in self.samples if s.name == name and s.labels == labels]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """All samples of a name, by their label values in the order of the labels' names."""
        return {tuple(v for _, v in sorted(s.labels.items())): s.value for s in self.samples if s.name == name}


def plain(world: World) -> Shown:
    return Shown(parse_plain(ask(world, "/metrics").text))


def openmetrics(world: World) -> Shown:
    return Shown(parse_openmetrics(ask(world, "/metrics", Accept=ACCEPT_OPENMETRICS).text))


def small_caps(most: int) -> Config:
    return Config(limits=LimitsConfig(label_values=most))


# --- The catalogue ----------------------------------------------------------------------------------------------------


def test_metrics_shows_what_the_catalogue_holds_and_nothing_else(tmp_path: Path) -> None:
    beat_in_a_fork("monitor-0", tmp_path, BEGIN, 3, False)
    monotonic_counters = MonotonicCounters(tmp_path / "exposed", "session", StateOrigin.EMPTY)
    objectives = Objectives(Objective(duration_s=30, open_age_s=60))
    world = World(multiproc_dir=tmp_path, monotonic_counters=monotonic_counters, objectives=objectives)
    world.whole("t1")
    world.wait(10)
    families = {f.name: f for f in openmetrics(world).families}
    assert set(families) == {d.name.removesuffix("_total") for d in CATALOGUE}
    for d in CATALOGUE:
        family = families[d.name.removesuffix("_total")]
        labels = {tuple(name for name in s.labels if name != "le") for s in family.samples}
        shown = (family.type, family.unit, family.documentation, {tuple(sorted(names)) for names in labels})
        assert shown == (d.type.value, d.unit, d.help, {tuple(sorted(d.labels))}), d.name


def test_promtool_has_no_complaint(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is needed: apt-get install --no-install-recommends prometheus"
    beat_in_a_fork("monitor-0", tmp_path, BEGIN, 3, False)
    world = World(
        multiproc_dir=tmp_path,
        monotonic_counters=MonotonicCounters(tmp_path / "exposed", "session", StateOrigin.EMPTY),
    )
    world.whole("t1")
    world.wait(10)
    text = ask(world, "/metrics").body
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


# --- From the start ---------------------------------------------------------------------------------------------------


def test_series_exist_at_zero_before_anything_happens() -> None:
    shown = plain(World(types=("order", "refund")))
    for txn_type in ("order", "refund"):
        assert shown.value("txninsight_transactions_opened_total", txn_type=txn_type) == 0
        for cause in Cause:
            assert shown.value("txninsight_stuck_total", txn_type=txn_type, cause=cause) == 0
            assert shown.value("txninsight_stuck_transactions", txn_type=txn_type, cause=cause) == 0
        for outcome in Outcome:
            labels = {"txn_type": txn_type, "outcome": outcome.value, "status": "unspecified"}
            assert shown.value("txninsight_transactions_finished_total", **labels) == 0
            del labels["status"]
            assert shown.value("txninsight_replayed_transactions_finished_total", **labels) == 0
        assert shown.value("txninsight_objective_missed_total", txn_type=txn_type) == 0
        for state in ("open", "tentatively_closed", "stuck", "aborted"):
            assert shown.value("txninsight_transactions", txn_type=txn_type, state=state) == 0
        for histogram in ("transaction_duration", "commit_delay"):
            assert shown.value(f"txninsight_{histogram}_seconds_count", txn_type=txn_type) == 0
    for anomaly in Anomaly:
        assert shown.value("txninsight_anomalies_total", kind=anomaly) == 0
    for result in RecordResult:
        assert shown.value("txninsight_records_total", view="monitor", topic="orders", result=result) == 0
    for seen in ("ok", "gap"):
        assert shown.value("txninsight_records_total", view="validator", topic="orders", result=seen) == 0
    for label in ("txn_type", "step", "status", "topic"):
        assert shown.value("txninsight_label_values_cut_total", label=label) == 0
    assert shown.value("txninsight_settled_by_timeout_total") == 0


def test_an_objective_is_shown_for_each_type_that_has_one_and_misses_are_counted() -> None:
    usual, gift = Objective(duration_s=2.5, open_age_s=60), Objective(duration_s=10, ratio=0.5)
    world = World(objectives=Objectives(usual, {"gift": gift, "none": Objective()}))
    for txn_type in ("order", "gift", "none"):
        for lasts_s in (2, 5, 20):
            world.whole(f"{txn_type}-{lasts_s}", txn_type=txn_type, lasts_s=lasts_s)
    world.event("transaction_open", "old", ts=world.time, kept_time=True)
    world.event("transaction_close", "old", ts=world.time + 5, kept_time=True)
    world.commit()
    world.wait(10)
    shown = plain(world)
    assert shown.values("txninsight_objective_seconds") == {("order",): 2.5, ("gift",): 10}
    assert shown.values("txninsight_objective_ratio") == {("order",): 0.99, ("gift",): 0.5}
    assert shown.values("txninsight_open_age_objective_seconds") == {("order",): 60}
    assert shown.values("txninsight_objective_missed_total") == {("order",): 2, ("gift",): 1, ("none",): 0}
    replayed = shown.values("txninsight_replayed_transactions_finished_total")
    assert {labels: n for labels, n in replayed.items() if n} == {("closed", "order"): 1}


def test_a_type_that_was_not_configured_has_its_zeros_once_it_is_seen() -> None:
    world = World()
    world.event("transaction_open", "t1", txn_type="gift")
    shown = plain(world)
    assert (
        shown.value("txninsight_transactions_finished_total", txn_type="gift", outcome="closed", status="unspecified")
        == 0
    )
    assert shown.value("txninsight_stuck_total", txn_type="gift", cause="idle") == 0


# --- Histories --------------------------------------------------------------------------------------------------------


def test_a_closed_transaction_is_counted_and_measured() -> None:
    world = World()
    world.whole("t1", status="paid", lasts_s=2.0)
    world.wait(10)
    shown = plain(world)
    assert shown.value("txninsight_transactions_opened_total", txn_type="order") == 1
    assert shown.value("txninsight_transactions_finished_total", txn_type="order", outcome="closed", status="paid") == 1
    assert shown.value("txninsight_transaction_duration_seconds_sum", txn_type="order") == pytest.approx(2.0)
    assert shown.value("txninsight_transaction_duration_seconds_bucket", txn_type="order", le="1.0") == 0
    assert shown.value("txninsight_transaction_duration_seconds_bucket", txn_type="order", le="2.5") == 1
    assert shown.value("txninsight_transaction_duration_seconds_bucket", txn_type="order", le="+Inf") == 1
    assert shown.value("txninsight_step_duration_seconds_sum", txn_type="order", step="pay") == pytest.approx(0.5)
    assert shown.value("txninsight_step_gap_seconds_sum", txn_type="order", step="pay") == pytest.approx(0.2)
    assert shown.value("txninsight_commit_delay_seconds_count", txn_type="order") == 1
    assert shown.value("txninsight_lingering_transactions") == 1
    assert shown.value("txninsight_remembered_transactions") == 1


def test_live_transactions_are_shown_by_state() -> None:
    world = World()
    world.wait(0)
    world.event("transaction_open", "idle")
    world.wait(400)
    world.event("transaction_open", "open")
    world.event("transaction_open", "closing")
    world.event("transaction_close", "closing")
    world.event("step_done", "partial", "pay")
    shown = plain(world)
    states = {state: n for (state, _), n in shown.values("txninsight_transactions").items()}
    assert states == {"open": 2, "tentatively_closed": 1, "stuck": 1, "aborted": 0}
    assert shown.value("txninsight_partial_transactions", txn_type="order") == 1
    assert shown.value("txninsight_stuck_transactions", txn_type="order", cause="idle") == 1
    assert shown.value("txninsight_stuck_total", txn_type="order", cause="idle") == 1
    assert shown.value("txninsight_oldest_open_age_seconds", txn_type="order") == 400
    assert shown.value("txninsight_open_age_seconds_bucket", txn_type="order", le="300.0") == 2
    assert shown.value("txninsight_open_age_seconds_bucket", txn_type="order", le="600.0") == 3
    assert shown.value("txninsight_open_age_seconds_gcount", txn_type="order") == 3
    assert shown.value("txninsight_open_age_seconds_gsum", txn_type="order") == 400


def test_what_is_stuck_at_the_first_catch_up_enters_the_gauge_only() -> None:
    world = World()
    world.event("transaction_open", "idle")
    world.wait(400)
    shown = plain(world)
    assert shown.value("txninsight_stuck_transactions", txn_type="order", cause="idle") == 1
    assert shown.value("txninsight_stuck_total", txn_type="order", cause="idle") == 0


def test_an_aborted_transaction_waits_and_is_counted() -> None:
    world = World()
    world.event("transaction_open", "t1")
    world.abort()
    assert plain(world).value("txninsight_transactions", txn_type="order", state="aborted") == 1
    world.wait(70)
    shown = plain(world)
    assert shown.value("txninsight_transactions", txn_type="order", state="aborted") == 0
    labels = {"txn_type": "order", "outcome": "aborted", "status": "unspecified"}
    assert shown.value("txninsight_transactions_finished_total", **labels) == 1


def test_late_events_and_other_oddities_are_counted_by_kind() -> None:
    world = World()
    world.whole("t1")
    world.wait(10)
    world.event("step_done", "t1", "ship")
    assert plain(world).value("txninsight_anomalies_total", kind="late_event") == 1


def test_records_are_counted_by_view_topic_and_result() -> None:
    world = World(topics={"orders": 1, "refunds": 1})
    world.whole("t1")
    world.records(malformed=2, foreign=3)
    shown = plain(world)
    assert shown.value("txninsight_records_total", view="monitor", topic="orders", result="ok") == 4
    assert shown.value("txninsight_records_total", view="monitor", topic="orders", result="malformed") == 2
    assert shown.value("txninsight_records_total", view="monitor", topic="orders", result="foreign") == 3
    assert shown.value("txninsight_records_total", view="monitor", topic="refunds", result="ok") == 0
    assert shown.value("txninsight_records_total", view="validator", topic="orders", result="ok") == 4


def test_a_last_stable_offset_that_stands_still_is_seen() -> None:
    world = World(topics={"orders": 2})
    world.event("transaction_open", "t1")
    world.event("step_open", "t1", "pay")
    world.wait(100)
    shown = plain(world)
    assert shown.value("txninsight_undecided_records", topic="orders") == 2
    assert shown.value("txninsight_lso_age_seconds", topic="orders") == 100
    world.commit()
    shown = plain(world)
    assert shown.value("txninsight_undecided_records", topic="orders") == 0
    assert shown.value("txninsight_lso_age_seconds", topic="orders") == 0


def test_lag_is_what_lies_between_the_applied_position_and_the_known_end() -> None:
    world = World()
    partition = world.ledger.partitions[PartitionRef("orders", 0)]
    partition.monitor_end, partition.validator_end = 12, 7
    shown = plain(world)
    assert shown.value("txninsight_consumer_lag_records", view="monitor", topic="orders") == 12
    assert shown.value("txninsight_consumer_lag_records", view="validator", topic="orders") == 7


def test_a_view_is_as_old_as_its_blindest_partition() -> None:
    world = World(topics={"orders": 2})
    world.time += 30
    assert plain(world).values("txninsight_view_age_seconds") == {("monitor",): 30, ("validator",): 30}
    world.wait(0)
    world.time += 5
    assert plain(world).values("txninsight_view_age_seconds") == {("monitor",): 5, ("validator",): 5}
    world.ledger.partitions[PartitionRef("orders", 1)].monitor_as_of -= 20
    world.ledger.watermark.partitions_changed()
    assert plain(world).value("txninsight_view_age_seconds", view="monitor") == 25
    world.ledger.partitions[PartitionRef("orders", 1)].gone = True
    world.ledger.watermark.partitions_changed()
    assert plain(world).value("txninsight_view_age_seconds", view="monitor") == 5


def test_the_daemon_shows_its_children_and_whether_it_is_ready() -> None:
    world = World()
    shown = plain(world)
    assert shown.values("txninsight_child_up") == {("monitor-0",): 1, ("validator-0",): 0}
    assert shown.values("txninsight_child_restarts_total") == {("monitor-0",): 0, ("validator-0",): 2}
    assert shown.values("txninsight_child_heartbeat_age_seconds") == {("monitor-0",): 0.25, ("validator-0",): 12.0}
    assert shown.value("txninsight_ready") == 1
    world.lacking = ["the topic orders was not found"]
    assert plain(world).value("txninsight_ready") == 0


def test_the_daemon_shows_how_its_checkpoints_fare() -> None:
    world = World()
    world.time += 7
    shown = plain(world)
    assert shown.value("txninsight_checkpoint_age_seconds") == 7
    assert shown.value("txninsight_checkpoint_bytes") == 0
    assert shown.value("txninsight_checkpoint_interval_seconds") == 10
    world.checkpoints = CheckpointHealth(world.time - 3, 4096, 0.25, 2, 1, 10.0)
    shown = plain(world)
    assert shown.value("txninsight_checkpoint_age_seconds") == 3
    assert shown.value("txninsight_checkpoint_bytes") == 4096
    assert shown.value("txninsight_checkpoint_duration_seconds") == 0.25
    assert shown.value("txninsight_checkpoint_failures_total") == 2
    assert shown.value("txninsight_checkpoint_fallbacks_total") == 1


def test_warming_up_is_shown() -> None:
    world = World()
    assert plain(world).value("txninsight_warming_up") == 0
    world.warm = False
    assert plain(world).value("txninsight_warming_up") == 1


# --- Caps -------------------------------------------------------------------------------------------------------------


def test_types_past_the_cap_are_counted_together() -> None:
    world = World(config=small_caps(2))
    for txn_type in ("order", "refund", "gift", "return"):
        world.event("transaction_open", f"t-{txn_type}", txn_type=txn_type)
    shown = plain(world)
    assert shown.values("txninsight_transactions_opened_total") == {("order",): 1, ("refund",): 1, ("__overflow__",): 2}
    assert shown.value("txninsight_label_values_cut_total", label="txn_type") >= 2


def test_topics_past_the_cap_are_counted_together() -> None:
    world = World(topics={"a": 1, "b": 1, "c": 1, "d": 1}, config=small_caps(2))
    for topic in "abcd":
        world.event("transaction_open", f"t-{topic}", at=(topic, 0))
        world.ledger.partitions[PartitionRef(topic, 0)].monitor_end += 10
    world.wait(50)
    shown = plain(world)
    assert shown.values("txninsight_undecided_records") == {("a",): 1, ("b",): 1, ("__overflow__",): 2}
    assert shown.values("txninsight_lso_age_seconds") == {("a",): 50, ("b",): 50, ("__overflow__",): 50}
    assert shown.value("txninsight_consumer_lag_records", view="monitor", topic="__overflow__") == 20
    assert shown.value("txninsight_records_total", view="monitor", topic="__overflow__", result="ok") == 2
    assert shown.value("txninsight_label_values_cut_total", label="topic") == 2


def test_label_values_may_hold_anything() -> None:
    world = World()
    world.event("transaction_open", "t1", txn_type='a "quoted"\\ line\nand ünïcode')
    for shown in (plain(world), openmetrics(world)):
        assert shown.value("txninsight_transactions_opened_total", txn_type='a "quoted"\\ line\\x0aand ünïcode') == 1


# --- Formats ----------------------------------------------------------------------------------------------------------


def test_exemplars_name_a_transaction_and_are_in_openmetrics_only() -> None:
    world = World()
    world.whole('a "strange"\\ id', lasts_s=2.0)
    world.wait(10)
    assert not any(s.exemplar for s in plain(world).samples)
    samples = [s for s in openmetrics(world).samples if s.name == "txninsight_transaction_duration_seconds_bucket"]
    exemplars = {s.labels["le"]: s.exemplar for s in samples if s.exemplar}
    assert list(exemplars) == ["2.5"]
    assert exemplars["2.5"].labels == {"txn_id": 'a "strange"\\ id'}
    assert (exemplars["2.5"].value, exemplars["2.5"].timestamp) == (2.0, Timestamp(BEGIN + 10, 0))


def test_the_longest_id_makes_a_legal_exemplar() -> None:
    world = World()
    world.whole("ü" * 1024)
    world.wait(10)
    assert any(s.exemplar for s in openmetrics(world).samples)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=1.0.0;escaping=values", "text/plain; version=0.0.4; charset=utf-8"),
        (ACCEPT_OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("Application/OpenMetrics-Text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;version=nonsense", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;q=0", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; Q=0.000, */*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.4", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0.3,*/*;q=0.4", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;q=0.3,text/plain;q=0.2,*/*;q=0.9",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("application/openmetrics-text;q=2", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, content_type: str) -> None:
    answer = ask(World(), "/metrics", Accept=accept)
    assert answer.headers["Content-Type"] == content_type
    assert answer.body.endswith(b"# EOF\n") == ("openmetrics" in content_type)


@pytest.mark.parametrize(
    ("accept_encoding", "packed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip ; q=0.001", True),
        ("x-gzip", True),
        ("*", True),
        ("br, *;q=0.1", True),
        ("identity;q=0, gzip;q=0.2", True),
        ("gzip, *;q=0", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;Q=0.", False),
        ("gzip;q=nonsense", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.5, identity", False),
        ("*;q=0, identity", False),
    ],
)
def test_gzip_if_asked(accept_encoding: str, packed: bool) -> None:
    world = World()
    answer = ask(world, "/metrics", Accept_Encoding=accept_encoding)
    assert (answer.headers.get("Content-Encoding") == "gzip") == packed
    body = gzip.decompress(answer.body) if packed else answer.body
    assert body == ask(world, "/metrics").body


@pytest.mark.parametrize("accept_encoding", ["*;q=0", "identity;q=0", "gzip;q=0, identity;q=0.000"])
def test_a_client_that_accepts_no_encoding_is_told(accept_encoding: str) -> None:
    answer = ask(World(), "/metrics", Accept_Encoding=accept_encoding)
    assert (answer.status, answer.headers["Vary"]) == (406, "Accept, Accept-Encoding")
    assert "gzip or identity" in answer.json["error"]


@pytest.mark.parametrize("form", [PLAIN, OPENMETRICS], ids=["plain", "openmetrics"])
def test_large_families_in_slices_give_the_same_text(form: TextFormat) -> None:
    world = World()
    for i in range(200):
        world.event("transaction_open", f"t{i}", txn_type=f"type-{i}")
        world.figures.durations[f"type-{i}"].observe(1.0, (f"t{i}", BEGIN))
    registry = registry_of(world, world.config)

    async def rendered() -> None:
        assert await render(registry, form, False, LoopYield()) == form.write(registry)

    uvloop.run(rendered())


# --- Numbers ----------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(-50, 150), st.integers(1, 5)),
    st.lists(st.floats(0.1, 120), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_ages_are_what_counting_one_by_one_gives(opened: dict[int, int], bounds: list[float]) -> None:
    now = 100.0
    ages = [max(0.0, now - second) for second, count in opened.items() for _ in range(count)]
    got = Ages.of(opened, bounds, now)
    assert got.cumulative == [sum(age <= bound for age in ages) for bound in [*bounds, math.inf]]
    assert got.sum_s == pytest.approx(sum(ages))
    assert got.oldest_s == max(ages, default=0.0)


@given(st.lists(st.floats(0, 10), max_size=30))
def test_a_histogram_shows_what_was_observed(values: list[float]) -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in values:
        histogram.observe(value)
    samples = histograms(catalogue.TRANSACTION_DURATION, {("order",): histogram}).samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert buckets == {le: sum(v <= float(le) for v in values) for le in ("1.0", "2.0", "5.0", "+Inf")}
    assert {s.name: s.value for s in samples if s.name.endswith("_count")}.popitem()[1] == len(values)
    assert {s.name: s.value for s in samples if s.name.endswith("_sum")}.popitem()[1] == pytest.approx(sum(values))
