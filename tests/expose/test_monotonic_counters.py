"""No counter falls or counts twice: one case after the other, real kills, and the server's own answers."""

import asyncio
import errno
import struct
from collections.abc import Iterable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from prometheus_client.core import Metric, Sample
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from tests.harness.expose_world import BEGIN, Ask, World, ask, serve
from txninsightd.config.model import Config, LimitsConfig
from txninsightd.core.figures import Figures
from txninsightd.core.histogram import Histogram
from txninsightd.expose import catalogue, monotonic_counters_file
from txninsightd.expose.catalogue import COUNTERS_KEPT
from txninsightd.expose.collector import histograms, simple
from txninsightd.expose.monotonic_counters import MonotonicCounters, StateOrigin

HANG_GUARD_S = 60
BOUNDS = (1.0, 5.0)
ACCEPT_OPENMETRICS = "application/openmetrics-text;version=1.0.0"

Numbers = dict[tuple[str, ...], float]


def opened(**values: float) -> Metric:
    """A counter of the state, by txn_type."""
    return simple(catalogue.TRANSACTIONS_OPENED, {(name,): value for name, value in values.items()})


def restarts(**values: float) -> Metric:
    """A counter of the parent."""
    return simple(catalogue.CHILD_RESTARTS, {(name,): value for name, value in values.items()})


def failures(value: float) -> Metric:
    """A counter of the aggregator's own."""
    return simple(catalogue.CHECKPOINT_FAILURES, {(): value})


def durations(bounds: tuple[float, ...] = BOUNDS, **observed: list[float]) -> Metric:
    """A histogram of the state, by txn_type."""
    shown: dict[tuple[str], Histogram] = {}
    for name, values in observed.items():
        shown[name,] = Histogram(bounds)
        for value in values:
            shown[name,].observe(value, (f"id-{value}", BEGIN))
    return histograms(catalogue.TRANSACTION_DURATION, shown)


def numbers(samples: Iterable[Sample]) -> Numbers:
    return {(s.name.removeprefix("txninsight_"), *s.labels.values()): s.value for s in samples}


def scrape(monotonic_counters: MonotonicCounters, *families: Metric) -> Numbers:
    """What one scrape shows."""
    return numbers(s for family in monotonic_counters.without_resets(families) for s in family.samples)


def totals(monotonic_counters: MonotonicCounters, family: Metric) -> dict[str, float]:
    """The values of a counter with one label."""
    shown = scrape(monotonic_counters, family)
    return {key[1]: value for key, value in shown.items() if key[0].endswith("_total") and len(key) == 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exposed"


# --- Where it is counted ----------------------------------------------------------------------------------------------


def test_a_state_that_was_set_back_shows_the_old_value_until_it_is_passed(path: Path) -> None:
    assert totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10)) == {"order": 10}
    again = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
    assert [totals(again, opened(order=own))["order"] for own in (4, 9, 10, 11)] == [10, 10, 10, 11]


def test_a_parent_that_begins_again_does_not_touch_the_state(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10))
    assert totals(MonotonicCounters(path, "s2", StateOrigin.CHECKPOINT), opened(order=11)) == {"order": 11}


def test_a_state_begun_anew_at_earliest_counts_everything_once_more(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10))
    again = MonotonicCounters(path, "s2", StateOrigin.EMPTY)
    assert [totals(again, opened(order=own))["order"] for own in (0, 10, 12)] == [10, 10, 12]


def test_a_state_begun_anew_at_latest_counts_on(path: Path) -> None:
    scrape(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10), durations(order=[0.5, 3.0]))
    again = MonotonicCounters(path, "s2", StateOrigin.EMPTY_AT_LATEST)
    shown = scrape(again, opened(order=2), durations(order=[7.0]))
    assert shown["transactions_opened_total", "order"] == 12
    assert shown["transaction_duration_seconds_bucket", "order", "1.0"] == 1
    assert shown["transaction_duration_seconds_bucket", "order", "+Inf"] == 3
    assert shown["transaction_duration_seconds_count", "order"] == 3
    assert shown["transaction_duration_seconds_sum", "order"] == 10.5


def test_what_was_begun_anew_at_latest_may_be_set_back_like_any_other(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10))
    totals(MonotonicCounters(path, "s2", StateOrigin.EMPTY_AT_LATEST), opened(order=7))
    again = MonotonicCounters(path, "s2", StateOrigin.CHECKPOINT)
    assert [totals(again, opened(order=own))["order"] for own in (5, 7, 8)] == [17, 17, 18]


def test_begun_anew_at_latest_and_killed_before_the_first_scrape(path: Path) -> None:
    """The checkpoint that it left is of the state that counts from 0: the file must know that already."""
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10))
    MonotonicCounters(path, "s2", StateOrigin.EMPTY_AT_LATEST)
    assert totals(MonotonicCounters(path, "s2", StateOrigin.CHECKPOINT), opened(order=1)) == {"order": 11}


def test_begun_anew_at_latest_and_later_at_earliest_nothing_is_added_any_more(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=10))
    totals(MonotonicCounters(path, "s2", StateOrigin.EMPTY_AT_LATEST), opened(order=7))
    assert totals(MonotonicCounters(path, "s3", StateOrigin.EMPTY), opened(order=18)) == {"order": 18}


def test_a_parents_counter_goes_on_over_an_aggregators_restart(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), restarts(monitor=3))
    again = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
    assert totals(again, restarts()) == {"monitor": 3}, "the parent has not told yet"
    assert totals(again, restarts(monitor=4)) == {"monitor": 4}


def test_a_parents_counter_is_added_up_over_its_lives(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), restarts(monitor=3))
    second = MonotonicCounters(path, "s2", StateOrigin.CHECKPOINT)
    assert [totals(second, restarts(monitor=own))["monitor"] for own in (0, 1)] == [3, 4]
    assert totals(MonotonicCounters(path, "s2", StateOrigin.CHECKPOINT), restarts(monitor=2)) == {"monitor": 5}
    assert totals(MonotonicCounters(path, "s3", StateOrigin.CHECKPOINT), restarts(monitor=2)) == {"monitor": 7}


def test_an_aggregators_own_counter_is_added_up_over_its_lives(path: Path) -> None:
    for life, expected in ((1, 2), (2, 4), (3, 6)):
        shown = scrape(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), failures(2))
        assert shown["checkpoint_failures_total",] == expected, life


def test_gauges_fall_as_they_like(path: Path) -> None:
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    gauges = [scrape(monotonic_counters, simple(catalogue.CHECKPOINT_BYTES, {(): value})) for value in (7, 3)]
    assert [shown["checkpoint_bytes",] for shown in gauges] == [7, 3]


# --- Series that come and go ------------------------------------------------------------------------------------------


def test_series_may_come_back_in_another_order_late_or_not_at_all(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=5, refund=6, gift=7))
    again = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
    assert totals(again, opened()) == {"order": 5, "refund": 6, "gift": 7}
    assert totals(again, opened(gift=1, other=1)) == {"order": 5, "refund": 6, "gift": 7, "other": 1}
    assert totals(again, opened(gift=8, other=2, order=1)) == {"order": 5, "refund": 6, "gift": 8, "other": 2}
    third = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
    assert totals(third, opened(other=3)) == {"order": 5, "refund": 6, "gift": 8, "other": 3}


def test_a_family_that_does_not_come_at_all_is_shown_as_it_was(path: Path) -> None:
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    before = scrape(monotonic_counters, opened(order=5), durations(order=[0.5]))
    assert scrape(monotonic_counters) == before
    assert scrape(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)) == before


def test_a_series_at_zero_goes_on_as_well(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=0))
    assert totals(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), opened()) == {"order": 0}


def test_a_metric_whose_labels_are_others_now_is_another_metric(path: Path) -> None:
    totals(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=5))
    renamed = catalogue.TRANSACTIONS_OPENED._replace(labels=("kind",))
    assert totals(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), simple(renamed, {("gift",): 1})) == {"gift": 1}


# --- Histograms -------------------------------------------------------------------------------------------------------


def assert_sound(shown: Numbers, le: Iterable[str]) -> list[float]:
    """Buckets ascend, the last equals the count, and no other bucket is shown; gives the buckets."""
    found = {key[2]: v for key, v in shown.items() if key[0] == "transaction_duration_seconds_bucket"}
    assert list(found) == list(le)
    buckets = list(found.values())
    assert buckets == sorted(buckets)
    assert buckets[-1] == shown["transaction_duration_seconds_count", "order"]
    return buckets


def test_a_histogram_read_again_in_another_order_stays_sound(path: Path) -> None:
    scrape(MonotonicCounters(path, "s1", StateOrigin.EMPTY), durations(order=[3.0, 9.0]))
    again = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
    observed: list[float] = []
    rows = []
    for value in (0.5, 9.0, 3.0, 0.5):
        observed.append(value)
        rows.append(assert_sound(scrape(again, durations(order=observed)), ("1.0", "5.0", "+Inf")))
    assert rows == [[1, 1, 2], [1, 1, 2], [1, 2, 3], [2, 3, 4]]


@pytest.mark.parametrize("bounds", [(0.5, 2.0, 5.0), (1.0, 2.0, 5.0, 8.0), (5.0,), (0.1, 0.2)])
@pytest.mark.parametrize("origin", list(StateOrigin))
def test_other_bounds_stay_sound_and_the_old_ones_vanish(
    path: Path, bounds: tuple[float, ...], origin: StateOrigin
) -> None:
    before = scrape(MonotonicCounters(path, "s1", StateOrigin.EMPTY), durations(order=[0.5, 0.7, 3.0, 9.0]))
    again = MonotonicCounters(path, "s2", origin)
    observed: list[float] = []
    for value in (9.0, 0.1, 1.5, 3.0, 0.5, 7.0):
        observed.append(value)
        shown = scrape(again, durations(bounds, order=observed))
        assert_sound(shown, (*map(str, bounds), "+Inf"))
        assert all(shown.get(key, value) >= value for key, value in before.items())
        before = shown
    assert before["transaction_duration_seconds_count", "order"] == (10 if origin is StateOrigin.EMPTY_AT_LATEST else 6)


def test_a_histogram_that_comes_no_more_keeps_its_buckets_in_order(path: Path) -> None:
    """Also when it had other bounds before, so that some of its buckets are younger than its count."""
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    scrape(monotonic_counters, durations(order=[3.0]))
    scrape(monotonic_counters, durations((0.5, 1.0, 2.0, 5.0, 10.0), order=[3.0]))
    shown = scrape(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), durations(refund=[3.0]))
    order = {key: value for key, value in shown.items() if key[1:2] == ("order",)}
    assert_sound(order, ("0.5", "1.0", "2.0", "5.0", "10.0", "+Inf"))


def test_exemplars_stay_with_the_buckets_that_are_raised(path: Path) -> None:
    scrape(MonotonicCounters(path, "s1", StateOrigin.EMPTY), durations(order=[3.0] * 9))
    (family, *_) = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT).without_resets([durations(order=[3.0])])
    (sample,) = [s for s in family.samples if s.exemplar]
    assert (sample.labels["le"], sample.value) == ("5.0", 9)
    assert sample.exemplar
    assert (sample.exemplar.labels, sample.exemplar.value) == ({"txn_id": "id-3.0"}, 3.0)


# --- The file ---------------------------------------------------------------------------------------------------------


def test_a_scrape_that_changes_nothing_writes_nothing(path: Path) -> None:
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    scrape(monotonic_counters, opened(order=5))
    written = path.stat()
    scrape(monotonic_counters, opened(order=5))
    assert path.stat() == written
    scrape(monotonic_counters, opened(order=6))
    assert path.stat() != written


def test_a_file_that_is_removed_is_written_again(path: Path) -> None:
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    scrape(monotonic_counters, opened(order=5))
    path.unlink()
    scrape(monotonic_counters, opened(order=5))
    assert (
        scrape(MonotonicCounters(path, "s2", StateOrigin.CHECKPOINT), opened(order=1))[
            ("transactions_opened_total", "order")
        ]
        == 5
    )


def test_a_directory_that_is_anothers_by_now_is_not_written_into(path: Path) -> None:
    def claim() -> None:
        if path.exists():
            raise OSError(errno.ESTALE, "it is another daemon's")

    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY, claim)
    path.write_bytes(b"another daemon's")
    scrape(monotonic_counters, opened(order=5))
    assert path.read_bytes() == b"another daemon's"
    assert list(path.parent.iterdir()) == [path]


def test_only_the_daemons_user_may_read_it(path: Path) -> None:
    MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_is_small(path: Path) -> None:
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    for own in range(3):
        family = simple(catalogue.TRANSACTIONS_OPENED, {(f"type-{i}",): own + i for i in range(10_000)})
        scrape(monotonic_counters, family)
    assert path.stat().st_size < 10_000 * 50


def damaged(content: bytes) -> Iterable[tuple[str, bytes]]:
    """Every kind of file that is none of ours, or no longer."""
    yield "empty", b""
    yield "foreign", b"#!/bin/sh\necho no\n"
    yield "another version", content.replace(b"values 1", b"values 2")
    yield "longer", content + b"\0"
    yield "zeros", bytes(len(content))
    for i in range(1, len(content), 7):
        yield f"cut at {i}", content[:i]
        yield f"flipped at {i}", content[:i] + bytes([content[i] ^ 0x10]) + content[i + 1 :]
    body = b"\x92\xa1s\x81\xb9txninsight_settled_by_timeout\x94\x90\x90\x91\x01\x90"
    yield (
        "sound, but no table",
        monotonic_counters_file.MAGIC + struct.pack(">I", monotonic_counters_file.crc32(body)) + body,
    )


def test_a_damaged_or_foreign_file_is_ignored_said_so_and_overwritten(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scrape(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=5), durations(order=[0.5]))
    for what, content in damaged(path.read_bytes()):
        path.write_bytes(content)
        capsys.readouterr()
        monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
        assert "exposed_values_ignored" in capsys.readouterr().out, what
        assert totals(monotonic_counters, opened(order=2)) == {"order": 2}, what
        assert totals(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), opened(order=1)) == {"order": 2}, what


def test_no_file_is_nothing_to_speak_of(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    assert capsys.readouterr().out == ""


def test_metrics_that_are_no_more_are_not_shown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scrape(MonotonicCounters(path, "s1", StateOrigin.EMPTY), opened(order=5), restarts(monitor=1))
    kept = {name: d for name, d in catalogue_families().items() if d is not catalogue.CHILD_RESTARTS}
    monkeypatch.setattr("txninsightd.expose.monotonic_counters.COUNTED", kept)
    assert not any(
        "restarts" in key[0] for key in scrape(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), opened(order=5))
    )


def catalogue_families() -> Mapping[str, catalogue.Definition]:
    return {d.family().name: d for d in catalogue.CATALOGUE if d.counted}


def test_what_cannot_be_written_is_said_once_and_fails_no_scrape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "state"
    monotonic_counters = MonotonicCounters(directory / "exposed", "s1", StateOrigin.EMPTY)
    for own in (5, 6):
        shown = scrape(monotonic_counters, opened(order=own))
        assert shown["transactions_opened_total", "order"] == own
        assert shown["counters_kept",] == 0
    assert capsys.readouterr().out.count("exposed_values_not_kept") == 1
    directory.mkdir()
    assert scrape(monotonic_counters, opened(order=6))["counters_kept",] == 1
    assert capsys.readouterr().out.count("exposed_values_kept_again") == 1
    assert totals(MonotonicCounters(directory / "exposed", "s1", StateOrigin.CHECKPOINT), opened()) == {"order": 6}


def test_a_full_disk_leaves_the_former_table(path: Path) -> None:
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.EMPTY)
    scrape(monotonic_counters, opened(order=5))
    Path(f"{path}.new").symlink_to("/dev/full")
    assert scrape(monotonic_counters, opened(order=6))[COUNTERS_KEPT.name.removeprefix("txninsight_"),] == 0
    assert totals(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), opened()) == {"order": 5}


# --- Kills ------------------------------------------------------------------------------------------------------------


def scrape_for_ever(path: Path, answers: Connection) -> None:
    """An aggregator that is scraped again and again; each answer leaves once its scrape has ended."""
    monotonic_counters = MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT)
    own = 0
    while True:
        own += 1
        shown = totals(
            monotonic_counters, simple(catalogue.TRANSACTIONS_OPENED, {(f"type-{i}",): own for i in range(200)})
        )
        answers.send(shown["type-0"])


@pytest.mark.parametrize("kills", [8])
def test_whatever_was_answered_outlives_kill_9(path: Path, kills: int, capfd: pytest.CaptureFixture[str]) -> None:
    context = get_context("fork")
    answered = 0.0
    for kill in range(kills):
        incoming, outgoing = context.Pipe(duplex=False)
        process = context.Process(target=scrape_for_ever, args=(path, outgoing), daemon=True)
        process.start()
        outgoing.close()
        for _ in range(3 + 17 * kill % 11):
            assert incoming.poll(HANG_GUARD_S)
            value = incoming.recv()
            assert value >= answered
            answered = value
        process.kill()
        process.join(HANG_GUARD_S)
        while incoming.poll():
            try:
                answered = incoming.recv()
            except EOFError:
                break
        incoming.close()
    assert totals(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT), opened())["type-0"] >= answered > 0
    assert "exposed_values_ignored" not in capfd.readouterr().out
    assert {file.name for file in path.parent.iterdir()} <= {"exposed", "exposed.new"}


# --- Caps of label values ---------------------------------------------------------------------------------------------


def small(monotonic_counters: MonotonicCounters | None = None) -> World:
    return World(types=(), config=Config(limits=LimitsConfig(label_values=2)), monotonic_counters=monotonic_counters)


def open_each(world: World, txn_types: str) -> dict[str, float]:
    for txn_type in txn_types:
        world.event("transaction_open", f"t-{txn_type}", txn_type=txn_type)
    text = ask(world, "/metrics").text
    samples = [s for f in parse_plain(text) for s in f.samples if s.name == "txninsight_transactions_opened_total"]
    return {s.labels["txn_type"]: s.value for s in samples}


def test_types_keep_their_names_when_they_are_read_again_in_another_order(path: Path) -> None:
    before = open_each(small(MonotonicCounters(path, "s1", StateOrigin.EMPTY)), "abcd")
    assert before == {"a": 1, "b": 1, "__overflow__": 2}
    again = small(MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT))
    assert again.monotonic_counters
    again.monotonic_counters.restore_label_values(again.figures)
    assert open_each(again, "dcba") == before
    assert again.figures.txn_types.cut > 0


def test_steps_and_statuses_keep_their_names_too(path: Path) -> None:
    def world_of(began: StateOrigin) -> World:
        return small(MonotonicCounters(path, "s1", began))

    def finish(figures: Figures, names: str) -> None:
        for name in names:
            said = name if name != "-" else None
            figures.finished["order", "closed", figures.statuses(figures.txn_types("order"), said)] += 1
            figures.step_gaps["order", figures.steps("order", said)].observe(1.0)

    before = world_of(StateOrigin.EMPTY)
    finish(before.figures, "ab-cd")
    shown = counts_of(before)
    again = world_of(StateOrigin.CHECKPOINT)
    assert again.monotonic_counters
    again.monotonic_counters.restore_label_values(again.figures)
    finish(again.figures, "dc-ba")
    assert counts_of(again) == shown
    assert {key for key in shown if "__overflow__" in key}


def counts_of(world: World) -> Numbers:
    """Everything that counts steps and statuses, as the server shows it."""
    text = ask(world, "/metrics").text
    shown = numbers(s for f in parse_plain(text) for s in f.samples)
    return {k: v for k, v in shown.items() if k[0] in ("transactions_finished_total", "step_gap_seconds_count") and v}


# --- The server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["text/plain", ACCEPT_OPENMETRICS])
def test_the_server_shows_raised_values_in_both_formats(path: Path, accept: str) -> None:
    before = World(monotonic_counters=MonotonicCounters(path, "s1", StateOrigin.EMPTY))
    for name in ("t1", "t2", "t3"):
        before.whole(name, txn_type="order")
    before.whole("g1", txn_type="gift")
    before.wait(10)
    shown = of_counters(ask(before, "/metrics", Accept=accept).text)
    again = World(monotonic_counters=MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT))
    assert not fallen(shown, of_counters(ask(again, "/metrics", Accept=accept).text))
    again.whole("t1")
    again.wait(10)
    answer = ask(again, "/metrics", Accept=accept).text
    assert not fallen(shown, of_counters(answer))
    assert not any(v > shown.get(key, 0) for key, v in of_counters(answer).items())
    assert ('txn_id="t1"' in answer) == (accept == ACCEPT_OPENMETRICS)


def of_counters(text: str) -> Numbers:
    """The samples that must not fall, read by the format's own parser."""
    parse = parse_openmetrics if text.endswith("# EOF\n") else parse_plain
    counting = [family for family in parse(text) if family.type in ("counter", "histogram")]
    samples = [s for family in counting for s in family.samples if not s.name.endswith("_created")]
    return numbers(s for s in samples if "open_age" not in s.name)


def fallen(before: Numbers, after: Numbers) -> dict[tuple[str, ...], tuple[float, float]]:
    """The samples that are lower than before, or gone."""
    return {key: (v, after.get(key, -1)) for key, v in before.items() if after.get(key, -1) < v}


@pytest.mark.slow
def test_several_scrapers_at_once_each_see_counters_rise_only(path: Path) -> None:
    world = World(monotonic_counters=MonotonicCounters(path, "s1", StateOrigin.EMPTY))
    last: Numbers = {}

    async def scraper(asking: Ask, number: int) -> None:
        before: Numbers = {}
        for i in range(3):
            for txn_type in range(15):
                world.whole(f"t{number}-{i}-{txn_type}", txn_type=f"type-{(5 * txn_type + number) % 60}")
            world.wait(10)
            after = of_counters((await asking("/metrics")).text)
            assert not fallen(before, after)
            before = after
            last.update({key: max(v, last.get(key, 0)) for key, v in after.items()})

    async def all_at_once(asking: Ask) -> None:
        await asyncio.gather(*(scraper(asking, number) for number in range(4)))

    serve(world, all_at_once)
    assert last["transaction_duration_seconds_count", "type-5"] > 0
    again = World(monotonic_counters=MonotonicCounters(path, "s1", StateOrigin.CHECKPOINT))
    assert not fallen(last, of_counters(ask(again, "/metrics").text))
