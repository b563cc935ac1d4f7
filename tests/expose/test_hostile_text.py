"""Whatever events say, a page can be scraped, and an answer can be read and shown in a terminal."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import msgspec
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from tests.harness.expose_world import World, ask
from tests.harness.hostile_text import ESCAPED, SHOWN, unsafe
from tests.harness.properties import fuzz
from txninsightd.config.model import Config, MetricsConfig
from txninsightd.core.figures_saved import (
    SavedCounters,
    SavedFigures,
    SavedHistogram,
    SavedHistograms,
    SavedPairs,
)
from txninsightd.core.histogram import Exemplar
from txninsightd.expose import monotonic_counters_file
from txninsightd.expose.monotonic_counters import MonotonicCounters, StateOrigin
from txninsightd.expose.monotonic_counters_file import ExposedFamily, ExposedValues, packed_keys

MOST_EXEMPLAR_CHARS = 128
"""OpenMetrics: the names and values of an exemplar's labels together."""

FORMATS = ("text/plain", "application/openmetrics-text")

OPENED = "txninsight_transactions_opened_total"

LABEL = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
LINE = re.compile(
    rf"(?P<name>[a-z_]+)(?:\{{(?P<labels>{LABEL}(?:,{LABEL})*)\}})? (?P<value>[-+0-9.einfEIN]+)"
    rf"(?: # \{{(?P<exemplar>{LABEL})\}} [0-9.e]+ [0-9.e]+)?"
)
"""A sample in both formats. prometheus_client's parser of OpenMetrics takes no escaped quote in an exemplar."""

Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def labels_of(text: str | None) -> tuple[tuple[str, str], ...]:
    written = (label.split("=", 1) for label in re.findall(LABEL, text or ""))
    return tuple(sorted((name, re.sub(r"\\(.)", unescaped, value[1:-1])) for name, value in written))


def unescaped(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


def page(world: World, accept: str) -> Page:
    """A page's samples by name and labels. It holds nothing that Prometheus refuses."""
    text = ask(world, "/metrics", Accept=accept).text
    assert unsafe(text) == set()
    samples: Page = {}
    for line in text.split("\n")[:-1]:
        sample = LINE.fullmatch(line)
        assert sample or line.startswith("# "), line
        if sample:
            key = (sample["name"], labels_of(sample["labels"]))
            assert key not in samples, line
            samples[key] = float(sample["value"])
            assert sum(len(name) + len(value) for name, value in labels_of(sample["exemplar"])) <= MOST_EXEMPLAR_CHARS
    return samples


def pages(world: World) -> list[Page]:
    return [page(world, accept) for accept in FORMATS]


def opened(shown: Page) -> dict[str, float]:
    """How many were opened, by the label txn_type."""
    return {dict(labels)["txn_type"]: value for (name, labels), value in shown.items() if name == OPENED and value}


# --- Pages ------------------------------------------------------------------------------------------------------------

CHARACTERS = st.one_of(
    st.sampled_from(sorted(SHOWN)),
    st.sampled_from(["\\x00", "\\u2028", "\\x5c"]),
    st.characters(exclude_categories=["Cs"]),
)
TEXTS = st.lists(CHARACTERS, min_size=1, max_size=6).map("".join)
IDS = st.one_of(TEXTS, st.tuples(TEXTS, st.integers(90, 600)).map(lambda long: (long[0] * long[1])[:1024]))
EVENTS = st.lists(
    st.tuples(IDS, TEXTS | st.just(""), TEXTS | st.just(""), TEXTS | st.just(""), TEXTS), min_size=1, max_size=5
)


SMALL = Config(metrics=MetricsConfig((1.0, 60.0)))
"""With few buckets, so that pages are small."""


def counted(events: list[tuple[str, str, str, str, str]]) -> World:
    """A world in which each of these (txn_id, txn_type, step, status, topic) was a transaction that has settled."""
    topics = {topic: 1 for *_, topic in events}
    world = World(topics, SMALL)
    for txn_id, txn_type, step, status, topic in events:
        at = (topic, 0)
        for kind in ("transaction_open", "step_open", "step_done", "transaction_close"):
            step_of, status_of = step if "step" in kind else None, status if "close" in kind else None
            world.event(kind, txn_id, step_of, status_of, txn_type, at)
    for topic in topics:
        world.commit((topic, 0))
    world.wait(100)
    return world


@fuzz(40, 2000, events=EVENTS)
def test_any_text_makes_a_page_that_can_be_scraped(events: list[tuple[str, str, str, str, str]]) -> None:
    world = counted(events)
    for shown in pages(world):
        assert sum(opened(shown).values()) == sum(world.figures.opened.values())
        lagged = [dict(labels)["topic"] for name, labels in shown if name == "txninsight_consumer_lag_records"]
        assert len(lagged) == 2 * len(set(lagged)) > 0


def test_each_class_of_code_point_has_its_label() -> None:
    world = counted([(f"id {text}", text, text, text, text) for text in SHOWN])
    # The live view reads the page with this parser.
    parsed = {
        sample.labels.get("txn_type")
        for family in parse_plain(ask(world, "/metrics").text)
        for sample in family.samples
    }
    assert parsed >= set(SHOWN.values())
    for shown in pages(world):
        assert opened(shown) == dict.fromkeys(SHOWN.values(), 1)
        values: dict[str, set[str]] = {"step": set(), "status": set(), "topic": set()}
        for _, labels in shown:
            for name, value in labels:
                values.get(name, set()).add(value)
        assert values["step"] - {"unspecified"} == set(SHOWN.values())
        assert values["status"] - {"unspecified"} == set(SHOWN.values())
        assert values["topic"] - {"topic"} == set(SHOWN.values())


def test_values_that_look_alike_are_counted_together() -> None:
    world = counted([("1", "a\x00", "s", "ok", "t"), ("2", "a\\x00", "s", "ok", "t")])
    for shown in pages(world):
        assert opened(shown) == {"a\\x00": 2}


def test_an_exemplar_is_cut_between_escapes_and_says_so() -> None:
    world = counted([("\x00" * 200, "order", "pay", "ok", "t")])
    text = ask(world, "/metrics", Accept=FORMATS[1]).text
    exemplars = {labels_of(sample["exemplar"]) for sample in LINE.finditer(text) if sample["exemplar"]}
    assert exemplars == {(("txn_id", "\\x00" * 24 + "…"),)}


# --- What an older version kept ---------------------------------------------------------------------------------------

BAD = "a\x00"
"""An older version kept it as it was, beside what looks like it now."""


def older_figures(bounds: tuple[float, ...]) -> bytes:
    """Figures as an older version saved them."""
    counts = [0] * (len(bounds) + 1)
    counts[1] = 1
    shown = [SavedHistogram(name, counts, 0.5, {1: Exemplar("id\x00", 0.5, 1.0)}) for name in (BAD, "a\\x00")]
    steps = [SavedHistogram((name, BAD), counts, 0.5, {}) for name in (BAD, "a\\x00")]
    saved = SavedFigures(
        bounds=list(bounds),
        counters=SavedCounters(
            opened=[(BAD, 2), ("a\\x00", 1)], finished=[((BAD, "closed", BAD), 2)], stuck=[], anomalies=[], records=[]
        ),
        histograms=SavedHistograms(durations=shown, commit_delays=shown, step_durations=steps, step_gaps=steps),
        settled_by_timeout=0,
        txn_types=([BAD], 0),
        pairs=SavedPairs(([(BAD, BAD, BAD)], 0, [BAD], 0), ([(BAD, BAD, BAD)], 0, [BAD], 0)),
    )
    return msgspec.msgpack.encode(saved)


def test_a_state_of_an_older_version_does_not_keep_a_target_down(tmp_path: Path) -> None:
    keys = [("_total", BAD), ("_total", "a\\x00"), ("_total", "gone\x1b")]
    family = ExposedFamily(("txn_type",), packed_keys(keys), [2.0, 1.0, 7.0], [])
    path = tmp_path / "exposed"
    monotonic_counters_file.write(path, ExposedValues("session", {OPENED.removesuffix("_total"): family}))
    monotonic_counters = MonotonicCounters(path, "session", StateOrigin.CHECKPOINT)
    world = World(monotonic_counters=monotonic_counters)
    world.figures.restore([older_figures(world.figures.bounds)])
    monotonic_counters.restore_label_values(world.figures)
    for shown in pages(world):
        assert opened(shown) == {"a\\x00": 3, "gone\\x1b": 7}
        count = ("txninsight_transaction_duration_seconds_count", (("txn_type", "a\\x00"),))
        assert shown[count] == 2
    # The value that the older version had goes on where its name is now.
    world.event("transaction_open", "t", txn_type=BAD)
    assert opened(page(world, "text/plain")) == {"a\\x00": 4, "gone\\x1b": 7}
    assert world.figures.txn_types.cut == 0


def test_a_name_holds_for_all_values_that_look_like_it_and_keeps_none_of_them() -> None:
    world = World()
    cap = world.figures.txn_types
    names = len(cap.named)
    looks = Counter(cap("\x00" * n + "\\x00" * (20 - n)) for n in range(21))
    assert looks == {"\\x00" * 20: 21}
    assert len(cap.named) == names + 1
    assert cap.cut == 0


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_exact_and_harmless_to_a_terminal() -> None:
    world = counted([(f"id {text}", text, text, text, "orders") for text in SHOWN])
    # Those above the first plane, and only those, stay as they are: no terminal minds them.
    harmless = {character for character in ESCAPED if ord(character) > 0xFFFF}
    listing = ask(world, "/api/v1/transactions?limit=1000")
    assert unsafe(listing.text) <= harmless
    assert {(t["txn_id"], t["txn_type"], t["status"]) for t in listing.json["transactions"]} == {
        (f"id {text}", text, text) for text in SHOWN
    }
    for text in ("\x1b[2J\x1b]0;title\x07", "\u2028", "\x9b", "\x7f", "\u202e"):
        detail = ask(world, f"/api/v1/transactions/{quote(f'id {text}', safe='')}")
        assert unsafe(detail.text) == set()
        assert detail.json["txn_id"] == f"id {text}"
        assert {entry["step"] for entry in detail.json["timeline"]} == {None, text}
        absent = ask(world, f"/api/v1/transactions/{quote(f'none {text}', safe='')}")
        assert unsafe(absent.text) == set()
        assert f"'none {text}'" in absent.json["error"]


def test_an_explanation_is_one_line() -> None:
    world = World()
    world.event("transaction_open", "t")
    world.event("step_open", "t", "pay\n\x1b[2J")
    assert "'pay\\x0a\\x1b[2J'" in ask(world, "/api/v1/transactions/t").json["why"]


def test_a_transaction_is_found_by_what_was_shown_of_it() -> None:
    raw = "id \x00\u2028\U0001fffe"
    shown = quote("id \\x00\\u2028\\U0001fffe")
    world = counted([(raw, "type \x00", "s", "ok", "orders")])
    found = ask(world, f"/api/v1/transactions?txn_type={quote('type ')}%5Cx00").json
    assert [t["txn_id"] for t in found["transactions"]] == [raw]
    assert ask(world, f"/api/v1/transactions/{shown}").json["txn_id"] == raw
    assert ask(world, f"/api/v1/transactions/{shown}%5Cx00").status == 404
    # An id that is given exactly comes first; half a character and a number beyond Unicode are no escapes.
    for exact in ("id \\x00", "id \\ud83d", "id \\U00110000"):
        world = counted([(raw, "type", "s", "ok", "orders"), (exact, "type", "s", "ok", "orders")])
        assert ask(world, f"/api/v1/transactions/{quote(exact)}").json["txn_id"] == exact
