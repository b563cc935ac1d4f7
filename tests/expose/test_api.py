"""The HTTP API, asked over HTTP: listings, one transaction, partitions, readiness, and what goes wrong."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
import uvloop

from tests.harness.expose_world import BEGIN, Ask, World, ask, serve
from txninsightd.expose.server import HttpServer, ListenError

LISTING = "/api/v1/transactions"
OFFSET = "at topic orders, partition 0, offset"
BEGUN = "2025-06-15 15:06:40 UTC"


def listed(world: World, parameters: str = "") -> list[str]:
    """The ids of a listing, in its order."""
    answer = ask(world, f"{LISTING}?{parameters}")
    assert answer.status == 200
    assert answer.json["returned"] == len(answer.json["transactions"])
    return [t["txn_id"] for t in answer.json["transactions"]]


def shown(world: World, txn_id: str) -> dict[str, Any]:
    answer = ask(world, f"{LISTING}/{quote(txn_id, safe='')}")
    assert answer.status == 200
    detail: dict[str, Any] = answer.json
    return detail


@pytest.fixture
def busy() -> World:
    """One transaction of each sort; seconds pass between them."""
    world = World(topics={"orders": 1, "held": 1})
    world.event("transaction_open", "held", at=("held", 0))
    world.event("transaction_close", "held", status="ok", at=("held", 0))
    world.event("transaction_open", "idle", txn_type="refund")
    world.commit()
    world.wait(350)
    world.event("transaction_open", "aborted")
    world.abort()
    world.whole("closed", status="paid")
    world.wait(61)
    world.event("transaction_open", "open", txn_type=None)
    world.commit()
    world.wait(1)
    world.event("transaction_open", "closing")
    world.event("transaction_close", "closing")
    return world


# --- Listings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "ids"),
    [
        ("", ["closing", "open", "closed", "aborted", "idle", "held"]),
        ("state=open", ["open", "idle"]),
        ("state=tentatively_closed", ["closing", "held"]),
        ("state=closed", ["closed"]),
        ("state=aborted", ["aborted"]),
        ("state=unknown", []),
        ("state=stuck", ["idle", "held"]),
        ("cause=idle", ["idle"]),
        ("state=stuck&cause=commit_pending", []),
        ("cause=undecided", ["held"]),
        ("state=open&cause=idle", ["idle"]),
        ("txn_type=refund", ["idle"]),
        ("txn_type=unspecified", ["open"]),
        ("txn_type=nothing", []),
        ("state=open&txn_type=refund", ["idle"]),
        ("limit=2", ["closing", "open"]),
        ("state=stuck&limit=1", ["idle"]),
    ],
)
def test_filters_and_order(busy: World, parameters: str, ids: list[str]) -> None:
    assert listed(busy, parameters) == ids


def test_a_listing_says_how_many_match(busy: World) -> None:
    answer = ask(busy, f"{LISTING}?limit=2").json
    assert (answer["matched"], answer["returned"]) == (6, 2)


def test_newest_stuck_come_first() -> None:
    world = World()
    for txn_id in ("first", "second", "third"):
        world.event("transaction_open", txn_id)
        world.wait(10)
    world.event("transaction_open", "never")
    world.wait(299)
    assert listed(world, "state=stuck") == ["third", "second", "first"]
    assert listed(world, "state=stuck&limit=2") == ["third", "second"]


def test_the_default_limit_and_the_greatest() -> None:
    world = World()
    world.many_open(10_050)
    answer = ask(world, LISTING).json
    assert (answer["matched"], answer["returned"]) == (10_050, 100)
    assert answer["transactions"][0]["txn_id"] == "many-10049"
    answer = ask(world, f"{LISTING}?limit=10000").json
    assert (answer["matched"], answer["returned"]) == (10_050, 10_000)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("state=shut", "'state' must be one of open, tentatively_closed, closed, aborted, unknown, stuck; not 'shut'"),
        ("cause=bored", "'cause' must be one of idle, overdue, undecided, commit_pending, never_committed"),
        ("limit=0", "'limit' must be a whole number from 1 to 10000; not '0'"),
        ("limit=10001", "'limit' must be a whole number from 1 to 10000"),
        ("limit=-1", "'limit' must be a whole number"),
        ("limit=1e3", "'limit' must be a whole number"),
        ("limit=", "'limit' must be a whole number"),
        ("limit=%D9%A3", "'limit' must be a whole number"),
        ("limit=" + "9" * 5000, "'limit' must be a whole number"),
        ("type=order", "there is no parameter 'type'; the parameters are state, cause, txn_type, limit"),
        ("limit=1&limit=2", "'limit' is given more than once"),
    ],
)
def test_bad_parameters_are_refused_with_what_is_allowed(parameters: str, said: str) -> None:
    answer = ask(World(), f"{LISTING}?{parameters}")
    assert answer.status == 400
    assert said in answer.json["error"]


def test_a_large_listing_does_not_keep_others_waiting() -> None:
    world = World()
    world.many_open(50_000)

    async def asking(ask: Ask) -> None:
        listing = asyncio.ensure_future(ask(f"{LISTING}?limit=10000"))
        answered_meanwhile = 0
        while not listing.done():
            assert (await ask("/healthz")).status == 200
            answered_meanwhile += not listing.done()
        assert (await listing).json["returned"] == 10_000
        assert answered_meanwhile >= 3

    serve(world, asking)


# --- One transaction --------------------------------------------------------------------------------------------------


def test_a_live_transaction_with_its_timeline() -> None:
    world = World()
    world.event("transaction_open", "t1")
    world.event("step_open", "t1", "pay")
    world.abort()
    world.wait(5)
    world.event("transaction_open", "t1")
    world.commit()
    world.event("transaction_close", "t1", status="ok")
    detail = shown(world, "t1")
    assert detail.pop("why").startswith(
        "Tentatively closed: its close at topic orders, partition 0, offset 5 was written"
    )
    timeline = detail.pop("timeline")
    assert detail == {
        "txn_id": "t1",
        "txn_type": "order",
        "state": "tentatively_closed",
        "stuck": False,
        "cause": None,
        "stuck_since": None,
        "opened_at": BEGIN + 5,
        "last_event_at": BEGIN + 5,
        "age_s": 0.0,
        "attempts": 2,
        "partial": False,
        "replayed": False,
        "settled": False,
        "outcome": None,
        "status": None,
        "duration_s": None,
        "causes_passed": [],
        "anomalies": [],
        "events": 4,
    }
    assert [(e["offset"], e["kind"], e["step"], e["verdict"]) for e in timeline] == [
        (0, "transaction_open", None, "aborted"),
        (1, "step_open", "pay", "aborted"),
        (3, "transaction_open", None, "committed"),
        (5, "transaction_close", None, "pending"),
    ]
    assert timeline[3] == {
        "topic": "orders",
        "partition": 0,
        "offset": 5,
        "kind": "transaction_close",
        "step": None,
        "status": "ok",
        "ts": BEGIN + 5,
        "record_timestamp": BEGIN + 5,
        "verdict": "pending",
    }


def test_closed_before_it_settles() -> None:
    world = World(topics={"orders": 2})
    world.whole("t1", status="paid")
    world.time += 3
    detail = shown(world, "t1")
    assert (detail["state"], detail["settled"], detail["outcome"]) == ("closed", False, None)
    assert (detail["status"], detail["duration_s"], detail["age_s"]) == ("paid", None, None)
    assert "committed" in detail["why"]
    assert listed(world, "state=closed") == ["t1"]


def test_a_settled_transaction_lingers() -> None:
    world = World()
    world.event("step_open", "t1", "late", ts=BEGIN + 9)
    world.whole("t1", status="paid", lasts_s=2.0)
    world.wait(10)
    detail = shown(world, "t1")
    assert (detail["state"], detail["settled"], detail["outcome"]) == ("closed", True, "closed")
    assert (detail["status"], detail["duration_s"]) == ("paid", 2.0)
    assert detail["anomalies"] == ["event_after_close", "step_not_done"]
    assert (detail["events"], detail["last_event_at"]) == (5, BEGIN + 9)
    assert detail["why"].endswith("was committed; settled 2025-06-15 15:06:50 UTC.")


def test_causes_passed_remain_after_the_end() -> None:
    world = World()
    world.event("transaction_open", "t1")
    world.wait(301)
    assert shown(world, "t1")["stuck_since"] == BEGIN + 300
    world.event("transaction_close", "t1")
    world.commit()
    world.wait(10)
    detail = shown(world, "t1")
    assert (detail["causes_passed"], detail["stuck"], detail["cause"]) == (["idle"], False, None)


def test_a_new_life_is_shown_instead_of_the_aborted_one() -> None:
    world = World()
    world.event("transaction_open", "t1")
    world.abort()
    world.wait(100)
    assert shown(world, "t1")["outcome"] == "aborted"
    world.event("transaction_open", "t1")
    assert shown(world, "t1")["state"] == "open"
    assert listed(world) == ["t1", "t1"]


@pytest.mark.parametrize(
    "txn_id",
    ["a/b/c", "/", "ünï/cødé 😀", "50%", "%2F", "a?b#c&d", "with space", "a+b", 'quo"te', "..a", "a//b", "\x00\n"],
)
def test_ids_may_hold_anything(txn_id: str) -> None:
    world = World()
    world.event("transaction_open", txn_id)
    assert shown(world, txn_id)["txn_id"] == txn_id
    assert listed(world) == [txn_id]


def test_an_unknown_id() -> None:
    answer = ask(World(), f"{LISTING}/t%2F1")
    assert answer.status == 404
    assert "no transaction 't/1' is known" in answer.json["error"]


def test_an_id_that_is_over_and_gone() -> None:
    world = World(linger_s=100)
    world.whole("t1")
    world.wait(10)
    world.wait(200)
    answer = ask(world, f"{LISTING}/t1")
    assert answer.status == 404
    assert "state.linger_s (100 s)" in answer.json["error"]


def test_a_timestamp_that_no_calendar_holds() -> None:
    world = World()
    world.event("transaction_open", "t1", ts=9e15)
    assert "9000000000000000 s after 1970" in shown(world, "t1")["why"]


# --- Why --------------------------------------------------------------------------------------------------------------


def idle(world: World) -> None:
    world.event("transaction_open", "t1")
    world.event("step_open", "t1", "ship")
    world.wait(400)


def overdue(world: World) -> None:
    world.event("transaction_open", "t1")
    for _ in range(18):
        world.wait(201)
        world.event("step_open", "t1", "ship")
    world.wait(1)


def undecided(world: World) -> None:
    world.event("transaction_open", "other")
    world.event("transaction_open", "t1")
    world.event("transaction_close", "t1")
    world.wait(100)


def commit_pending(world: World) -> None:
    world.event("transaction_open", "t1")
    world.commit()
    world.event("transaction_close", "t1")
    world.wait(100)


def never_committed(world: World) -> None:
    world.event("transaction_open", "t1")
    world.commit()
    world.event("transaction_close", "t1")
    world.abort()
    world.wait(100)


def still_open(world: World) -> None:
    world.event("transaction_open", "t1")


def aborted_for_now(world: World) -> None:
    world.event("transaction_open", "t1")
    world.abort()


def close_aborted_for_now(world: World) -> None:
    world.event("transaction_open", "t1")
    world.commit()
    world.event("transaction_close", "t1")
    world.abort()


def aborted(world: World) -> None:
    aborted_for_now(world)
    world.wait(100)


def unseen(world: World) -> None:
    world.event("transaction_open", "t1")
    world.commit()
    world.event("transaction_close", "t1")
    world.lose()


def unseen_and_settled(world: World) -> None:
    unseen(world)
    world.wait(100)


def partial(world: World) -> None:
    world.event("step_done", "t1", "ship")


def replayed(world: World) -> None:
    world.event("transaction_open", "t1", kept_time=True)


@pytest.mark.parametrize(
    ("story", "why"),
    [
        (
            idle,
            "Stuck since 2025-06-15 15:11:40 UTC: no event came for longer than idle_after_s (300 s) since "
            f"step_open 'ship' {OFFSET} 1 ({BEGUN}), and no close was seen.",
        ),
        (
            overdue,
            "Stuck since 2025-06-15 16:06:40 UTC: open for longer than overdue_after_s (3600 s) since "
            f"transaction_open {OFFSET} 0 ({BEGUN}); the last event is step_open 'ship' {OFFSET} 18 "
            "(2025-06-15 16:06:58 UTC).",
        ),
        (
            undecided,
            f"Stuck since 2025-06-15 15:07:40 UTC: its close {OFFSET} 2 was written {BEGUN}, but neither "
            "committed nor aborted, since a Kafka transaction that began before it in this partition is "
            "still open and holds the last stable offset at 0.",
        ),
        (
            commit_pending,
            f"Stuck since 2025-06-15 15:07:40 UTC: its close {OFFSET} 2 was written {BEGUN}, but not "
            "committed, and it lies at the last stable offset, so its own producer's Kafka transaction is "
            "the one that is still open.",
        ),
        (
            never_committed,
            f"Stuck since 2025-06-15 15:07:40 UTC: its close {OFFSET} 2 was aborted (found {BEGUN}), and "
            f"no retry came; 1 of its 2 events stand, the last is transaction_open {OFFSET} 0 "
            f"({BEGUN}).",
        ),
        (
            still_open,
            f"Open: no close stands; the last event is transaction_open {OFFSET} 0 ({BEGUN}).",
        ),
        (
            aborted_for_now,
            f"Aborted: none of its events was committed, the last is transaction_open {OFFSET} 0 ({BEGUN}); "
            "it settles unless it is retried.",
        ),
        (
            close_aborted_for_now,
            f"Aborted: its close {OFFSET} 2 was aborted (found {BEGUN}), and no retry came so far; "
            f"1 of its 2 events stand, the last is transaction_open {OFFSET} 0 ({BEGUN}).",
        ),
        (
            aborted,
            f"Aborted: all its events were aborted, the last is transaction_open {OFFSET} 0 ({BEGUN}); "
            "settled 2025-06-15 15:08:20 UTC.",
        ),
        (
            unseen,
            f"Unknown: it could not be seen whether its close {OFFSET} 2 was committed; it settles as unknown.",
        ),
        (
            unseen_and_settled,
            f"Unknown: it could not be seen whether its close {OFFSET} 2 was committed; "
            "settled 2025-06-15 15:08:20 UTC.",
        ),
        (
            partial,
            f"Open: no close stands; the last event is step_done 'ship' {OFFSET} 0 ({BEGUN}); its beginning "
            "was not seen, so it has no duration and never becomes stuck.",
        ),
        (
            replayed,
            f"Open: no close stands; the last event is transaction_open {OFFSET} 0 ({BEGUN}); it was replayed "
            "with its original time, so it has no age and never becomes stuck.",
        ),
    ],
)
def test_why_in_one_sentence(story: Any, why: str) -> None:
    world = World()
    story(world)
    assert shown(world, "t1")["why"] == why


# --- The rest ---------------------------------------------------------------------------------------------------------


def test_partitions_name_their_oldest_undecided_record() -> None:
    world = World(topics={"orders": 1, "refunds": 1})
    world.event("transaction_open", "t1")
    world.commit()
    world.event("step_open", "t1", "pay")
    world.event("transaction_close", "t1")
    world.wait(5)
    orders, refunds = ask(world, "/api/v1/partitions").json
    assert orders == {
        "topic": "orders",
        "partition": 0,
        "monitor_offset": 4,
        "validator_offset": 2,
        "undecided_records": 2,
        "oldest_undecided": {
            "offset": 2,
            "txn_id": "t1",
            "kind": "step_open",
            "step": "pay",
            "record_timestamp": BEGIN,
        },
        "monitor_as_of": BEGIN + 5,
        "validator_as_of": BEGIN + 5,
    }
    assert (refunds["topic"], refunds["undecided_records"], refunds["oldest_undecided"]) == ("refunds", 0, None)


def test_what_was_never_seen_is_null() -> None:
    (partition,) = ask(World(), "/api/v1/partitions").json
    assert (partition["monitor_as_of"], partition["validator_as_of"]) == (None, None)


def test_a_late_event_without_verdict_has_no_details() -> None:
    world = World()
    world.whole("t1")
    world.wait(10)
    offset = world.event("step_done", "t1", "ship")
    (partition,) = ask(world, "/api/v1/partitions").json
    nothing = {"kind": None, "step": None, "record_timestamp": None}
    assert partition["oldest_undecided"] == {"offset": offset, "txn_id": "t1", **nothing}


def test_readiness_says_what_is_missing() -> None:
    world = World()
    answer = ask(world, "/readyz")
    assert (answer.status, answer.json) == (200, {"ready": True, "missing": [], "notes": []})
    world.lacking = ["the topic orders was not found", "validator-0 has not caught up yet"]
    answer = ask(world, "/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "missing": world.lacking, "notes": []})


def test_a_note_does_not_make_it_unready() -> None:
    world = World()
    world.noted = ["log lines were dropped in the last minute"]
    answer = ask(world, "/readyz")
    assert (answer.status, answer.json) == (200, {"ready": True, "missing": [], "notes": world.noted})


def test_health_and_index() -> None:
    world = World()
    world.time += 12.5
    assert ask(world, "/healthz").json == {"alive": True, "up_s": 12.5}
    index = ask(world, "/").json
    assert index["name"] == "txninsightd"
    assert LISTING in index["routes"]


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/transactions/", "/api/v2/transactions"])
def test_what_is_not_there_is_told_as_json(path: str) -> None:
    answer = ask(World(), path)
    assert answer.status == 404
    assert path in answer.json["error"]
    assert LISTING in answer.json["routes"]


def test_nothing_can_be_changed() -> None:
    answer = ask(World(), LISTING, method="DELETE")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert answer.json["error"] == f"{LISTING} answers GET, HEAD only"


def test_a_failure_inside_is_told_and_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    monkeypatch.setattr(world, "missing", lambda: 1 / 0)
    answer = ask(world, "/readyz")
    assert answer.status == 500
    assert "see its log" in answer.json["error"]
    logged = capsys.readouterr().out
    assert "http_request_failed" in logged
    assert "ZeroDivisionError" in logged


def test_a_taken_port_is_named() -> None:
    async def main() -> None:
        first, second = (HttpServer(World(), World().config) for _ in range(2))
        port = await first.start("127.0.0.1", 0)
        try:
            with pytest.raises(ListenError, match=f"another program uses port {port}.*http.listen"):
                await second.start("127.0.0.1", port)
        finally:
            await first.stop()
        await second.stop()

    uvloop.run(main())


def test_an_address_that_is_not_ours_is_named() -> None:
    async def main() -> None:
        with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:9840: .*; set http.listen to an address"):
            await HttpServer(World(), World().config).start("192.0.2.1", 9840)

    uvloop.run(main())


def test_a_stopped_server_answers_no_more_and_leaves_its_port() -> None:
    async def main() -> None:
        world = World()
        server = HttpServer(world, world.config)
        port = await server.start("127.0.0.1", 0)
        await server.stop()
        successor = HttpServer(world, world.config)
        assert await successor.start("127.0.0.1", port) == port
        await successor.stop()

    uvloop.run(main())
